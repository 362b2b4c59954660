//! How long each step took here last time, kept in `target/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::steps::Step;
use crate::paths;

/// The durations of the steps of one set, in seconds by the name of the step.
#[derive(Default)]
pub(super) struct Durations {
    /// Where they are kept; `None` keeps them in memory only.
    path: Option<PathBuf>,
    seconds: BTreeMap<String, f64>,
}

impl Durations {
    /// Reads those of the fast set or of the whole set. A file that is missing or unreadable is no history.
    pub(super) fn read(fast: bool) -> Self {
        let name = if fast { "test-fast" } else { "test" };
        let path = paths::target().join("durations").join(name).with_extension("json");
        let text = fs::read_to_string(&path).unwrap_or_default();
        Self { path: Some(path), seconds: serde_json::from_str(&text).unwrap_or_default() }
    }

    pub(super) fn get(&self, step: Step) -> Option<Duration> {
        Duration::try_from_secs_f64(*self.seconds.get(step.name())?).ok()
    }

    /// Keeps the duration of a step for the next run.
    pub(super) fn set(&mut self, step: Step, duration: Duration) -> Result<()> {
        self.remember(step, duration);
        let Some(path) = &self.path else { return Ok(()) };
        let write = || {
            fs::create_dir_all(path.with_file_name(""))?;
            fs::write(path, serde_json::to_vec_pretty(&self.seconds)?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    pub(super) fn remember(&mut self, step: Step, duration: Duration) {
        self.seconds.insert(step.name().to_owned(), duration.as_secs_f64());
    }
}

/// For people: `4.2 s`, `3 min 20 s`.
pub(super) fn readable(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    format!("{} min {} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_kept_for_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/test.json");
        let mut durations = Durations { path: Some(path.clone()), ..Durations::default() };
        durations.set(Step::Lints, Duration::from_millis(1500)).unwrap();
        let seconds = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let read = Durations { path: None, seconds };
        assert_eq!(read.get(Step::Lints), Some(Duration::from_millis(1500)));
        assert_eq!(read.get(Step::Format), None);
    }

    #[test]
    fn durations_are_in_minutes_from_one_minute_on() {
        let text = |ms| readable(Duration::from_millis(ms));
        assert_eq!(
            [text(940), text(59_940), text(59_960), text(125_400)],
            ["0.9 s", "59.9 s", "1 min 0 s", "2 min 5 s"]
        );
    }
}
