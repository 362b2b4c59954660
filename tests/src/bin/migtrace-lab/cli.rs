//! The command line of `migtrace-lab`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use migtrace_lab::{Builder, Lab, Migration};
use std::ffi::OsString;
use std::net::IpAddr;

/// Play with live migrations on one machine: two hosts and an observer in network namespaces, a guest, two QEMUs.
#[derive(Debug, Parser)]
#[command(name = "migtrace-lab", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a lab that stays up, and boot its guest
    Up {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        lab: LabOptions,
    },
    /// Migrate the guest to the other host, and the next time back
    Migrate {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        migration: MigrationOptions,
    },
    /// Run a command on a host: with the host's network, and everything else of this machine
    Exec {
        #[command(flatten)]
        name: Name,
        /// The host
        host: HostName,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Run a command line in a shell on a host, as ssh does: for `migtrace record --rsh`
    Rsh {
        #[command(flatten)]
        name: Name,
        /// The host
        host: HostName,
        /// The command line; commands beside this one are found without a path
        command_line: OsString,
    },
    /// Run a command line in a shell in a virtual machine of a lab, as ssh does: for `migtrace record --rsh`
    #[command(hide = true)]
    VmRsh {
        /// Where the virtual machine takes orders
        address: IpAddr,
        /// What the recording calls it
        host: OsString,
        /// The command line
        command_line: String,
    },
    /// Take the lab's orders in a virtual machine
    #[command(hide = true)]
    Agent,
    /// List the existing labs
    List,
    /// Remove a lab, or what a killed one left behind
    Down {
        #[command(flatten)]
        name: Name,
        /// Remove all labs, including those of running tests
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Start a lab, migrate its guest once, and remove the lab
    Run {
        /// The lab's name; the guest is called guest-NAME [default: a new name]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        lab: LabOptions,
        #[command(flatten)]
        migration: MigrationOptions,
        /// Begin the migration when the command has written a line with this text to standard error
        #[arg(long, value_name = "TEXT", requires = "command")]
        ready_line: Option<String>,
        /// A command to start on the source host before the migration and to wait for after it. Its environment has LAB_GUEST
        /// (the guest's name), LAB_GUEST_ADDRESS, LAB_QMP (the socket of a monitor of the source that no client uses), and
        /// LAB_RSH (how `migtrace record --rsh` reaches the other hosts: dst, observer)
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The lab's name
    #[arg(long, default_value = "lab")]
    pub(crate) name: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum HostName {
    /// The host on which the guest boots
    Src,
    /// The destination of the first migration
    Dst,
    /// A third host, without a guest
    Observer,
    /// The switch that joins them; has no address
    Switch,
}

#[derive(Debug, Args)]
pub(crate) struct LabOptions {
    /// Memory of the guest
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u64,
    /// vCPUs of the guest
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u32,
    /// How much of its memory the guest dirties
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    dirty: u64,
    /// How fast the guest dirties memory
    #[arg(long, value_name = "MIB/S", default_value_t = 20)]
    dirty_rate: u64,
    /// Give the guest a disk, which migrations copy
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    disk: u64,
    /// Limit the rate at which each host can send, as tc writes it: 400mbit
    #[arg(long)]
    rate: Option<String>,
    /// MTU between the hosts
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    mtu: u32,
    /// Drop this many of 1000 TCP packets
    #[arg(long, value_name = "PER MILLE", default_value_t = 0)]
    pub(crate) drop: u32,
    /// QEMU's accelerator for the guest
    #[arg(long, default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accel: String,
    /// Series of the guest's Debian kernel
    #[arg(long, value_name = "SERIES", default_value = "6.1")]
    kernel: String,
}

impl LabOptions {
    pub(crate) fn builder(&self) -> Builder {
        let builder = Lab::builder()
            .memory_mib(self.memory)
            .vcpus(self.vcpus)
            .dirty(self.dirty, self.dirty_rate)
            .disk_mib(self.disk)
            .mtu(self.mtu)
            .accelerator(&self.accel)
            .kernel(&self.kernel);
        match &self.rate {
            Some(rate) => builder.rate(rate),
            None => builder,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct MigrationOptions {
    /// Send memory over this many multifd channels
    #[arg(long, value_name = "CHANNELS")]
    multifd: Option<u8>,
    /// Switch to postcopy in the second pass
    #[arg(long)]
    postcopy: bool,
    /// Send the pages that the guest waits for over a channel of their own
    #[arg(long, requires = "postcopy")]
    preempt: bool,
    /// Migrate over IPv6
    #[arg(long)]
    ipv6: bool,
    /// Migrate as libvirt does: return path, a pause before the switchover, `cont` on the destination
    #[arg(long)]
    like_libvirt: bool,
    /// Turn off QEMU's events about the migration
    #[arg(long)]
    no_events: bool,
    /// The longest stop that QEMU aims for
    #[arg(long, value_name = "MS", default_value_t = 300)]
    downtime_limit: u64,
}

impl MigrationOptions {
    pub(crate) fn migration(&self) -> Migration {
        let base = if self.like_libvirt { Migration::like_libvirt() } else { Migration::default() };
        Migration {
            events: !self.no_events,
            multifd: self.multifd,
            // In postcopy, the destination requests pages on the return path.
            return_path: base.return_path || self.postcopy,
            postcopy_at_pass: self.postcopy.then_some(2),
            postcopy_preempt: self.preempt,
            ipv6: self.ipv6,
            downtime_limit_ms: self.downtime_limit,
            keep_source: true,
            ..base
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
