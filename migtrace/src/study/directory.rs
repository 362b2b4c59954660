//! The folder of a study.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::order::{self, PlannedRun};
use super::plan::{Plan, PlanError};
use super::run::{self, Run};

/// The schema name that every study carries.
pub const SCHEMA: &str = "migtrace.study/1";
/// The end of the name of a run's folder that was cut off.
const CUT_OFF: &str = "-cut-off";

/// What fixes a study: what it was begun with.
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
    #[error("{} is {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
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
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether it was cut off and nobody has seen to it yet.
    #[must_use]
    pub fn needs_clean_up(&self) -> bool {
        self.run.is_none() && !self.name().contains(CUT_OFF)
    }

    /// The name that it gets once it was seen to, the first that is free.
    #[must_use]
    pub fn name_when_cut_off(&self) -> PathBuf {
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

    /// What fixes the study.
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

    /// Reads what fixes the study.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn study(&self) -> Result<Study, DirectoryError> {
        let path = self.study_path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(DirectoryError::NoStudy { path: self.path.clone() });
            }
            Err(source) => return Err(DirectoryError::Read { path, source }),
        };
        read(path, &text, SCHEMA)
    }

    /// The folders of all runs, in the order of their numbers and then of their names.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn runs(&self) -> Result<Vec<RunFolder>, DirectoryError> {
        let path = self.runs_path();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(DirectoryError::Read { path, source }),
        };
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| DirectoryError::Read { path: path.clone(), source })?;
            folders.extend(run_folder(entry.path())?);
        }
        folders.sort_by(|a, b| (a.number, &a.path).cmp(&(b.number, &b.path)));
        Ok(folders)
    }
}

/// The folder of a run; none if it is something else.
pub(super) fn run_folder(path: PathBuf) -> Result<Option<RunFolder>, DirectoryError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.split_once('-').and_then(|(number, _)| number.parse().ok());
    let Some(number) = number.filter(|_| path.is_dir()) else { return Ok(None) };
    let file = path.join("run.json");
    let run: Option<Run> = match fs::read(&file) {
        Ok(text) => Some(read(file, &text, run::SCHEMA)?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(DirectoryError::Read { path: file, source }),
    };
    Ok(Some(RunFolder { path, number, run }))
}

/// Reads JSON with a schema's name.
fn read<T: for<'de> Deserialize<'de>>(path: PathBuf, text: &[u8], schema: &str) -> Result<T, DirectoryError> {
    let broken = |why: String| DirectoryError::Broken { path: path.clone(), why };
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| broken(format!("damaged: {error}")))?;
    match value.get("schema").and_then(serde_json::Value::as_str) {
        Some(name) if name == schema => {}
        Some(name) => {
            return Err(broken(format!(
                "of another version: its schema is `{name}`, this migtrace reads `{schema}`"
            )));
        }
        None => return Err(broken("no file of migtrace's: it has no schema".into())),
    }
    serde_json::from_value(value).map_err(|error| broken(format!("damaged: {error}")))
}
