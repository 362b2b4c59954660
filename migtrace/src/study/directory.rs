//! The folder of a study.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::order::{self, PlannedRun};
use super::plan::{Plan, PlanError};
use super::run::{self, Run};
use crate::schema::{self, ReadError};

/// The schema name that every study carries.
pub const SCHEMA: &str = "migtrace.study/1";
/// The file in a run's folder that says how it went.
pub const RUN_FILE: &str = "run.json";
/// The file in a run's folder with its record.
pub const RECORD_FILE: &str = "record.json";
/// The end of the name of a run's folder that was cut off.
const CUT_OFF: &str = "-cut-off";

/// What a study was begun with. It never changes.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Study {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of migtrace that began it.
    pub migtrace: String,
    /// Its plan.
    pub plan: Plan,
    /// Its runs, in their order.
    pub order: Vec<PlannedRun>,
}

impl Study {
    /// A study that begins.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let order = order::runs(&plan);
        Self { schema: SCHEMA.to_owned(), migtrace: env!("CARGO_PKG_VERSION").to_owned(), plan, order }
    }
}

/// Why the folder of a study cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The file system says so.
    #[error("cannot read {}", .path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds no study.
    #[error("{} is not the folder of a study: it has no study.json", .path.display())]
    NoStudy {
        /// The folder.
        path: PathBuf,
    },
    /// A file is not what its name says.
    #[error("{}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ReadError,
    },
    /// The plan is none.
    #[error("{}", .path.display())]
    Plan {
        /// The plan.
        path: PathBuf,
        /// What is wrong with it.
        source: PlanError,
    },
}

/// The folder of a study.
#[derive(Clone, Debug)]
pub struct StudyDirectory {
    path: PathBuf,
}

/// The folder of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunFolder {
    /// Where it is.
    pub path: PathBuf,
    /// The number of its run in the order of the study.
    pub number: u32,
    /// What the run left; none if it was cut off.
    pub run: Option<Run>,
}

impl RunFolder {
    /// Reads the folder at this path; none if it is something else.
    ///
    /// # Errors
    /// What the run left cannot be read.
    pub fn read(path: PathBuf) -> Result<Option<Self>, DirectoryError> {
        let Some(number) = number_of(&path).filter(|_| path.is_dir()) else { return Ok(None) };
        let run = read(path.join(RUN_FILE), run::SCHEMA)?;
        Ok(Some(Self { path, number, run }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Which attempt at its run it is of, by its name.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.name().rsplit_once("-attempt").and_then(|(_, number)| number.parse().ok()).unwrap_or(1)
    }

    /// Whether it was cut off and nobody has seen to it yet.
    #[must_use]
    pub fn needs_clean_up(&self) -> bool {
        self.run.is_none() && !self.name().contains(CUT_OFF)
    }

    /// Where it is kept once it was seen to: under the first such name that is free.
    #[must_use]
    pub fn path_when_cut_off(&self) -> PathBuf {
        let numbered = |number: u32| {
            let number = if number == 1 { String::new() } else { number.to_string() };
            self.path.with_file_name(format!("{}{CUT_OFF}{number}", self.name()))
        };
        (1..).map(numbered).find(|path| fs::symlink_metadata(path).is_err()).unwrap_or_else(|| numbered(1))
    }
}

impl StudyDirectory {
    /// The folder at this path, whether or not it is there.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The plan, as it was written.
    #[must_use]
    pub fn plan_path(&self) -> PathBuf {
        self.path.join("plan.toml")
    }

    /// What the study was begun with.
    #[must_use]
    pub fn study_path(&self) -> PathBuf {
        self.path.join("study.json")
    }

    /// The folders of the runs.
    #[must_use]
    pub fn runs_path(&self) -> PathBuf {
        self.path.join("runs")
    }

    /// Reads the plan, with its present layout.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn plan(&self) -> Result<Plan, DirectoryError> {
        let path = self.plan_path();
        match fs::read_to_string(&path) {
            Ok(text) => Plan::parse(&text).map_err(|source| DirectoryError::Plan { path, source }),
            Err(source) => Err(DirectoryError::Read { path, source }),
        }
    }

    /// Reads what the study was begun with.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn study(&self) -> Result<Study, DirectoryError> {
        let study = read(self.study_path(), SCHEMA)?;
        study.ok_or_else(|| DirectoryError::NoStudy { path: self.path.clone() })
    }

    /// The folders of all runs, in the order of their numbers and then of their names. What cannot be read is an error
    /// among them.
    #[must_use]
    pub fn runs(&self) -> Vec<Result<RunFolder, DirectoryError>> {
        let path = self.runs_path();
        let unreadable = |source| Err(DirectoryError::Read { path: path.clone(), source });
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => return vec![unreadable(error)],
        };
        let mut folders = Vec::new();
        let mut paths = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => paths.push(entry.path()),
                Err(error) => folders.push(unreadable(error)),
            }
        }
        paths.sort_by_cached_key(|path| (number_of(path), path.clone()));
        folders.extend(paths.into_iter().filter_map(|path| RunFolder::read(path).transpose()));
        folders
    }
}

/// The number of the run whose folder has this name.
fn number_of(path: &Path) -> Option<u32> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split_once('-').and_then(|(number, _)| number.parse().ok())
}

/// Reads a file of migtrace's; none if it is not there.
fn read<T: DeserializeOwned>(path: PathBuf, schema: &'static str) -> Result<Option<T>, DirectoryError> {
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DirectoryError::Read { path, source }),
    };
    match schema::read(&json, schema) {
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(DirectoryError::Broken { path, source }),
    }
}
