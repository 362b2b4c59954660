//! What the programs are asked to do.

use super::{AttachChoice, Tunnel};
use crate::ports::PortRanges;

/// What the kernel programs are to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// TCP ports to watch.
    pub ports: PortRanges,
    /// Tunnels to look into.
    pub tunnels: Vec<Tunnel>,
    /// How many connections can be counted at once.
    pub flow_capacity: u32,
    /// How to attach the TC programs.
    pub attach: AttachChoice,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ports: PortRanges::default(),
            tunnels: Vec::new(),
            flow_capacity: 4096,
            attach: AttachChoice::Auto,
        }
    }
}

impl Settings {
    /// Sets the TCP ports to watch.
    #[must_use]
    pub fn ports(mut self, ports: PortRanges) -> Self {
        self.ports = ports;
        self
    }

    /// Sets the tunnels to look into.
    #[must_use]
    pub fn tunnels(mut self, tunnels: impl Into<Vec<Tunnel>>) -> Self {
        self.tunnels = tunnels.into();
        self
    }

    /// Sets how many connections can be counted at once.
    #[must_use]
    pub fn flow_capacity(mut self, connections: u32) -> Self {
        self.flow_capacity = connections;
        self
    }

    /// Sets how to attach the TC programs.
    #[must_use]
    pub fn attach(mut self, choice: AttachChoice) -> Self {
        self.attach = choice;
        self
    }
}
