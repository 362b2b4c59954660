//! A word of a value in a map, which several CPUs and user space read and write at once.

use core::cell::UnsafeCell;
#[cfg(target_arch = "bpf")]
use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// A word in memory that others read and write too: every access is one to the whole word.
///
/// The kernel programs' target has no atomic types of 32 bits, and addition is its only atomic operation.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word<T>(UnsafeCell<T>);

// SAFETY: an aligned word is read, written and added to as a whole.
unsafe impl<T: Copy + Send> Sync for Word<T> {}

/// One word, or several.
pub trait Words {
    /// The same as integers that nobody else reads or writes.
    type Copied;

    /// Copies one word after the other. Others may write meanwhile.
    fn load(&self) -> Self::Copied;

    /// Writes one word after the other.
    fn store(&self, value: &Self::Copied);
}

impl<T: Words, const N: usize> Words for [T; N] {
    type Copied = [T::Copied; N];

    #[inline(always)]
    fn load(&self) -> Self::Copied {
        core::array::from_fn(|index| self[index].load())
    }

    #[inline(always)]
    fn store(&self, value: &Self::Copied) {
        for (word, value) in self.iter().zip(value) {
            word.store(value);
        }
    }
}

macro_rules! word {
    ($type:ty, $atomic:ident) => {
        impl Word<$type> {
            /// Its value.
            #[inline(always)]
            pub fn get(&self) -> $type {
                #[cfg(target_arch = "bpf")]
                // SAFETY: the word is valid for as long as it is borrowed.
                return unsafe { self.0.get().read_volatile() };
                #[cfg(not(target_arch = "bpf"))]
                self.atomic().load(core::sync::atomic::Ordering::Relaxed)
            }

            /// Writes a value.
            #[inline(always)]
            pub fn set(&self, value: $type) {
                #[cfg(target_arch = "bpf")]
                // SAFETY: the word is valid for as long as it is borrowed.
                unsafe {
                    self.0.get().write_volatile(value);
                }
                #[cfg(not(target_arch = "bpf"))]
                self.atomic().store(value, core::sync::atomic::Ordering::Relaxed);
            }

            /// Adds to it, wrapping. What another CPU adds at the same time is not lost.
            #[inline(always)]
            pub fn add(&self, value: $type) {
                #[cfg(target_arch = "bpf")]
                // SAFETY: the word is valid for as long as it is borrowed.
                unsafe {
                    atomic_xadd::<$type, $type, { AtomicOrdering::Relaxed }>(self.0.get(), value);
                }
                #[cfg(not(target_arch = "bpf"))]
                self.atomic().fetch_add(value, core::sync::atomic::Ordering::Relaxed);
            }

            /// Adds to it, wrapping, where nobody else writes. What another CPU adds at the same time may be lost.
            #[inline(always)]
            pub fn count(&self, value: $type) {
                self.set(self.get().wrapping_add(value));
            }

            /// Raises it to this value if it is smaller, where nobody else writes.
            #[inline(always)]
            pub fn raise(&self, value: $type) {
                self.set(self.get().max(value));
            }

            #[cfg(not(target_arch = "bpf"))]
            const fn atomic(&self) -> &core::sync::atomic::$atomic {
                // SAFETY: the word is valid and aligned for as long as it is borrowed, and every access is atomic.
                unsafe { core::sync::atomic::$atomic::from_ptr(self.0.get()) }
            }
        }

        impl Words for Word<$type> {
            type Copied = $type;

            #[inline(always)]
            fn load(&self) -> $type {
                self.get()
            }

            #[inline(always)]
            fn store(&self, value: &$type) {
                self.set(*value);
            }
        }
    };
}

word!(u32, AtomicU32);
word!(u64, AtomicU64);
