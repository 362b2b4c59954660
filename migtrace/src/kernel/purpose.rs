//! What a connection carries.

use migtrace_ebpf::beginning::Beginning;

use crate::vocabulary::Purpose;

/// What the first four bytes of payload say about a flow; `None` when they say nothing.
pub(crate) const fn purpose(first_bytes: u32) -> Option<Purpose> {
    match Beginning::of(first_bytes) {
        Some(Beginning::Memory) => Some(Purpose::Ram),
        Some(Beginning::Channel) => Some(Purpose::Multifd),
        Some(Beginning::Nbd) => Some(Purpose::Nbd),
        Some(Beginning::Tls) => Some(Purpose::Tls),
        None => None,
    }
}

/// With this much payload from the listener, its share shows what the connection is.
const MANY_BYTES: u64 = 16 << 20;

/// Whether these numbers of payload bytes, from and to the end that listens on the watched port, show
/// something other than a migration. In a migration little comes back: at most a bit for each page, when a
/// post-copy migration is recovered.
pub(crate) const fn is_other(from_listener: u64, to_listener: u64) -> bool {
    from_listener >= MANY_BYTES && from_listener >= to_listener / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_of_a_flow_show_its_purpose() {
        assert_eq!(purpose(u32::from_be_bytes(*b"QEVM")), Some(Purpose::Ram));
        assert_eq!(purpose(0x1122_3344), Some(Purpose::Multifd));
        assert_eq!(purpose(u32::from_be_bytes(*b"NBDM")), Some(Purpose::Nbd));
        assert_eq!(purpose(u32::from_be_bytes(*b"IHAV")), Some(Purpose::Nbd));
        assert_eq!(purpose(0x1603_0100), Some(Purpose::Tls));
        assert_eq!(purpose(0), None);
    }
}
