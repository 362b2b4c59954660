//! The TCP ports used by migrations.

use std::fmt;
use std::str::FromStr;

use migtrace_ebpf::abi::{self, PORT_RANGES};

use crate::terminal;

/// Up to eight inclusive ranges of TCP ports, written `49152-49215,16514`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortRanges(Vec<(u16, u16)>);

impl Default for PortRanges {
    /// libvirt's range (`migration_port_min` and `_max` in qemu.conf); memory and disk copies share it.
    fn default() -> Self {
        Self(vec![(49152, 49215)])
    }
}

impl PortRanges {
    /// Whether a port is in one of the ranges.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// In the form that the kernel programs use.
    pub(crate) fn packed(&self) -> [u32; PORT_RANGES] {
        let mut packed = [0; PORT_RANGES];
        for (slot, (first, last)) in packed.iter_mut().zip(&self.0) {
            *slot = abi::port_range(*first, *last);
        }
        packed
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Why a text is not a list of port ranges.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortsError {
    /// There is no port in it.
    #[error("no port is given; write ports and ranges like 49152-49215,16514")]
    Empty,
    /// A part of it is neither a port nor a range.
    #[error("`{}` is neither a TCP port (1-65535) nor a range like 49152-49215", terminal::clean(.0))]
    NotAPort(String),
    /// A range ends before it begins.
    #[error("the range {0}-{1} is empty: its first port is above its last")]
    Backwards(u16, u16),
    /// There are more ranges than the kernel programs can hold.
    #[error("{0} ranges are given, but at most {PORT_RANGES} can be watched; join adjacent ranges")]
    TooMany(usize),
}

impl FromStr for PortRanges {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let port = |text: &str| {
            let not_a_port = || PortsError::NotAPort(text.trim().to_owned());
            text.trim().parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(not_a_port)
        };
        let mut ranges = Vec::new();
        for piece in text.split(',').filter(|piece| !piece.trim().is_empty()) {
            let (first, last) = match piece.split_once('-') {
                Some((first, last)) => (port(first)?, port(last)?),
                None => (port(piece)?, port(piece)?),
            };
            if first > last {
                return Err(PortsError::Backwards(first, last));
            }
            ranges.push((first, last));
        }
        match ranges.len() {
            0 => Err(PortsError::Empty),
            1..=PORT_RANGES => Ok(Self(ranges)),
            many => Err(PortsError::TooMany(many)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_they_are_written() {
        let ports: PortRanges = "49152-49215, 16514".parse().unwrap();
        assert_eq!(ports.to_string(), "49152-49215,16514");
        assert!(ports.contains(49152) && ports.contains(49215) && ports.contains(16514));
        assert!(!ports.contains(49151) && !ports.contains(49216));
        assert_eq!(ports.packed()[..3], [abi::port_range(49152, 49215), abi::port_range(16514, 16514), 0]);
    }

    #[test]
    fn a_text_that_is_not_a_range_is_refused_with_the_reason() {
        let error = |text: &str| text.parse::<PortRanges>().unwrap_err();
        assert_eq!(error(""), PortsError::Empty);
        assert_eq!(error("49215-49152"), PortsError::Backwards(49215, 49152));
        assert_eq!(error("ssh"), PortsError::NotAPort("ssh".into()));
        assert_eq!(error("70000"), PortsError::NotAPort("70000".into()));
        assert_eq!(error("0"), PortsError::NotAPort("0".into()));
        assert_eq!(error("1,2,3,4,5,6,7,8,9"), PortsError::TooMany(9));
    }
}
