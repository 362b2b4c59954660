//! The folder of a study, opened to run it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use migtrace::files;
use migtrace::study::difference;
use migtrace::study::directory::{DirectoryError, Study, StudyDirectory};
use migtrace::study::plan::Plan;
use serde::Serialize;

/// The folder of a study. No other `study run` has it.
pub(super) struct Opened {
    pub(super) directory: StudyDirectory,
    pub(super) study: Study,
    _lock: File,
}

/// Opens the folder: a new one, an empty one, or one of a study that asks for the same runs. `text` is the plan's.
pub(super) fn open(path: &Path, plan: &Plan, text: &str) -> Result<Opened> {
    let cannot = || format!("cannot use {} for a study", path.display());
    fs::create_dir_all(path).with_context(cannot)?;
    let path = fs::canonicalize(path).with_context(cannot)?;
    if path.to_str().is_none() {
        bail!("the name of {} is not UTF-8; commands could not be told of it", path.display());
    }
    let lock = lock(&path)?;
    let directory = StudyDirectory::new(path);
    let study = match directory.study() {
        Ok(study) => going_on(&directory, study, plan)?,
        Err(DirectoryError::NoStudy { path }) => {
            check_empty(&path)?;
            let study = Study::new(plan.clone());
            write_json(&directory.study_path(), &study)?;
            study
        }
        Err(error) => return Err(error.into()),
    };
    // Its titles and its layout may have changed.
    if fs::read_to_string(directory.plan_path()).ok().as_deref() != Some(text) {
        write_whole(&directory.plan_path(), text)?;
    }
    fs::create_dir_all(directory.runs_path()).context("cannot make the folder of the runs")?;
    Ok(Opened { directory, study, _lock: lock })
}

/// As long as the folder is open, nobody else runs its study.
fn lock(path: &Path) -> Result<File> {
    let cannot = || format!("cannot lock {}", path.display());
    let folder = File::open(path).with_context(cannot)?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another `migtrace study run` is using {}; wait for it, or name another folder",
                path.display()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
    }
}

/// Checks that the study is that of the plan.
fn going_on(directory: &StudyDirectory, mut study: Study, plan: &Plan) -> Result<Study> {
    if let Some(difference) = difference(&study.plan, plan) {
        bail!(
            "{} is a study of another plan: {difference}. Its runs must not be mixed with others: name another folder, or \
             use the plan in it, plan.toml",
            directory.path().display()
        );
    }
    // The order is the one that it was begun with, whatever this version would make of the seed.
    study.plan = plan.clone();
    Ok(study)
}

/// A study that was killed at its very beginning has left no more than files that have not got their names.
fn check_empty(path: &Path) -> Result<()> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    for entry in entries {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_none_or(|extension| extension != "partial") {
            bail!(
                "{} is not empty and holds no study ({} is in it); name a new folder",
                path.display(),
                name.to_string_lossy()
            );
        }
    }
    Ok(())
}

/// Writes a value as [`write_whole`] does.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_whole(path, &(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes a file that is there as a whole, even after a loss of power, or not at all.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let write = || -> io::Result<()> {
        files::write_synced(path, 0o666, text.as_bytes())?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The folder of a plan, in which its commands run.
pub(super) fn of_plan(path: &Path) -> Result<PathBuf> {
    let whole = fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(whole.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned))
}
