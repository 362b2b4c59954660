//! A packet's bytes, and what the kernel knows about it besides.

use core::arch::asm;

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use migtrace_ebpf::packet::{Frame, Ip, Metadata};

use super::maps::IP;

/// The linear part of a socket buffer, read by direct packet access.
pub(crate) struct Linear<'a>(pub(crate) &'a TcContext);

impl Frame for Linear<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = self.0.data() + offset as usize;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: the verifier holds us to the comparison above.
        Some(unsafe { load(start) })
    }

    #[inline(always)]
    fn metadata(&self) -> Metadata {
        metadata(self.0)
    }
}

/// Loads `N` bytes as few large words. The compiler has no load for unaligned words on this target and would load
/// byte by byte; the CPUs on which VMs run do have one.
///
/// # Safety
/// `N` bytes at `start` must be readable.
#[inline(always)]
unsafe fn load<const N: usize>(start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    macro_rules! words {
        ($word:ty, $instruction:literal) => {
            while N - at >= size_of::<$word>() {
                let word: $word;
                // SAFETY: these bytes are among the `N` that the caller promises.
                unsafe {
                    asm!($instruction, word = lateout(reg) word, from = in(reg) start + at, options(pure, readonly, nostack));
                }
                bytes[at..at + size_of::<$word>()].copy_from_slice(&word.to_ne_bytes());
                at += size_of::<$word>();
            }
        };
    }
    words!(u64, "{word} = *(u64 *)({from} + 0)");
    words!(u32, "{word} = *(u32 *)({from} + 0)");
    words!(u16, "{word} = *(u16 *)({from} + 0)");
    words!(u8, "{word} = *(u8 *)({from} + 0)");
    bytes
}

/// All of a socket buffer, copied piece by piece. It is never pulled into the linear part: that would reallocate the
/// packet.
pub(crate) struct Whole<'a>(pub(crate) &'a TcContext);

impl Frame for Whole<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(offset as usize).ok()
    }

    #[inline(always)]
    fn metadata(&self) -> Metadata {
        metadata(self.0)
    }

    #[inline(always)]
    fn forget_the_way(&self, ip: Ip) -> Option<Ip> {
        const { assert!(align_of::<Ip>() <= align_of::<u32>()) };
        let place = IP.get_ptr_mut(0)?.cast::<Ip>();
        // SAFETY: `place` has room for an `Ip`, and nothing else uses it on this CPU until the read below.
        unsafe { place.write_volatile(ip) };
        // SAFETY: as above, and an `Ip` has just been written there.
        Some(unsafe { place.read_volatile() })
    }
}

#[inline(always)]
fn metadata(ctx: &TcContext) -> Metadata {
    let skb: *const __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context, and these fields may be read in every TC program.
    unsafe { Metadata { length: (*skb).len, gso_size: (*skb).gso_size, vlan_present: (*skb).vlan_present } }
}

/// The index of the interface at which the packet is seen.
#[inline(always)]
pub(super) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel passes a valid context, and this field may be read in every TC program.
    unsafe { (*ctx.skb.skb).ifindex }
}
