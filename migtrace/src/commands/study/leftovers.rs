//! What a study that was killed has left running.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use migtrace::study::environment::DIRECTORY;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// In the folder of a run: the process groups that were started for it, one a line. Gone when it ends.
const FILE: &str = "processes";

/// Notes that a group was started for the run in this folder.
pub(super) fn note(folder: &Path, group: Pid) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join(FILE))?;
    writeln!(file, "{group}")
}

/// Nothing is left running.
pub(super) fn forget(folder: &Path) {
    let _ = fs::remove_file(folder.join(FILE));
}

/// Kills what was started for the run in this folder and still runs. A group may have ended, and its number may be that of
/// another one by now: only processes count that have this run's environment.
pub(super) fn kill(folder: &Path) {
    let Ok(text) = fs::read_to_string(folder.join(FILE)) else { return };
    let groups: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let mark = format!("{DIRECTORY}={}", folder.display());
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten().map(|entry| entry.path()) {
        let Some(group) = group_of(&process).filter(|group| *group > 1 && groups.contains(group)) else {
            continue;
        };
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
    forget(folder);
}

/// The group of a process, from `/proc/PID/stat`. Its name, in parentheses, may hold anything.
fn group_of(process: &Path) -> Option<i32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(2)?.parse().ok()
}
