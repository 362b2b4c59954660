//! How the guest is migrated.

use crate::host::Host;
use crate::tls::TlsKey;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// libvirt's "unlimited", in bytes per second: the largest number that JSON keeps exactly.
const UNLIMITED: u64 = (1 << 53) - 1;

/// The options of a migration. The default is a plain precopy migration with events.
#[derive(Debug, Clone)]
pub struct Migration {
    /// QEMU sends `MIGRATION` and `MIGRATION_PASS` events.
    pub events: bool,
    /// The destination answers on the return path, so `completed` comes only after the guest has arrived.
    pub return_path: bool,
    /// The number of multifd channels in addition to the main one.
    pub multifd: Option<u8>,
    /// QEMU waits between the guest's stop and the switchover until the driver continues it.
    pub pause_before_switchover: bool,
    /// Switch to postcopy once this pass of dirty pages has begun. A pass that never comes only allows the switch.
    pub postcopy_at_pass: Option<u64>,
    /// In postcopy, pages that the guest waits for have a channel of their own (`postcopy-preempt`), so that they do not
    /// queue behind the others. Needs [`Migration::return_path`].
    pub postcopy_preempt: bool,
    /// The destination keeps the guest paused until the driver continues it.
    pub paused_destination: bool,
    /// The longest stop that QEMU aims for, in milliseconds.
    pub downtime_limit_ms: u64,
    /// QEMU's bandwidth limit, in bytes per second.
    pub max_bandwidth_bytes_per_s: u64,
    /// QEMU's bandwidth limit once the guest runs on the destination, in bytes per second; 0 for none.
    pub max_postcopy_bandwidth_bytes_per_s: u64,
    /// QEMU slows the guest down until its memory can be copied: at first by this many percent.
    pub auto_converge_percent: Option<u8>,
    /// Encrypted, with a key that both sides have.
    pub tls: Option<TlsKey>,
    /// Over IPv6.
    pub ipv6: bool,
    /// The address to which the source connects; none for the destination host's own.
    pub address: Option<IpAddr>,
    /// Over this Unix socket, instead of TCP.
    pub unix_socket: Option<PathBuf>,
    /// Where the destination listens for the RAM stream.
    pub ram_port: u16,
    /// Where the destination listens for the copy of the disk, if there is one.
    pub disk_port: u16,
    /// Where the destination listens when an interrupted postcopy goes on.
    pub recovery_port: u16,
    /// The driver gives up after this time.
    pub timeout: Duration,
    /// The source's QEMU stays, with its stopped guest, until the next migration or the end of the lab.
    pub keep_source: bool,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            events: true,
            return_path: false,
            multifd: None,
            pause_before_switchover: false,
            postcopy_at_pass: None,
            postcopy_preempt: false,
            paused_destination: false,
            downtime_limit_ms: 300,
            max_bandwidth_bytes_per_s: UNLIMITED,
            max_postcopy_bandwidth_bytes_per_s: 0,
            auto_converge_percent: None,
            tls: None,
            ipv6: false,
            address: None,
            unix_socket: None,
            ram_port: 49152,
            disk_port: 49153,
            recovery_port: 49154,
            timeout: Duration::from_secs(300),
            keep_source: false,
        }
    }
}

impl Migration {
    /// The options that libvirt uses: events, the return path, a pause before the switchover, and a destination that waits
    /// for `cont`.
    #[must_use]
    pub fn like_libvirt() -> Self {
        Self { return_path: true, pause_before_switchover: true, paused_destination: true, ..Self::default() }
    }

    /// The address to which the source connects, where `destination` receives.
    pub(crate) fn address_at(&self, destination: &Host) -> IpAddr {
        let own = if self.ipv6 { destination.ipv6().into() } else { destination.ipv4().into() };
        self.address.unwrap_or(own)
    }

    /// Adds what a disk needs: its copy has to end between the stop and the switchover, and the destination must not open it
    /// while the copy still writes to it.
    pub(crate) fn for_disk(mut self, disk: bool) -> Self {
        if disk {
            self.pause_before_switchover = true;
            self.paused_destination = true;
        }
        self
    }
}
