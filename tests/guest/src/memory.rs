//! Dirties memory at a steady rate.

use std::hint::black_box;
use std::time::{Duration, Instant};

const PAGE_BYTES: usize = 4096;
const PAGES_PER_MIB: u64 = 256;
/// Short enough for a steady rate within a pass of QEMU's dirty log, long enough for the guest to sleep.
const TICK: Duration = Duration::from_millis(10);

/// One page as 64-bit words.
type Page = [u64; PAGE_BYTES / 8];

/// Memory in which no page is zero or compressible.
pub(crate) struct Memory {
    pages: Vec<Page>,
}

impl Memory {
    /// Allocates and fills `mib` MiB.
    pub(crate) fn filled(mib: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut pages = vec![[0; PAGE_BYTES / 8]; mib * PAGES_PER_MIB as usize];
        for word in pages.as_flattened_mut() {
            // xorshift64: its period is so long that QEMU finds neither zero pages nor anything to compress.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state;
        }
        Self { pages }
    }

    /// Writes to one page after another, again and again, `mib_per_s` MiB of pages per second.
    pub(crate) fn dirty_for_ever(mut self, mib_per_s: u64) -> ! {
        let pages_per_s = mib_per_s * PAGES_PER_MIB;
        if pages_per_s == 0 || self.pages.is_empty() {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        let mut next = 0;
        let mut last = Instant::now();
        let mut owed_page_ns = 0;
        loop {
            std::thread::sleep(TICK);
            let now = Instant::now();
            // A guest that was stopped does not catch up afterwards, so that the rate stays steady.
            let elapsed = now.duration_since(last).min(10 * TICK);
            last = now;
            owed_page_ns += elapsed.as_nanos() as u64 * pages_per_s;
            for _ in 0..owed_page_ns / 1_000_000_000 {
                let page = &mut self.pages[next];
                page[0] = page[0].wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                next = (next + 1) % self.pages.len();
            }
            owed_page_ns %= 1_000_000_000;
            black_box(&self.pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_is_zero_or_equal_to_another() {
        let memory = Memory::filled(2);
        let distinct: std::collections::HashSet<&Page> = memory.pages.iter().collect();
        assert_eq!(distinct.len(), 512);
        assert!(!distinct.contains(&[0; PAGE_BYTES / 8]));
    }
}
