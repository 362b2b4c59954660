//! The taps of traced QEMUs, and what guests send through them.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::EventHeader;
use super::shared_values::shared_values;

/// How many taps can be watched.
pub const GUEST_PORTS_MAX: usize = 1024;

/// How many taps of one process can be watched.
pub const TAPS: usize = 32;

/// The taps of a process.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct GuestTaps {
    /// Interface indices; the first 0 ends the list.
    pub interfaces: [u32; TAPS],
}

/// The frame by which the network learns where the guest is: values of [`GuestPortEvent::announcement`].
pub mod announcement {
    /// Not an announcement.
    pub const NONE: u32 = 0;
    /// A RARP request for the guest's own address, which QEMU sends.
    pub const RARP: u32 = 1;
    /// A gratuitous ARP.
    pub const GRATUITOUS_ARP: u32 = 2;
    /// An unsolicited neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u32 = 3;
}

/// Something came from a guest through its tap.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct GuestPortEvent {
    /// When.
    pub header: EventHeader,
    /// The tap.
    pub ifindex: u32,
    /// One of [`announcement`].
    pub announcement: u32,
}

shared_values! {
    /// The state of a tap. User space writes its first value, then only programs write to it.
    pub struct GuestPort {
        /// Frames from the guest, except those by which QEMU announces it.
        pub frames: U64,
        /// When the last of them came.
        pub last_frame_ns: U64,
        /// Announcements of the guest's place in the network, by QEMU and by the guest.
        pub announcements: U64,
        /// The budget for the announcements that are emitted: see [`ANNOUNCEMENTS`](crate::budget::ANNOUNCEMENTS).
        pub announcements_full_ns: U64,
        /// 1 while the next frame is awaited.
        pub awaited: U32,
        /// Zero.
        pub padding: U32,
    }
}
