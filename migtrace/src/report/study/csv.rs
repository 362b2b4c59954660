//! The figures of every run as CSV (RFC 4180), one line for each figure of each run.

use std::io;

use ::csv::{IntoInnerError, Terminator, WriterBuilder};

use crate::study::answer::{Answer, Reading, RunFigures, Step, Unit};
use crate::terminal;

/// The columns before those of the axes, which are `axis_` and the axis' name.
const BEFORE: [&str; 5] = ["run", "attempt", "repetition", "counts", "left_out"];
/// The columns after them.
const AFTER: [&str; 6] = ["figure", "step", "unit", "value", "low", "high"];

/// What a line says after what it says of the run.
struct Line<'a> {
    figure: &'static str,
    step: &'a str,
    unit: &'static str,
    reading: Option<Reading>,
}

/// The table. A run of which no figure is known has one line without a figure.
///
/// # Errors
/// Never, as long as there is memory.
pub fn render(answer: &Answer) -> io::Result<String> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    let axes = || answer.axes.iter().map(|axis| format!("axis_{}", axis.name));
    let heads = BEFORE.map(str::to_owned).into_iter().chain(axes()).chain(AFTER.map(str::to_owned));
    writer.write_record(heads.map(|head| text(&head)))?;
    for run in &answer.runs {
        let before = of_run(answer, run);
        for line in lines(run) {
            writer.write_record(before.iter().cloned().chain(fields(&line)))?;
        }
    }
    let bytes = writer.into_inner().map_err(IntoInnerError::into_error)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn of_run(answer: &Answer, run: &RunFigures) -> Vec<String> {
    let repetition = run.repetition.map(|number| number.to_string()).unwrap_or_default();
    let counts = if run.left_out.is_none() { "yes" } else { "no" };
    let left_out = text(run.left_out.as_deref().unwrap_or_default());
    let before = [run.number.to_string(), run.attempt.to_string(), repetition, counts.to_owned(), left_out];
    let values =
        answer.axes.iter().map(|axis| text(run.cell.get(&axis.name).map_or("", |value| value.as_str())));
    before.into_iter().chain(values).collect()
}

fn lines(run: &RunFigures) -> Vec<Line<'_>> {
    let figures = run.figures.iter().map(|measured| Line {
        figure: measured.figure.as_str(),
        step: "",
        unit: measured.figure.unit().as_str(),
        reading: Some(measured.reading),
    });
    let phases = run.phases.iter().flat_map(|step| of_step(["phase_time", "phase_bytes"], step));
    let parts = run.parts.iter().flat_map(|step| of_step(["part_time", "part_bytes"], step));
    let mut lines: Vec<_> = figures.chain(phases).chain(parts).collect();
    if lines.is_empty() {
        lines.push(Line { figure: "", step: "", unit: "", reading: None });
    }
    lines
}

fn of_step<'a>([time, bytes]: [&'static str; 2], step: &'a Step) -> impl Iterator<Item = Line<'a>> {
    let line = |figure, unit: Unit, reading| Line {
        figure,
        step: &step.name,
        unit: unit.as_str(),
        reading: Some(reading),
    };
    let time = line(time, Unit::Ns, step.time_ns);
    [Some(time), step.wire_bytes.map(|sent| line(bytes, Unit::Bytes, sent))].into_iter().flatten()
}

fn fields(line: &Line<'_>) -> [String; 6] {
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    [
        line.figure.to_owned(),
        text(line.step),
        line.unit.to_owned(),
        number(line.reading.map(|reading| reading.value)),
        number(line.reading.and_then(|reading| reading.low)),
        number(line.reading.and_then(|reading| reading.high)),
    ]
}

/// Text from outside. A spreadsheet would take some beginnings for a formula; a quotation mark before them makes it text.
fn text(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    format!("{}{}", if is_formula { "'" } else { "" }, terminal::clean(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_begins_a_formula() {
        for bad in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1"] {
            assert!(text(bad).starts_with('\''), "{bad}");
        }
        assert_eq!(text("t"), "t");
        assert_eq!(text("a\nb"), "a\\nb");
    }
}
