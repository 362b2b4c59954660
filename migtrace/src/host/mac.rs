//! An Ethernet address.

use std::fmt;
use std::str::FromStr;

/// A MAC: the address of a network interface on its own network.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not a MAC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NoMac;

/// As QEMU reads it (`set_mac` in hw/core/qdev-properties-system.c): upper or lower case, joined by `:` or `-`.
impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().ok_or(NoMac)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NoMac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| NoMac)?;
        }
        if parts.next().is_some() { Err(NoMac) } else { Ok(Self(mac)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_read_as_qemu_reads_it_and_written_in_one_way() {
        for text in ["52:54:00:4b:73:0f", "52:54:00:4B:73:0F", "52-54-00-4b-73-0f", "52:54:0:4b:73:f"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), "52:54:00:4b:73:0f", "{text}");
        }
        for text in
            ["", "52:54:00:4b:73", "52:54:00:4b:73:0f:01", "52:54:00:4b:73:", "52:54:00:4b:73:+f", "123"]
        {
            assert_eq!(text.parse::<Mac>(), Err(NoMac), "{text}");
        }
    }
}
