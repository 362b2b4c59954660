//! A fleet whose logs are made of those of a few real migrations.
//!
//! Each migration is one of the lab's, with another VM, other hosts with their own clocks, other addresses, ports and
//! sequence numbers, another time, another speed and another amount of data. All of it follows from one number.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use migtrace::event::{Event, LogWriter};
use rayon::prelude::*;
use serde_json::Value;

use super::variation::{Host, Variation, Vm};

/// The migrations that others are made of, and how many of a hundred or so: those whose logs are small.
const TEMPLATES: [(&str, u32); 14] = [
    ("precopy-10.0", 30),
    ("shared-storage-7.2", 20),
    ("return-path-7.2", 10),
    ("multifd-2-10.0", 8),
    ("postcopy-10.0", 8),
    ("ipv6-7.2", 5),
    ("tls-7.2", 5),
    ("vxlan-7.2", 5),
    ("unix-socket-7.2", 3),
    ("cancelled-10.0", 2),
    ("cancelled-7.2", 1),
    ("destination-killed-10.0", 1),
    ("link-cut-7.2", 1),
    ("without-events-7.2", 1),
];

const LINKED_BY_TIME: &str = "unix-socket-7.2";

/// Flavours: vCPUs, memory in GiB, and by how much more is sent than in the lab.
const FLAVOURS: [(u32, u64, u64); 5] = [(1, 1, 1), (2, 4, 2), (4, 8, 4), (8, 16, 8), (16, 64, 20)];

const HOSTS: u64 = 500;
/// The fleet is watched for this long.
const WEEKS: u64 = 12;
/// 2026-09-07, a Monday, at midnight.
const BEGIN_NS: i64 = 1_788_739_200_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;

/// The logs of one real migration: of its source and of its destination.
struct Template {
    logs: [Vec<Value>; 2],
}

/// Makes the logs of a fleet.
pub(crate) struct Generator {
    templates: Vec<Template>,
    /// An index into `templates` for each of the shares.
    shares: Vec<usize>,
    migrations: u32,
    seed: u64,
}

impl Generator {
    pub(crate) fn new(migrations: u32, seed: u64) -> Result<Self> {
        let templates = TEMPLATES.map(|(name, _)| Template::read(name)).into_iter().collect::<Result<_>>()?;
        let shares = TEMPLATES.iter().enumerate();
        let shares = shares.flat_map(|(index, (_, share))| std::iter::repeat_n(index, *share as usize));
        Ok(Self { templates, shares: shares.collect(), migrations, seed })
    }

    /// Writes all logs, of each host into a folder of its own, and returns how many bytes they have.
    pub(crate) fn write(&self, directory: &Path) -> Result<u64> {
        for host in 0..HOSTS {
            fs::create_dir_all(directory.join(Self::host_name(host)))?;
        }
        let written = (0..self.migrations).into_par_iter().map(|number| {
            let variation = self.variation(number);
            let template = &self.templates[variation.template];
            let sides = ["source", "destination"].into_iter().zip(&template.logs).enumerate();
            sides
                .map(|(side, (role, log))| write_log(directory, &variation, side, role, log))
                .sum::<Result<u64>>()
        });
        written.sum()
    }

    /// What is other than in the template.
    pub(crate) fn variation(&self, number: u32) -> Variation {
        let mut rng = Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(number));
        let template = self.shares[rng.usize(0..self.shares.len())];
        let source = rng.u64(0..HOSTS);
        let mut hosts = [source, (source + rng.u64(1..HOSTS)) % HOSTS];
        // Without a connection that both hosts know, only the wall clocks show that two halves are one.
        if TEMPLATES[template].0 == LINKED_BY_TIME {
            hosts = hosts.map(|host| if is_unsynchronised(host) { host - 1 } else { host });
            hosts[1] -= u64::from(hosts[0] == hosts[1]);
        }
        let (vcpus, gib, data) = FLAVOURS[rng.usize(0..FLAVOURS.len())];
        // Some of the VMs migrate often.
        let vm = u64::from(number) * 7919 % (u64::from(self.migrations) / 4 + 1);
        let span = WEEKS * 7 * 86_400;
        Variation {
            template,
            hosts: hosts.map(|host| self.host(host)),
            vm: Vm { number: vm, vcpus, memory_bytes: gib << 30 },
            start_ns: BEGIN_NS
                + i64::from(number) * (span.cast_signed() * SECOND_NS / i64::from(self.migrations)),
            // In thousandths.
            slowness: rng.i64(700..1_600),
            data,
            port: rng.u16(0..20_000),
            sequence: rng.u64(..),
        }
    }

    fn host_name(host: u64) -> String {
        format!("compute-{host:03}")
    }

    /// Each host is the same in all migrations.
    fn host(&self, host: u64) -> Host {
        let mut rng = Rng::with_seed(self.seed ^ (host << 32));
        let skew_ns =
            if is_unsynchronised(host) { 3_600 * SECOND_NS } else { rng.i64(-2_000_000..2_000_000) };
        Host {
            name: Self::host_name(host),
            address: format!("10.20.{}.{}", host / 250, 1 + host % 250),
            offset_ns: BEGIN_NS - rng.i64(10_000..10_000_000) * SECOND_NS + skew_ns,
            skew_ns,
        }
    }
}

/// One host of a hundred has a clock that nobody synchronises.
const fn is_unsynchronised(host: u64) -> bool {
    host % 100 == 99
}

impl Template {
    fn read(name: &str) -> Result<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../migtrace/tests/merged").join(name);
        let read = |side: &str| {
            let path = folder.join(format!("{side}.jsonl"));
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<_>>>()
        };
        Ok(Self { logs: [read("source")?, read("destination")?] })
    }
}

fn write_log(directory: &Path, variation: &Variation, side: usize, role: &str, log: &[Value]) -> Result<u64> {
    let name = format!("{}_{}_{role}.jsonl", variation.start_ns / SECOND_NS, variation.vm.uuid());
    let path = directory.join(&variation.hosts[side].name).join(name);
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut writer = LogWriter::new(BufWriter::with_capacity(1 << 16, file));
    for event in events(variation, side, log) {
        writer.write(&event?)?;
    }
    Ok(fs::metadata(&path)?.len())
}

/// The events of a log as its host would have written them.
pub(crate) fn events<'l>(
    variation: &'l Variation,
    side: usize,
    log: &'l [Value],
) -> impl Iterator<Item = Result<Event>> + 'l {
    let clocks = variation.clocks(log, side);
    log.iter().map(move |line| Ok(serde_json::from_value(variation.varied(line, side, &clocks))?))
}

#[cfg(test)]
mod tests {
    use migtrace::invariants;
    use migtrace::selection::Selection;
    use migtrace::timeline::{Timeline, merged};

    use super::*;

    /// One of each template, and more.
    #[test]
    fn every_migration_of_the_fleet_has_a_sound_record_of_both_hosts() {
        let generator = Generator::new(400, 7).unwrap();
        let mut templates = std::collections::BTreeSet::new();
        for number in 0..400 {
            let variation = generator.variation(number);
            let name = TEMPLATES[variation.template].0;
            let logs = &generator.templates[variation.template].logs;
            let timelines = [0, 1].map(|side| {
                let mut timeline = Timeline::new(Selection::default());
                events(&variation, side, &logs[side]).for_each(|event| timeline.push(&event.unwrap()));
                timeline
            });
            let records = merged(&timelines).unwrap_or_else(|why| panic!("{name}: {why}"));
            let [record] = &records[..] else { panic!("{name}: {} records", records.len()) };
            invariants::record(record).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(record.observers.len(), 2, "{name}");
            let stop = record.downtime.stop.as_ref();
            assert!(stop.is_none_or(|stop| stop.value_ns < 10_000_000_000), "{name}: {stop:?}");
            templates.insert(name);
        }
        assert_eq!(templates.len(), TEMPLATES.len());
    }

    #[test]
    fn one_number_makes_one_fleet() {
        let [one, same, other] = [1, 1, 2].map(|seed| {
            let generator = Generator::new(10, seed).unwrap();
            let variation = generator.variation(3);
            let log = &generator.templates[variation.template].logs[0];
            events(&variation, 0, log).map(|event| event.unwrap()).collect::<Vec<_>>()
        });
        assert!(one == same && one != other);
    }
}
