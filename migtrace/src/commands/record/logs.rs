//! The event logs that `record --events` writes: one, or with peers one for each host.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::event_log::EventLog;
use crate::cli::{LOCAL, RecordArgs};
use crate::commands::output::{Links, OutputPath};

/// Where the events are written to.
#[derive(Default)]
pub(super) struct Places {
    pub(super) local: Option<OutputPath>,
    /// Those of the peers, in their order.
    peers: Vec<Option<OutputPath>>,
}

/// The event logs.
pub(super) struct Logs {
    pub(super) local: EventLog,
    /// Those of the peers, in their order.
    pub(super) peers: Vec<EventLog>,
}

impl Places {
    /// As the options say. Two files that would overwrite each other are refused.
    pub(super) fn of(options: &RecordArgs) -> Result<Self> {
        let hosts = &options.peers.peers;
        for (index, peer) in hosts.iter().enumerate() {
            if hosts[..index].iter().any(|other| other.host == peer.host) {
                bail!("--peer names {} twice", peer.host);
            }
        }
        let Some(path) = &options.events else {
            return Ok(Self { local: None, peers: hosts.iter().map(|_| None).collect() });
        };
        if hosts.is_empty() {
            return Ok(Self { local: Some(place(options, path)?), peers: Vec::new() });
        }
        make_folder(path)?;
        let place = |host: &str| place(options, &path.join(format!("{host}.jsonl")));
        let local = Some(place(LOCAL)?);
        let peers = hosts.iter().map(|peer| place(&peer.host).map(Some)).collect::<Result<_>>()?;
        Ok(Self { local, peers })
    }
}

impl Logs {
    /// Opens the logs, and proves that they can be written.
    pub(super) fn open(places: &Places) -> Result<Self> {
        Ok(Self {
            local: EventLog::open(places.local.as_ref())?,
            peers: places.peers.iter().map(|place| EventLog::open(place.as_ref())).collect::<Result<_>>()?,
        })
    }
}

/// Makes the directory of several logs, if it is not there.
fn make_folder(path: &Path) -> Result<()> {
    if path == Path::new("-") {
        bail!("--events - takes the events of one host: with --peer, name a directory");
    }
    if path.is_dir() {
        return Ok(());
    }
    if path.exists() {
        bail!("--events {}: with --peer this must be a directory, for one log a host", path.display());
    }
    fs::create_dir(path).with_context(|| format!("cannot make the directory {}", path.display()))
}

fn place(options: &RecordArgs, path: &Path) -> Result<OutputPath> {
    let cannot = |path: &Path| format!("cannot write to {}", path.display());
    let events = OutputPath::of(path, Links::Follow).with_context(|| cannot(path))?;
    if let Some(path) = &options.output.output {
        let output = OutputPath::of(path, Links::Replace).with_context(|| cannot(path))?;
        if events == OutputPath::Stdout && output == OutputPath::Stdout {
            bail!("--output and --events both go to standard output: give one of them a file");
        }
        let others = output.names();
        if events == output || events.names().iter().any(|name| others.contains(name)) {
            bail!("--output and --events name the same file: give each its own");
        }
    }
    Ok(events)
}
