//! What a study varies, how often it repeats it, and which commands drive it.

mod check;
mod error;
mod references;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::PlanError;
pub use references::{Unset, expand};
pub use values::{Value, Variables, text_of};

/// The plan of a study, as its TOML file has it.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What the study is about, in one line.
    pub title: String,
    /// The same in more words.
    #[serde(default)]
    pub description: String,
    /// Environment variables of the driver that are the same in every cell.
    #[serde(default, deserialize_with = "values::scalars")]
    pub variables: Variables,
    /// What is varied. Each combination of their values is a cell.
    #[serde(rename = "axis")]
    pub axes: Vec<Axis>,
    /// Combinations that are left out: names of axes with the names of their values, all of which must match.
    #[serde(default, rename = "except")]
    pub exceptions: Vec<Cell>,
    /// How often, and in which order.
    #[serde(default)]
    pub runs: Runs,
    /// How long each command of the driver may take.
    #[serde(default)]
    pub limits: Limits,
    /// What to do with a migration that does not end.
    pub convergence: Option<Convergence>,
    /// The commands.
    pub driver: Driver,
    /// How the migrations are recorded.
    #[serde(default)]
    pub record: Recording,
    /// The method of lost pings and a byte meter, to be carried out beside it.
    #[serde(default)]
    pub old_method: OldMethod,
    /// How the answer is laid out.
    #[serde(default)]
    pub report: Layout,
    /// Figures of others, to be shown beside the measured.
    pub published: Option<Published>,
}

impl Plan {
    /// Reads a plan, and checks that it can be run.
    ///
    /// # Errors
    /// It is no TOML, or no plan; the error says where, and what to do.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        let plan: Self = toml::from_str(text).map_err(|error| PlanError::of_toml(&error, text))?;
        check::check(&plan)?;
        Ok(plan)
    }

    /// The name of a cell's value on each axis, in the order of the axes.
    pub fn names_of<'a>(&'a self, cell: &'a Cell) -> impl Iterator<Item = &'a str> {
        self.axes.iter().filter_map(|axis| cell.get(&axis.name)).map(String::as_str)
    }
}

/// A combination of values: the name of each axis with that of its value.
pub type Cell = BTreeMap<String, String>;

/// Whether a cell has all of these values, which may be those of some axes only.
pub(crate) fn has_all(cell: &Cell, values: &Cell) -> bool {
    values.iter().all(|(axis, value)| cell.get(axis) == Some(value))
}

/// One condition that is varied.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// Its name: `flavour`. The driver has its value in `STUDY_FLAVOUR`. One called `load` goes from the least load of the
    /// guest's memory to the most: the answer checks that it makes passes.
    pub name: String,
    /// What the report calls it, if not by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Its values, in the order in which the report has them.
    pub values: Vec<Value>,
}

impl Axis {
    /// The first and the last value; none if there is only one.
    pub(super) fn ends(&self) -> Option<[&Value; 2]> {
        match &self.values[..] {
            [first, .., last] => Some([first, last]),
            _ => None,
        }
    }
}

/// How often each cell is run, and in which order.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Runs {
    /// How often each cell is run.
    pub repetitions: u32,
    /// Runs before the first, which are kept but not counted.
    pub warm_up: u32,
    /// Whether each repetition runs the cells in another order.
    pub shuffle: bool,
    /// What that order is made from.
    pub seed: u64,
    /// How often a run is tried until it succeeds.
    pub attempts: u32,
    /// The time between two runs.
    #[serde(with = "values::duration")]
    pub pause: Duration,
}

impl Default for Runs {
    fn default() -> Self {
        Self { repetitions: 1, warm_up: 0, shuffle: true, seed: 1, attempts: 1, pause: Duration::ZERO }
    }
}

/// How long each command may take.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Of `driver.prepare`.
    #[serde(with = "values::duration")]
    pub prepare: Duration,
    /// Of `driver.migrate`.
    #[serde(with = "values::duration")]
    pub migrate: Duration,
    /// Of `driver.clean_up`.
    #[serde(with = "values::duration")]
    pub clean_up: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |number: u64| Duration::from_secs(60 * number);
        Self { prepare: minutes(10), migrate: minutes(30), clean_up: minutes(5) }
    }
}

/// What to do with a migration that does not converge.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Convergence {
    /// What.
    pub action: Action,
    /// How long after its beginning.
    #[serde(default, with = "values::some_duration", skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
}

/// How a migration that does not converge is made to end.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The guest is slowed down; the driver asks for that from the beginning.
    AutoConverge,
    /// The guest moves before its memory.
    Postcopy,
    /// The guest is suspended until it has moved.
    Suspend,
    /// The migration is cancelled.
    Abort,
}

/// The commands that make a migration happen: command lines of `sh`, run in the folder of the plan.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Driver {
    /// Makes everything ready for the migration of one run.
    pub prepare: Option<String>,
    /// Migrates, and ends with it; successfully if it has completed.
    pub migrate: String,
    /// Makes a migration end that does not converge.
    pub converge: Option<String>,
    /// Removes what `prepare` has made, and what a killed run may have left.
    pub clean_up: Option<String>,
}

/// How the migrations are recorded: the options of `migtrace record`.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    /// What starts migtrace, if not this program: `ip netns exec management migtrace`.
    pub command: Option<String>,
    /// `--vm`.
    pub vm: Option<String>,
    /// `--peer`, for each.
    pub peers: Vec<String>,
    /// `--rsh`; it also reaches the hosts of the old method.
    pub rsh: Option<String>,
    /// `--probe`.
    pub probe: Option<String>,
    /// `--probe-from`.
    pub probe_from: Option<String>,
    /// `--probe-interval`.
    pub probe_interval: Option<String>,
    /// Other options.
    pub options: Vec<String>,
}

/// The method of 2014: echo requests every 200 ms, and a meter of all bytes of an interface.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OldMethod {
    /// The address to ping.
    pub ping: Option<String>,
    /// From which host; none for this one.
    pub ping_from: Option<String>,
    /// On which host bytes are metered; none for this one.
    pub meter_host: Option<String>,
    /// At which interface; none for all but the loopback interface.
    pub meter_interface: Option<String>,
}

/// How the answer is laid out.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Layout {
    /// The axis whose values are the rows of its tables.
    pub rows: Option<String>,
    /// The axis whose values are the columns.
    pub columns: Option<String>,
}

/// Figures that others have published.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Who, when, and on what.
    pub source: String,
    /// The figures.
    pub cells: Vec<PublishedCell>,
}

impl Action {
    /// As a plan has it, and `STUDY_CONVERGENCE`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AutoConverge => "auto-converge",
            Self::Postcopy => "postcopy",
            Self::Suspend => "suspend",
            Self::Abort => "abort",
        }
    }
}

/// The figures of one cell.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PublishedCell {
    /// How long the migration took, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_s: Option<f64>,
    /// How long the guest was gone, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_s: Option<f64>,
    /// What was transferred, in MB (10^6 bytes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_mb: Option<f64>,
    /// Which cell: names of axes with the names of their values.
    #[serde(flatten)]
    pub at: Cell,
}
