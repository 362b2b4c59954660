//! A folder with a plan, and what stands in for a driver and a recording.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use migtrace::study::run::{Run, RunOutcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time limits and the driver that most plans have. Each command writes down that it was called. At the step that
/// `STOP_AT` names, it does not go on.
const DRIVER: &str = r#"
[driver]
prepare = ". ./steps.sh; step prepare; echo NOTE=of-$STUDY_RUN > $STUDY_VARIABLES"
migrate = ". ./steps.sh; step migrate; sleep 0.1; : > $STUDY_DIRECTORY/migrated; $AT_MIGRATE"
clean_up = ". ./steps.sh; step clean_up"
[record]
command = "./record.sh"
"#;

/// Writes down each step. A step that does not go on has a child of its own.
const STEPS: &str = r#"
step() {
    echo "$1 $STUDY_RUN" >> steps
    if [ "${STOP_AT:-}" = "$1" ] && [ ! -e stopped ]; then
        sleep 1000 &
        echo "$$ $!" >> stopped
        wait
    fi
}
"#;

/// Stands in for `migtrace record`: it ends with the migration, and leaves a record.
const RECORD: &str = r#"#!/bin/sh
. ./steps.sh
while [ $# -gt 0 ]; do
    case $1 in --output) output=$2; shift ;; esac
    shift
done
interrupted() { cp failed.json "$output"; exit 3; }
trap interrupted INT TERM
step record
case ${RECORDS:-} in
    broken) echo "cannot load the programs" >&2; exit 1 ;;
    forever) mark=never ;;
    *) mark=migrated ;;
esac
echo "counting TCP ports" >&2
echo ready >&2
while [ ! -e "$STUDY_DIRECTORY/$mark" ]; do sleep 0.02; done
step report
cp "${RECORD_FILE:-completed.json}" "$output"
"#;

/// A folder with a plan.
pub(crate) struct Scene {
    folder: TempDir,
}

impl Scene {
    /// A plan with these lines before the driver's.
    pub(crate) fn new(plan: &str) -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        scene.write("steps.sh", STEPS);
        scene.write_program("record.sh", RECORD);
        let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs");
        for (name, record) in [("completed", "precopy-7.2"), ("failed", "failed")] {
            let from = logs.join(format!("{record}.record.json"));
            fs::copy(from, scene.path(&format!("{name}.json"))).unwrap();
        }
        scene.write_plan(&format!("title = \"A test\"\n{plan}{DRIVER}"));
        scene
    }

    /// A plan with one axis of two cells.
    pub(crate) fn of_two_cells(runs: &str) -> Self {
        let axis = "[[axis]]\nname = \"size\"\nvalues = [\"small\", \"large\"]\n";
        Self::new(&format!("{axis}[runs]\nshuffle = false\n{runs}\n"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn write_program(&self, name: &str, text: &str) {
        self.write(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn write_plan(&self, text: &str) {
        self.write("plan.toml", text);
    }

    /// The plan with something replaced, which must be there.
    pub(crate) fn change_plan(&self, from: &str, to: &str) {
        let plan = fs::read_to_string(self.path("plan.toml")).unwrap();
        assert!(plan.contains(from), "{plan}");
        self.write_plan(&plan.replace(from, to));
    }

    /// `migtrace study run` of the plan.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace"));
        command.args(["study", "run"]).arg(self.path("plan.toml")).arg("--output").arg(self.path("study"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, variables: &[(&str, &str)]) -> Done {
        self.command().envs(variables.iter().copied()).output().unwrap().into()
    }

    /// Starts it, and waits until it has come to a step.
    pub(crate) fn start_and_stop_at(&self, step: &str) -> Child {
        let mut child = self.command().env("STOP_AT", step).spawn().unwrap();
        wait_for(&format!("{step} is reached"), || {
            assert_eq!(child.try_wait().unwrap(), None, "{step}: it has ended");
            fs::read_to_string(self.path("stopped")).is_ok_and(|text| text.ends_with('\n'))
        });
        child
    }

    /// The steps that were called, in their order.
    pub(crate) fn steps(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("steps")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The processes of the step that did not go on.
    pub(crate) fn stopped(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.path("stopped")).unwrap();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// The folders of the runs, sorted.
    pub(crate) fn folders(&self) -> Vec<String> {
        let Ok(folders) = fs::read_dir(self.path("study/runs")) else { return Vec::new() };
        let mut names: Vec<_> =
            folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn run_path(&self, folder: &str, file: &str) -> PathBuf {
        self.path("study/runs").join(folder).join(file)
    }

    /// What a run has left.
    pub(crate) fn read_run(&self, folder: &str) -> Run {
        let text = fs::read_to_string(self.run_path(folder, "run.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        serde_json::from_value(value).unwrap()
    }

    /// Why a run has failed.
    pub(crate) fn why(&self, folder: &str) -> String {
        match self.read_run(folder).outcome {
            RunOutcome::Failed { why } => why,
            other => panic!("{folder}: {other:?}"),
        }
    }
}

/// How `migtrace study run` has ended, and what it said.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let done = Self { code: output.status.code(), stderr };
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        done
    }
}

/// Waits for something that must come.
pub(crate) fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// Whether a process runs. One that has ended and that nobody waits for does not.
pub(crate) fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
