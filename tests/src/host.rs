//! A host of the lab: a network namespace with an address.

use crate::netns::{NetNs, NetNsGuard};
use crate::ping::ping;
use crate::process::{self, Namespace, Process};
use crate::programs;
use crate::topology::Topology;
use anyhow::{Context as _, Result, bail};
use nix::sched::CloneFlags;
use std::fs::File;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A command that runs longer than this is taken to hang.
const PATIENCE: Duration = Duration::from_secs(300);

/// A network namespace of the lab.
#[derive(Debug, Clone)]
pub struct Host {
    role: &'static str,
    netns: NetNs,
    /// Its UTS namespace; none if it has the machine's name.
    uts: Option<Arc<File>>,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

impl Host {
    /// The bridge with the host's addresses. Its routes, and so the flows of migrations, use this device.
    pub const BRIDGE: &str = "br0";
    /// The port of the bridge that leads to the switch. On the observer, which has no bridge, it has the addresses.
    pub const UPLINK: &str = "uplink";
    /// The port of the bridge that leads to the guest, with the name that libvirt would use.
    pub const TAP: &str = "vnet0";

    /// The port of the bridge that leads to the guest's NIC with this number.
    pub(crate) fn tap(number: u8) -> String {
        format!("vnet{number}")
    }

    pub(crate) fn new(role: &'static str, netns: NetNs, number: u8) -> Self {
        let ipv6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into());
        Self { role, netns, uts: None, ipv4: Ipv4Addr::new(10, 77, 0, number), ipv6 }
    }

    /// The host with the name that it has in this UTS namespace.
    pub(crate) fn with_uts(self, uts: Arc<File>) -> Self {
        Self { uts: Some(uts), ..self }
    }

    /// The namespaces of programs on this host.
    pub(crate) fn namespaces(&self) -> Vec<Namespace> {
        let uts = self.uts.iter().map(|file| (Arc::clone(file), CloneFlags::CLONE_NEWUTS));
        iter::once(self.netns.namespace()).chain(uts).collect()
    }

    /// The host with this role in a running lab, which may be another process'.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn of_lab(lab: &str, role: &str) -> Result<Self> {
        let topology = Topology::open(lab)?;
        let hosts = [topology.source, topology.destination, topology.observer, topology.switch];
        hosts.into_iter().find(|host| host.role == role).with_context(|| format!("no host is called {role}"))
    }

    /// Its role in the lab: `src`, `dst`, `observer` or `switch`.
    #[must_use]
    pub fn role(&self) -> &'static str {
        self.role
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its IPv4 address, in 10.77.0.0/24.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4
    }

    /// Its IPv6 address, in fd77::/64.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        self.ipv6
    }

    /// Starts `command` on this host, with the input and outputs that the caller has set. It is killed when the returned
    /// [`Process`] is dropped, and when this process ends in any way.
    ///
    /// Only the network is the host's own, and, where it has libvirtd, its name. `/sys/class/net` still shows the network of
    /// this process, because another mount of `/sys` would hide the kernel's tracing files from the command.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        process::spawn(&self.namespaces(), command)
    }

    /// Starts `command` on this host so that it stays when this process ends, until the lab is removed.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn spawn_lasting(&self, command: &mut Command) -> Result<Child> {
        process::spawn_detached(&self.netns, command)
    }

    /// Runs `command` on this host until it ends, successfully or not, and returns what it wrote.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or has not ended after five minutes.
    pub fn run(&self, command: &mut Command) -> Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(command)?.output(PATIENCE)
    }

    /// Runs a network tool (`ip`, `tc`, `ethtool`, `nft`) on this host, and returns its standard output.
    ///
    /// # Errors
    ///
    /// When it is not installed or fails. The message has its standard error.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(programs::find(program)?);
        command.args(arguments);
        let output = self.run(&mut command)?;
        if !output.status.success() {
            let (line, stderr) = (programs::line(&command), String::from_utf8_lossy(&output.stderr));
            bail!("`{line}` failed on {} ({}): {}", self.role, output.status, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Replaces this process by `command` on this host. Returns only if that fails.
    pub fn exec(&self, command: &mut Command) -> anyhow::Error {
        process::exec(&self.netns, command)
    }

    /// Runs `work` on this host, on a thread of its own.
    ///
    /// # Errors
    ///
    /// When the thread cannot enter the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.enter(work)
    }

    /// Moves the calling thread to this host until the guard is dropped.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn guard(&self) -> Result<NetNsGuard> {
        self.netns.guard()
    }

    /// Pings `address` from this host until it answers, and returns the round-trip time of the first answer.
    ///
    /// # Errors
    ///
    /// When there is no answer within `patience`.
    pub fn ping(&self, address: impl Into<IpAddr>, patience: Duration) -> Result<Duration> {
        let address = address.into();
        self.enter(|| ping(address, patience))?.with_context(|| format!("seen from {}", self.role))
    }

    /// A counter of this host's own TCP: `("snmp", "Tcp", "RetransSegs")`, `("netstat", "TcpExt", "TCPRetransFail")`...
    ///
    /// # Errors
    ///
    /// When /proc/net has no such file, or the file no such counter.
    pub fn tcp_statistic(&self, file: &str, group: &str, name: &str) -> Result<u64> {
        let path = format!("/proc/thread-self/net/{file}");
        let text = self.enter(|| std::fs::read_to_string(&path))?.with_context(|| path.clone())?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{group}: ")));
        let (names, values) =
            lines.next().zip(lines.next()).with_context(|| format!("{path} has no {group}"))?;
        let named = names.split(' ').zip(values.split(' ')).find(|(key, _)| *key == name);
        let (_, value) = named.with_context(|| format!("{path} has no {name}"))?;
        value.parse().with_context(|| format!("{name} in {path}: {value}"))
    }

    /// How many segments this host's TCP has sent again since the host was made, as its kernel counts them.
    ///
    /// # Errors
    ///
    /// As [`Host::tcp_statistic`].
    pub fn retransmitted_segments(&self) -> Result<u64> {
        let tried = self.tcp_statistic("snmp", "Tcp", "RetransSegs")?;
        let failed = self.tcp_statistic("netstat", "TcpExt", "TCPRetransFail")?;
        tried.checked_sub(failed).with_context(|| format!("{failed} of {tried} retransmissions failed"))
    }

    /// Turns offloads ("tso", "gso", "gro", "tx"...) of an interface on or off.
    ///
    /// # Errors
    ///
    /// When there is no such interface or offload, or the offload cannot be changed.
    pub fn set_offloads(&self, interface: &str, offloads: &[&str], on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        let mut arguments = vec!["-K", interface];
        for offload in offloads {
            arguments.extend([offload, state]);
        }
        self.tool("ethtool", &arguments).map(drop)
    }
}
