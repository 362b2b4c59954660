//! The options of `record`, and of what it runs on peers.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use migtrace::kernel::Tunnel;
use migtrace::ports::PortRanges;

use super::{Attach, OUTPUT, OtlpArgs, OutputArgs, RecordFormat, duration, interval};

const RECORD_HELP: &str = "\
A limit (--max-...) is met if the upper bound of what was measured is within it. \
What was not measured, or has no upper bound, meets no limit.

With --peer, a host that cannot be reached, lacks migtrace or is lost in the middle \
does not end the recording: the report says what is missing.

Ctrl-C, SIGTERM and SIGHUP end the recording; what was seen until then is \
reported.

Exit codes:
  0  The migration completed (or no event said how it ended) and met its
     limits
  1  It could not be recorded
  2  Wrong usage
  3  The migration failed or was cancelled, or the recording was interrupted;
     the report is still written
  4  A limit cannot be shown to have been met";

// The headings of help.
const WHAT: &str = "What to record";
const WHERE: &str = "Where to count";
const PEERS: &str = "Other hosts";
const MORE: &str = "What else to measure";
const LIMITS: &str = "Limits";

#[derive(Debug, Args)]
#[command(after_help = RECORD_HELP)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
    /// Stop after this time, with or without a migration
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = WHAT)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) peers: PeerArgs,
    #[command(flatten)]
    pub(crate) probe: GuestProbeArgs,
    /// The host that pings the guest: one of the --peer hosts, or `local` [default: the last --peer of several, else local]
    #[arg(long, value_name = "HOST", requires = "probe", help_heading = MORE)]
    pub(crate) probe_from: Option<String>,
    /// Also ask QEMU for its own figures, through this QMP socket
    ///
    /// It must be a second monitor: QEMU serves one client per socket.
    #[arg(long, value_name = "SOCKET", help_heading = MORE)]
    pub(crate) qmp: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) libvirt: LibvirtArgs,
    /// Exit with 4 unless the migration provably took no longer than this
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = LIMITS)]
    pub(crate) max_total: Option<Duration>,
    /// Exit with 4 unless the guest was provably stopped for no longer than this
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = LIMITS)]
    pub(crate) max_stop: Option<Duration>,
    /// Exit with 4 unless pings provably went unanswered for no longer than this (needs --probe)
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = LIMITS)]
    pub(crate) max_reachability: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: OutputArgs<RecordFormat>,
    /// Write every event to this file as it is observed, as JSON Lines; `-` is standard output. With --peer it is a directory
    ///
    /// An earlier log becomes FILE.old. With `-`, a report without --output goes to standard error. In the directory, which is
    /// made if it is not there, each host has its log: `local.jsonl`, and `HOST.jsonl` for each --peer.
    #[arg(long, value_name = "FILE|DIRECTORY", help_heading = OUTPUT)]
    pub(crate) events: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) otlp: OtlpArgs,
}

/// What is watched, and how.
#[derive(Debug, Args)]
pub(crate) struct ScopeArgs {
    /// Record only this VM, by name or UUID; wait for it if it is not there yet
    #[arg(long, value_name = "NAME|UUID", help_heading = WHAT)]
    pub(crate) vm: Option<String>,
    /// Record only this QEMU process
    #[arg(long, help_heading = WHAT)]
    pub(crate) pid: Option<u32>,
    /// Treat every process that runs this file as a QEMU; repeatable
    ///
    /// Without it, a process is a QEMU if its executable has a QEMU's name and only root can have put it there.
    #[arg(long = "qemu-binary", value_name = "PATH", help_heading = WHAT)]
    pub(crate) qemu_binaries: Vec<PathBuf>,
    /// TCP ports used by migrations
    #[arg(long, value_name = "RANGES", default_value_t, help_heading = WHERE)]
    pub(crate) ports: PortRanges,
    /// Count at this interface; repeatable [default: every Ethernet interface with an address]
    #[arg(long = "interface", value_name = "NAME", help_heading = WHERE)]
    pub(crate) interfaces: Vec<String>,
    /// Also look for migrations inside these tunnels, comma-separated
    #[arg(long, value_name = "TUNNELS", value_delimiter = ',', value_parser = tunnels(), help_heading = WHERE)]
    pub(crate) decapsulate: Vec<Tunnel>,
    /// How to attach to interfaces
    #[arg(long, value_name = "METHOD", value_enum, default_value_t = Attach::Auto, help_heading = WHERE)]
    pub(crate) attach: Attach,
    /// Sleep after so long without a sign of a migration; `never` stays awake
    ///
    /// During a sleep nothing is attached where much happens. A connection to a watched port ends it.
    #[arg(long, value_name = "TIME", value_parser = sleep_after, hide = true, help_heading = WHERE)]
    pub(crate) sleep_after: Option<SleepAfter>,
    /// How many connections to count at once
    #[arg(long, value_name = "NUMBER", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(2..=1 << 20), hide = true)]
    pub(crate) flow_capacity: u32,
}

/// After how long to sleep; `None`: never.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SleepAfter(pub(crate) Option<Duration>);

/// Parses a time, or `never`.
fn sleep_after(text: &str) -> Result<SleepAfter, String> {
    if text == "never" { Ok(SleepAfter(None)) } else { duration(text).map(|after| SleepAfter(Some(after))) }
}

/// The hosts that record together with this one.
#[derive(Debug, Args)]
pub(crate) struct PeerArgs {
    /// Also record on this host: the other end of the migration, or an observer; repeatable
    ///
    /// Its events come over `ssh`. Which part each host has is found out.
    #[arg(long = "peer", value_name = "[USER@]HOST", value_parser = peer, help_heading = PEERS)]
    pub(crate) peers: Vec<PeerName>,
    /// How to reach the peers: a command that is given the host and a command line for a shell there
    #[arg(long, value_name = "COMMAND", default_value = "ssh", requires = "peers", help_heading = PEERS)]
    pub(crate) rsh: String,
    /// How to run migtrace on the peers, for example `sudo migtrace`
    #[arg(long, value_name = "COMMAND", default_value = "migtrace", requires = "peers", help_heading = PEERS)]
    pub(crate) peer_command: String,
}

/// Whether and how the guest is pinged.
#[derive(Debug, Args)]
pub(crate) struct GuestProbeArgs {
    /// Ping the guest at this address, and record when it did not answer (see `migtrace probe`)
    ///
    /// The probe belongs to the VM that has the address' MAC. If there are several VMs and the network does not show which one
    /// that is, --vm or --pid must name it.
    #[arg(long, value_name = "TARGET", help_heading = MORE)]
    pub(crate) probe: Option<String>,
    /// Time between two echo requests, at least 100us
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = interval, requires = "probe", help_heading = MORE)]
    pub(crate) probe_interval: Duration,
}

/// Whether and how libvirt is asked.
#[derive(Debug, Args)]
pub(crate) struct LibvirtArgs {
    /// Also ask libvirt for its own figures, with `virsh domjobinfo --completed`; with --peer, on its hosts, too
    ///
    /// They stay there for others (--keep-completed), and libvirt does not ask QEMU for them.
    #[arg(long, help_heading = MORE)]
    pub(crate) domjobinfo: bool,
    /// How to run virsh, for example `virsh -c qemu:///system`
    #[arg(long, value_name = "COMMAND", default_value = "virsh", requires = "domjobinfo", help_heading = MORE)]
    pub(crate) virsh: String,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
    #[command(flatten)]
    pub(crate) probe: GuestProbeArgs,
    #[command(flatten)]
    pub(crate) libvirt: LibvirtArgs,
}

/// A host that records together with this one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PeerName {
    /// As it was given: with a user, perhaps.
    pub(crate) given: String,
    /// The host alone.
    pub(crate) host: String,
}

/// What this host is called beside its peers.
pub(crate) const LOCAL: &str = "local";

/// Parses the name of a peer. It becomes an argument of a remote shell, and the name of a file.
fn peer(text: &str) -> Result<PeerName, String> {
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if host.is_empty() || host.starts_with('.') || text.starts_with('-') || text.contains(is_odd) {
        return Err("not the name of a host; write for example host-b or root@host-b".into());
    }
    if host == LOCAL {
        return Err(format!("`{LOCAL}` is what this host is called beside its peers"));
    }
    Ok(PeerName { given: text.to_owned(), host: host.to_owned() })
}

/// Parses the name of a tunnel.
fn tunnels() -> impl TypedValueParser<Value = Tunnel> {
    PossibleValuesParser::new(Tunnel::ALL.map(Tunnel::name)).try_map(|name| name.parse())
}
