//! Which axes are the rows and the columns of tables, and what is left for several tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Choice, Place, Titled, TitledValue};
use crate::study::order;
use crate::study::plan::Plan;

/// Which axes are the rows and the columns of tables.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct TableLayout {
    /// The axis whose values are the rows; null if the only axis is the columns.
    pub rows: Option<String>,
    /// The axis whose values are the columns; null if the only axis is the rows.
    pub columns: Option<String>,
}

/// An axis that the study does not have, or that was chosen for both rows and columns.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
#[error("`{axis}` cannot be the {what} of the tables; the study's axes are {axes}, each for one of both")]
pub struct UnknownAxis {
    axis: String,
    what: &'static str,
    axes: String,
}

impl TableLayout {
    /// What the reader chose, or else the plan, or else the first axes that are left.
    pub(super) fn resolve(plan: &Plan, choice: &Choice) -> Result<Self, UnknownAxis> {
        let names: Vec<&str> = plan.axes.iter().map(|axis| axis.name.as_str()).collect();
        let refused = |axis: &str, what| UnknownAxis {
            axis: axis.to_owned(),
            what,
            axes: names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        };
        let [mut rows, mut columns] = [choice.rows.as_deref(), choice.columns.as_deref()];
        if rows.is_some() && rows == columns {
            return Err(refused(columns.unwrap_or_default(), "rows and the columns"));
        }
        rows = rows.or_else(|| plan.report.rows.as_deref().filter(|axis| Some(*axis) != columns));
        columns = columns.or_else(|| plan.report.columns.as_deref().filter(|axis| Some(*axis) != rows));
        for (axis, what) in [(rows, "rows"), (columns, "columns")] {
            if let Some(axis) = axis.filter(|axis| !names.contains(axis)) {
                return Err(refused(axis, what));
            }
        }
        rows = rows.or_else(|| names.iter().copied().find(|name| Some(*name) != columns));
        columns = columns.or_else(|| names.iter().copied().find(|name| Some(*name) != rows));
        Ok(Self { rows: rows.map(str::to_owned), columns: columns.map(str::to_owned) })
    }

    /// Whether an axis is the rows or the columns.
    fn has(&self, axis: &str) -> bool {
        [&self.rows, &self.columns].into_iter().flatten().any(|name| name == axis)
    }
}

/// The axes with what they are called.
pub(super) fn axes(plan: &Plan) -> Vec<Titled> {
    let title = |title: &Option<String>, name: &str| title.clone().unwrap_or_else(|| name.to_owned());
    let axis = plan.axes.iter().map(|axis| Titled {
        name: axis.name.clone(),
        title: title(&axis.title, &axis.name),
        values: axis
            .values
            .iter()
            .map(|value| TitledValue { name: value.name.clone(), title: title(&value.title, &value.name) })
            .collect(),
    });
    axis.collect()
}

impl Answer {
    /// The places that differ in the axes that are neither rows nor columns: one table each. A single empty one if there are
    /// no such axes.
    #[must_use]
    pub fn tables(&self) -> Vec<Place> {
        let others = self.axes.iter().filter(|axis| !self.layout.has(&axis.name));
        order::combinations(others.map(|axis| (&*axis.name, axis.values.iter().map(|value| &*value.name))))
    }

    /// The values of the rows; a single none if there are none.
    #[must_use]
    pub fn rows(&self) -> Vec<Option<&TitledValue>> {
        self.values(self.layout.rows.as_deref())
    }

    /// The values of the columns; a single none if there are none.
    #[must_use]
    pub fn columns(&self) -> Vec<Option<&TitledValue>> {
        self.values(self.layout.columns.as_deref())
    }

    fn values(&self, axis: Option<&str>) -> Vec<Option<&TitledValue>> {
        let axis = axis.and_then(|name| self.axis(name));
        axis.map_or_else(|| vec![None], |axis| axis.values.iter().map(Some).collect())
    }

    /// The place of a table's cell.
    #[must_use]
    pub fn place(&self, table: &Place, row: Option<&TitledValue>, column: Option<&TitledValue>) -> Place {
        let mut place = table.clone();
        for (axis, value) in [(&self.layout.rows, row), (&self.layout.columns, column)] {
            if let Some((axis, value)) = axis.as_ref().zip(value) {
                place.insert(axis.clone(), value.name.clone());
            }
        }
        place
    }
}
