//! IP addresses as the programs write them: 16 bytes in network order, IPv4 mapped into IPv6.

use std::net::{IpAddr, Ipv6Addr};

/// An address as the programs write it.
pub(super) fn words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

/// An address that the programs wrote.
pub(super) fn address(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was() {
        for text in ["10.0.0.1", "fd00::2"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(words(ip)), ip);
        }
    }
}
