//! The bytes of a socket buffer, and what the kernel knows of it besides.

use core::arch::asm;

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use migtrace_ebpf::packet::{Frame, Ip, Metadata};

use super::maps::IP;

/// A socket buffer's linear part, read where it lies.
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

/// Loads as few words as make up `N` bytes. The compiler knows no load of a word that may not be aligned, and would load
/// byte by byte; the kernels on which VMs run have one.
///
/// # Safety
/// There are `N` bytes at `start`.
#[inline(always)]
unsafe fn load<const N: usize>(start: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    macro_rules! words {
        ($word:ty, $instruction:literal) => {
            while N - at >= size_of::<$word>() {
                let word: $word;
                // SAFETY: the caller's promise: these bytes are among the `N`.
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

/// All of a socket buffer, copied out. Never pulled into the linear part: that would reallocate the packet.
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
        // SAFETY: `place` has room for an `Ip`, and nothing that could use it runs between this and the next.
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
