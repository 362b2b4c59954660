//! The tunnels that the programs can look into.

use std::str::FromStr;

use migtrace_ebpf::packet::encapsulation;

/// A tunnel whose packets may carry a migration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Tunnel {
    /// VXLAN (RFC 7348).
    Vxlan,
    /// Geneve (RFC 8926).
    Geneve,
}

impl Tunnel {
    /// Every tunnel.
    pub const ALL: [Self; 2] = [Self::Vxlan, Self::Geneve];

    /// The tunnel's name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }

    /// The tunnel as the programs know it.
    const fn bit(self) -> u32 {
        match self {
            Self::Vxlan => encapsulation::VXLAN,
            Self::Geneve => encapsulation::GENEVE,
        }
    }
}

/// The name is that of no tunnel.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("migtrace cannot look into `{0}` tunnels, only into those of {known}", known = names())]
pub struct UnknownTunnel(String);

/// All tunnels, to be read in a sentence.
fn names() -> String {
    Tunnel::ALL.map(Tunnel::name).join(" or ")
}

impl FromStr for Tunnel {
    type Err = UnknownTunnel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|tunnel| tunnel.name() == name);
        found.ok_or_else(|| UnknownTunnel(name.to_owned()))
    }
}

/// A set of tunnels as the programs take it.
pub(super) fn bits(tunnels: &[Tunnel]) -> u32 {
    tunnels.iter().fold(encapsulation::NONE, |bits, tunnel| bits | tunnel.bit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tunnel_has_a_name_and_a_bit_of_its_own() {
        for tunnel in Tunnel::ALL {
            assert_eq!(tunnel.name().parse(), Ok(tunnel));
        }
        assert_eq!(bits(&Tunnel::ALL).count_ones() as usize, Tunnel::ALL.len());
        let error = "gre".parse::<Tunnel>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "migtrace cannot look into `gre` tunnels, only into those of vxlan or geneve"
        );
    }
}
