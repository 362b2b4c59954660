//! Logs whose migration is over and which are no pair yet: killed runs have left them, or a record could not be written. Reading
//! a log of hours takes a while, so that a thread of its own does it.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::{self, BufReader};
use std::mem;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use migtrace::files;
use migtrace::record::Record;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::pairs::{Pairs, Turn};
use crate::commands::explain;
use crate::commands::names::{self, PairName, Part};
use crate::commands::report::{Replayed, replay};

/// Writing a record takes seconds at most.
const LONGEST_WRITING: Duration = Duration::from_secs(3_600);

/// What has become of a log.
pub(super) struct Adopted {
    pub(super) log: PathBuf,
    /// The pair that it is now. There is none if there was no migration in it; it is removed then.
    pub(super) pair: Result<Option<PairName>>,
}

impl Adopted {
    /// What is said of a log that a killed run has left.
    pub(super) fn line(&self) -> String {
        let log = self.log.display();
        match &self.pair {
            Ok(Some(pair)) => format!("{log}: a killed run left it; it is {pair} now"),
            Ok(None) => format!("{log}: a killed run left it; it held no migration and is removed"),
            Err(error) => format!("migtrace: {}", explain(error)),
        }
    }
}

/// What killed runs of this host have left in a directory. Nobody else writes it: the directory is locked.
pub(super) fn find(directory: &Path, host: &str) -> io::Result<Vec<PathBuf>> {
    let listed = files::names(directory)?;
    let lacks_record = |name: &str| {
        let of_pair = PairName::parse(name).filter(|(_, part)| *part == Part::Log);
        of_pair.is_some_and(|(pair, _)| listed.binary_search(&pair.file(Part::Record)).is_err())
    };
    let unfinished = listed.iter().filter(|name| names::is_partial(name, host));
    let found = unfinished.chain(listed.iter().filter(|name| lacks_record(name)));
    Ok(found.map(|name| directory.join(name)).collect())
}

/// Removes records that a killed run has not completed: their logs are there still, and give them anew. One that another host
/// writes just now is younger.
pub(super) fn remove_incomplete_records(directory: &Path) -> io::Result<()> {
    let is_incomplete = |name: &String| {
        let complete = name.strip_suffix(files::PARTIAL).and_then(PairName::parse);
        complete.is_some_and(|(_, part)| part == Part::Record)
    };
    for name in files::names(directory)?.into_iter().filter(is_incomplete) {
        let path = directory.join(name);
        let written =
            path.symlink_metadata().ok().filter(Metadata::is_file).and_then(|file| file.modified().ok());
        if written.is_some_and(|written| written.elapsed().is_ok_and(|age| age > LONGEST_WRITING)) {
            // If it cannot be removed, it is in nobody's way.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

/// Makes a pair of a log that nobody writes any more.
pub(super) fn adopt(log: &Path, pairs: &Pairs) -> Result<Option<PairName>> {
    let records = records(log);
    make_pair(log, records, &pairs.turn())
}

fn make_pair(log: &Path, records: Result<Vec<Record>>, turn: &Turn<'_>) -> Result<Option<PairName>> {
    let made = records.and_then(|records| turn.adopt(log, &records));
    made.with_context(|| format!("cannot make a record of {}, which a killed run has left", log.display()))
}

/// The records of a log. A last line that is cut off is no event.
fn records(log: &Path) -> Result<Vec<Record>> {
    let file = files::open_regular(log)?;
    let metadata = file.metadata()?;
    if metadata.nlink() > 1 {
        bail!("it was not made by migtrace: remove it");
    }
    if metadata.len() == 0 {
        return Ok(Vec::new());
    }
    let Replayed { timeline, .. } = replay(None, BufReader::new(file))?;
    Ok(migtrace::watch::records(&timeline))
}

/// The thread.
pub(super) struct Adopter {
    orders: Sender<PathBuf>,
    adopted: UnboundedReceiver<Adopted>,
    /// What it has not come back with.
    waiting: BTreeSet<PathBuf>,
    pairs: Pairs,
    is_over: Arc<AtomicBool>,
}

impl Adopter {
    pub(super) fn start(pairs: &Pairs) -> io::Result<Self> {
        let (orders, of_watch) = channel();
        let (to_watch, adopted) = unbounded_channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let worker =
            Worker { orders: of_watch, adopted: to_watch, pairs: pairs.clone(), is_over: is_over.clone() };
        thread::Builder::new().name("leftovers".to_owned()).spawn(move || worker.run())?;
        Ok(Self { orders, adopted, waiting: BTreeSet::new(), pairs: pairs.clone(), is_over })
    }

    /// Has a log made a pair when those before it are done. One that waits already is not taken twice.
    pub(super) fn order(&mut self, log: PathBuf) {
        if self.waiting.insert(log.clone()) {
            // Should the thread have failed, the log stays in `waiting`, and where it is.
            let _ = self.orders.send(log);
        }
    }

    /// Waits for the next log that is done.
    pub(super) async fn next(&mut self) -> Adopted {
        let Some(adopted) = self.adopted.recv().await else {
            // The thread has failed. What it has not done stays.
            self.waiting.clear();
            return std::future::pending().await;
        };
        self.waiting.remove(&adopted.log);
        adopted
    }

    /// Whether all is done.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Ends the thread. A pair that it writes is completed first; the log that it reads stays as it is. Returns what was done
    /// and not told yet, and what was not done.
    pub(super) fn end(&mut self) -> (Vec<Adopted>, BTreeSet<PathBuf>) {
        self.stop();
        let mut done = Vec::new();
        while let Ok(adopted) = self.adopted.try_recv() {
            self.waiting.remove(&adopted.log);
            done.push(adopted);
        }
        (done, mem::take(&mut self.waiting))
    }

    fn stop(&self) {
        let _turn = self.pairs.turn();
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Adopter {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    orders: Receiver<PathBuf>,
    adopted: UnboundedSender<Adopted>,
    pairs: Pairs,
    /// Changes only while nobody has the turn.
    is_over: Arc<AtomicBool>,
}

impl Worker {
    fn run(self) {
        while let Ok(log) = self.orders.recv() {
            let records = records(&log);
            let turn = self.pairs.turn();
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let pair = make_pair(&log, records, &turn);
            // Within the turn, so that the end of the watch hears of it.
            if self.adopted.send(Adopted { log, pair }).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    const LOG: &str = include_str!("../../../tests/logs/destination-10.0.jsonl");
    const PAIR: &str = "20260301T101010.000Z-6f1c2a34-8a51-5a0f-9d6c-0c2b6f1f2d11-source";

    fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let read = |name: String| (fs::read(folder.join(&name)).unwrap(), name);
        files::names(folder).unwrap().into_iter().map(read).map(|(content, name)| (name, content)).collect()
    }

    #[test]
    fn logs_without_a_record_are_found_and_none_of_other_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let [mine, other] = ["host-a", "host-b"].map(|host| names::partial(host, 0, 7, 1));
        let (lacking, whole) = (format!("{PAIR}.jsonl"), format!("{PAIR}-2.jsonl"));
        let record = format!("{PAIR}-2.json");
        for name in [&mine, &other, &lacking, &whole, &record, "notes.jsonl"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = find(folder.path(), "host-a").unwrap();
        assert_eq!(found, [&mine, &lacking].map(|name| folder.path().join(name)));
        assert!(find(&folder.path().join("nothing"), "host-a").is_err());
    }

    #[test]
    fn records_that_a_killed_run_has_not_completed_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - 2 * LONGEST_WRITING;
        let log = names::partial("host-a", 0, 7, 1);
        let incomplete = format!("{PAIR}.json.partial");
        let names =
            [&log, &incomplete, &format!("{PAIR}-2.json.partial"), &format!("{PAIR}.json"), "a.json.partial"];
        for name in names {
            let file = File::create(folder.path().join(name)).unwrap();
            if !name.contains("-2.") {
                file.set_modified(old).unwrap();
            }
        }
        remove_incomplete_records(folder.path()).unwrap();
        let mut left: Vec<_> = names.into_iter().filter(|name| **name != incomplete).collect();
        left.sort();
        assert_eq!(files::names(folder.path()).unwrap(), left);
    }

    #[tokio::test]
    async fn logs_become_pairs_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = |number| folder.path().join(names::partial("host-a", 0, 7, number));
        fs::write(path(1), LOG).unwrap();
        fs::write(path(2), "").unwrap();
        fs::write(path(3), "no event").unwrap();
        fs::write(path(4), LOG).unwrap();
        let mut adopter = Adopter::start(&Pairs::new(folder.path().to_owned())).unwrap();
        // One that waits already is not taken twice.
        [1, 2, 3, 4, 4].map(path).into_iter().for_each(|log| adopter.order(log));
        let mut lines = Vec::new();
        for number in 1..=4 {
            let adopted = adopter.next().await;
            assert_eq!((adopted.log.clone(), adopter.is_idle()), (path(number), number == 4));
            lines.push(adopted.line());
        }
        let ends = ["-destination now", "held no migration and is removed", "", "-destination-2 now"];
        assert!(lines.iter().zip(ends).all(|(line, end)| line.ends_with(end)), "{lines:?}");
        assert!(lines[2].contains("cannot make a record of"), "{lines:?}");
        let left: Vec<_> =
            contents(folder.path()).into_iter().filter(|(name, _)| !name.ends_with(".json")).collect();
        let logs = left.iter().filter(|(name, log)| name.ends_with(".jsonl") && log == LOG.as_bytes());
        assert_eq!((left.len(), logs.count()), (3, 2));
    }

    #[test]
    fn what_is_not_done_when_it_ends_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |number| folder.path().join(names::partial("host-a", 0, 7, number));
        let mut adopter = Adopter::start(&Pairs::new(folder.path().to_owned())).unwrap();
        for number in 0..200 {
            fs::write(path(number), LOG).unwrap();
        }
        (0..200).map(path).for_each(|log| adopter.order(log));
        let (done, waiting) = adopter.end();
        let left = contents(folder.path());
        assert!(!waiting.is_empty() && done.len() + waiting.len() == 200);
        assert_eq!(left.len(), 2 * done.len() + waiting.len());
        assert!(waiting.iter().all(|log| fs::read_to_string(log).unwrap() == LOG));
        thread::sleep(Duration::from_millis(50));
        assert_eq!(contents(folder.path()), left);
        assert_eq!(find(folder.path(), "host-a").unwrap().len(), waiting.len());
    }
}
