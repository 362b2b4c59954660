//! The command line of `migtrace-lab`.

use crate::load::{Load, Rate};
use clap::{Args, Parser, Subcommand, ValueEnum};
use migtrace_lab::{Builder, Convergence, Lab, Migration, QemuChoice};
use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

/// By how much QEMU slows a guest down at first. This is QEMU's default, and so libvirt's.
const AUTO_CONVERGE_PERCENT: u8 = 20;

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
        /// Return as soon as the migration is over; the next one, or `down`, ends the source's QEMU
        #[arg(long)]
        leave_source: bool,
    },
    /// Make a migration end that another process drives
    Converge {
        #[command(flatten)]
        name: Name,
        /// How
        #[arg(long)]
        action: ConvergeAction,
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
    /// Be a load of the lab, and write a line once it has begun
    #[command(hide = true)]
    Load {
        #[command(subcommand)]
        load: Load,
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
        /// If there is no such lab, that is no error
        #[arg(long)]
        if_exists: bool,
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

/// How a migration is made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConvergeBy {
    /// QEMU slows the guest down from the beginning
    AutoConverge,
    /// The guest moves as soon as its disk has been copied, and its memory follows
    Postcopy,
    /// The guest stands still until it has moved
    Suspend,
    /// The migration is given up
    Abort,
}

/// What can be done with a migration that runs.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ConvergeAction {
    /// The guest moves as soon as its disk has been copied, and its memory follows; needs `migrate --converge-by postcopy`
    Postcopy,
    /// The guest stands still until it has moved
    Suspend,
    /// The migration is given up
    Abort,
}

impl From<ConvergeAction> for Convergence {
    fn from(action: ConvergeAction) -> Self {
        match action {
            ConvergeAction::Postcopy => Self::Postcopy,
            ConvergeAction::Suspend => Self::Suspend,
            ConvergeAction::Abort => Self::Abort,
        }
    }
}

/// Where the guest's disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Storage {
    /// Each host has its own, and a migration copies the disk
    Block,
    /// Both hosts reach it
    Shared,
}

/// Which QEMU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum QemuOption {
    /// The one that is installed
    Installed,
    /// The newer one of Debian's backports, which is downloaded but not installed
    Backports,
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
    /// Give the guest a disk
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    disk: u64,
    /// How much of the disk holds data; the rest was never written [default: all]
    #[arg(long, value_name = "MIB", requires = "disk")]
    disk_data: Option<u64>,
    /// Where the disk is
    #[arg(long, value_enum, default_value_t = Storage::Block)]
    storage: Storage,
    /// Keep this share of all CPUs of the machine busy, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) host_load: u8,
    /// Send other data at this rate from src to dst, in the units of tc: 400mbit
    #[arg(long, value_name = "RATE")]
    pub(crate) network_load: Option<Rate>,
    /// Limit the rate at which each host can send, as tc writes it: 400mbit
    #[arg(long)]
    rate: Option<String>,
    /// MTU between the hosts
    #[arg(long, value_name = "BYTES", default_value_t = 1500)]
    mtu: u32,
    /// Drop this many of 1000 TCP packets
    #[arg(long, value_name = "PER MILLE", default_value_t = 0)]
    pub(crate) drop: u32,
    /// Which QEMU runs on the hosts
    #[arg(long, value_enum, default_value_t = QemuOption::Installed)]
    qemu: QemuOption,
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
            .disk_data_mib(self.disk_data.unwrap_or(self.disk))
            .mtu(self.mtu)
            .qemu(match self.qemu {
                QemuOption::Installed => QemuChoice::Installed,
                QemuOption::Backports => QemuChoice::Backports,
            })
            .accelerator(&self.accel)
            .kernel(&self.kernel);
        let builder = match self.storage {
            Storage::Block => builder,
            Storage::Shared => builder.shared_storage(),
        };
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
    /// Make ready for what may make the migration end; `migtrace-lab converge` does the rest
    #[arg(long, value_name = "ACTION")]
    converge_by: Option<ConvergeBy>,
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
    /// Give up after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

impl MigrationOptions {
    pub(crate) fn migration(&self) -> Migration {
        let base = if self.like_libvirt { Migration::like_libvirt() } else { Migration::default() };
        let postcopy_at_pass = if self.postcopy {
            Some(2)
        } else if self.converge_by == Some(ConvergeBy::Postcopy) {
            Some(u64::MAX)
        } else {
            None
        };
        Migration {
            events: !self.no_events,
            multifd: self.multifd,
            // In postcopy, the destination requests pages on the return path.
            return_path: base.return_path || postcopy_at_pass.is_some(),
            postcopy_at_pass,
            postcopy_preempt: self.preempt,
            ipv6: self.ipv6,
            downtime_limit_ms: self.downtime_limit,
            auto_converge_percent: (self.converge_by == Some(ConvergeBy::AutoConverge))
                .then_some(AUTO_CONVERGE_PERCENT),
            timeout: Duration::from_secs(self.timeout),
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

    #[test]
    fn a_migration_is_made_ready_for_what_may_make_it_end() {
        let migration = |action: &str| {
            let cli = Cli::parse_from(["migtrace-lab", "migrate", "--like-libvirt", "--converge-by", action]);
            let Command::Migrate { migration, .. } = cli.command else { panic!("{action}") };
            let migration = migration.migration();
            (migration.auto_converge_percent, migration.postcopy_at_pass)
        };
        assert_eq!(migration("auto-converge"), (Some(20), None));
        assert_eq!(migration("postcopy"), (None, Some(u64::MAX)));
        assert_eq!(migration("suspend"), (None, None));
        assert_eq!(migration("abort"), (None, None));
    }
}
