//! The lab's settings for its guest, from the kernel command line.

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The guest's part of the kernel command line.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Config {
    /// Address and prefix length of `eth0`.
    pub(crate) ip: Option<(Ipv4Addr, u8)>,
    /// Address and prefix length of `eth0`.
    pub(crate) ip6: Option<(Ipv6Addr, u8)>,
    pub(crate) gateway: Option<Ipv4Addr>,
    /// The NICs. All are brought up.
    pub(crate) nics: u8,
    pub(crate) dirty_mib: usize,
    pub(crate) dirty_mib_per_s: u64,
}

impl Config {
    pub(crate) fn from_command_line(line: &str) -> Result<Self, Box<dyn Error>> {
        let mut config = Self::default();
        for word in line.split_whitespace() {
            let Some((key, value)) = word.strip_prefix("lab.").and_then(|word| word.split_once('=')) else {
                continue;
            };
            let bad = || format!("cannot understand `{word}` on the kernel command line");
            match key {
                "ip" => config.ip = Some(address(value).ok_or_else(bad)?),
                "ip6" => config.ip6 = Some(address(value).ok_or_else(bad)?),
                "gateway" => config.gateway = Some(value.parse().map_err(|_| bad())?),
                "nics" => config.nics = value.parse().map_err(|_| bad())?,
                "dirty_mib" => config.dirty_mib = value.parse().map_err(|_| bad())?,
                "dirty_mib_per_s" => config.dirty_mib_per_s = value.parse().map_err(|_| bad())?,
                _ => return Err(bad().into()),
            }
        }
        Ok(config)
    }
}

fn address<A: FromStr>(value: &str) -> Option<(A, u8)> {
    let (address, prefix) = value.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_with_the_prefix_lab_are_read() {
        let line = "console=ttyS0 ip=dhcp lab.ip=10.77.0.10/24 lab.ip6=fd77::10/64 lab.dirty_mib=64 quiet\n";
        let config = Config::from_command_line(line).unwrap();
        assert_eq!(config.ip, Some((Ipv4Addr::new(10, 77, 0, 10), 24)));
        assert_eq!(config.ip6, Some(("fd77::10".parse().unwrap(), 64)));
        assert_eq!((config.gateway, config.dirty_mib, config.dirty_mib_per_s), (None, 64, 0));
    }

    #[test]
    fn words_that_cannot_be_understood_are_refused() {
        for line in ["lab.ip=10.77.0.10", "lab.dirty_mib=many", "lab.speed=1"] {
            let error = Config::from_command_line(line).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }
}
