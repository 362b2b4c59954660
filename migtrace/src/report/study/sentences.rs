//! What the figures say, in sentences. Each is made of the finding's own numbers.

use std::fmt::Write as _;

use super::numbers::{amount, ratio, reading};
use super::words::{constants, counted, label, must_hold, short_title};
use crate::report::content::{Piece, Section, clean, said};
use crate::study::answer::{
    Answer, Check, CheckName, Correlation, Differences, Figure, Misfit, Pair, Ratios, ShareOf, Unit,
};

/// How many pairs of cells a sentence names.
const MOST_PAIRS: usize = 10;

/// What the study is about, and how far it is.
pub(super) fn headline(answer: &Answer) -> Section {
    let mut pieces = vec![said("", clean(&answer.title)), said("", so_far(answer))];
    let constants = constants(answer);
    if !constants.is_empty() {
        pieces.push(said("", constants));
    }
    if !answer.description.is_empty() {
        pieces.push(Piece::Space);
        pieces.extend(answer.description.lines().map(|line| said("  ", clean(line))));
    }
    Section::untitled(pieces)
}

/// `12 of 30 runs done, 1 failed`.
pub(in crate::report) fn so_far(answer: &Answer) -> String {
    let progress = &answer.progress;
    let mut said = format!("{} of {} done", progress.ended, counted(progress.planned, "run"));
    let others =
        [(progress.failed, "failed"), (progress.under_way, "under way"), (progress.cut_off, "cut off")];
    for (number, what) in others.into_iter().filter(|(number, _)| *number > 0) {
        let _ = write!(said, ", {number} {what}");
    }
    said
}

/// A list under its title; none without items.
fn list(title: &str, items: impl IntoIterator<Item = String>) -> Option<Section> {
    let items: Vec<_> = items.into_iter().map(|item| Piece::Item(clean(&item))).collect();
    (!items.is_empty()).then(|| Section::titled(title, items))
}

pub(in crate::report) fn findings(answer: &Answer) -> Option<Section> {
    list("What the figures say", all_findings(answer))
}

/// What was checked, and what does not fit; nothing as long as no run counts.
pub(in crate::report) fn checks(answer: &Answer) -> Option<Section> {
    let any_counts = answer.cells.iter().any(|cell| !cell.runs.is_empty());
    let pieces = answer.checks.iter().flat_map(|of| {
        let misfits = of.misfits.iter().map(|misfit| said("      ", clean(&misfit_of(answer, of, misfit))));
        std::iter::once(Piece::Item(check(of))).chain(misfits)
    });
    any_counts.then(|| Section::titled("Do the figures make sense?", pieces.collect()))
}

/// The attempts that do not count, the cells without any that does, and what could not be read.
pub(in crate::report) fn left_out(answer: &Answer) -> Vec<Section> {
    let attempts = answer.runs.iter().filter_map(|run| {
        let why = run.left_out.as_ref()?;
        let attempt = if run.attempt > 1 { format!(", attempt {}", run.attempt) } else { String::new() };
        Some(format!("run {}{attempt} ({}): {why}", run.number, label(answer, &run.cell)))
    });
    let empty = answer.cells.iter().filter(|cell| cell.runs.is_empty());
    let lists = [
        list("Left out", attempts),
        list("Cells without a run that counts", empty.map(|cell| label(answer, &cell.at))),
        list("Not readable", answer.problems.iter().cloned()),
    ];
    lists.into_iter().flatten().collect()
}

/// The sentences that the data supports.
fn all_findings(answer: &Answer) -> Vec<String> {
    let findings = &answer.findings;
    let ratios = findings.ratios.iter().map(|ratios| of_ratios(answer, ratios));
    let shares = of_shares(answer, &findings.shares);
    let correlation = findings.correlation.as_ref().map(of_correlation);
    let differences = findings.differences.iter().filter_map(|found| of_differences(answer, found));
    ratios.chain(shares).chain(correlation).chain(differences).chain(without_spread(answer)).collect()
}

fn of_ratios(answer: &Answer, ratios: &Ratios) -> String {
    let (verb, than) = match ratios.figure {
        Figure::TotalTime => ("the migration takes", "as long"),
        Figure::Stop => ("the guest stands still", "as long"),
        _ => ("the migration sends", "as many bytes"),
    };
    let each = ratios.of.iter().enumerate().map(|(at, of)| {
        let than = if at == 0 { format!(" {than}") } else { String::new() };
        let place = label(answer, &of.at);
        let place = if place.is_empty() { place } else { format!(" at {place}") };
        format!("{} times{than}{place}", ratio(&of.ratio))
    });
    format!("{} against {}: {verb} {}.", ratios.last, ratios.first, each.collect::<Vec<_>>().join("; "))
}

fn of_shares(answer: &Answer, shares: &[ShareOf]) -> Option<String> {
    let said = |of: &ShareOf| format!("{} ({})", reading(Unit::Ppm, &of.share_ppm), label(answer, &of.at));
    let (first, last) = (shares.first()?, shares.last()?);
    Some(if shares.len() == 1 {
        format!("The stop's share of the migration time is {}.", said(first))
    } else {
        format!(
            "Of {} cells, the stop's share of the migration time is smallest with {} and largest with {}.",
            shares.len(),
            said(first),
            said(last)
        )
    })
}

fn of_correlation(found: &Correlation) -> String {
    let cells = found.cells;
    let of = "the stop and the migration time";
    let Some(coefficient) = found.coefficient else {
        return format!(
            "There is no rank correlation of {of}: one of them has the same median in all {cells} cells."
        );
    };
    let said =
        format!("Spearman's rank correlation of {of} is {coefficient:.2}, over the medians of {cells} cells");
    if found.is_enough {
        return format!("{said}.");
    }
    let chance = match cells {
        2 => "2 cells are always in the same or the reversed order".to_owned(),
        _ => format!(
            "by chance alone, {cells} cells are in the same or the reversed order once in {} times",
            (1..=cells).product::<u64>() / 2
        ),
    };
    format!("{said}. Those are too few to mean anything: {chance}.")
}

fn of_differences(answer: &Answer, found: &Differences) -> Option<String> {
    let judged = found.apart.len() + found.not_apart.len();
    let end = if found.not_apart.is_empty() {
        ".".to_owned()
    } else {
        format!("; these do not: {}.", pairs_of(answer, &found.not_apart))
    };
    (judged > 0).then(|| {
        format!(
            "{}: {} of {} of cells that differ in one condition differ by more than their spread{end}",
            short_title(found.figure),
            found.apart.len(),
            counted(judged as u64, "pair")
        )
    })
}

/// What cannot be said of differences, once for all figures of which the same cannot be said.
fn without_spread(answer: &Answer) -> Vec<String> {
    let unknown = |found: &&Differences| !found.not_known.is_empty();
    let found: Vec<_> = answer.findings.differences.iter().filter(unknown).collect();
    if !found.is_empty() && answer.cells.iter().all(|cell| cell.runs.len() <= 1) {
        let at_most = if answer.cells.iter().any(|cell| cell.runs.is_empty()) { " at most" } else { "" };
        return vec![format!(
            "With one run a cell{at_most}, it cannot be said which cells differ by more than their spread."
        )];
    }
    let same = found.chunk_by(|one, next| one.not_known == next.not_known);
    let said = same.map(|same| {
        let figures = same.iter().map(|found| short_title(found.figure)).collect::<Vec<_>>().join(", ");
        format!(
            "{figures}: it cannot be said whether {} of cells differ by more than their spread: one cell of each pair has \
             fewer than two runs in which the figure is known.",
            counted(same[0].not_known.len() as u64, "pair")
        )
    });
    said.collect()
}

fn pairs_of(answer: &Answer, pairs: &[Pair]) -> String {
    let pair = |pair: &Pair| format!("({}) and ({})", label(answer, &pair.one), label(answer, &pair.other));
    let mut named: Vec<String> = pairs.iter().take(MOST_PAIRS).map(pair).collect();
    if pairs.len() > MOST_PAIRS {
        named.push(format!("and {} more", pairs.len() - MOST_PAIRS));
    }
    named.join("; ")
}

/// What a check found.
fn check(check: &Check) -> String {
    let cases = |number: u64| match check.name {
        CheckName::LoadGrowsPasses => format!("{} of cells", counted(number, "pair")),
        _ => counted(number, "run"),
    };
    let (checked, not_checked) = (check.checked, check.not_checked);
    let found = match (checked, check.misfits.len()) {
        (0, _) => "could not be checked".to_owned(),
        (_, 0) => format!("true in {}", cases(checked)),
        (_, misfits) => format!("NOT true in {misfits} of {}", cases(checked)),
    };
    let rest = if not_checked > 0 && checked > 0 {
        format!("; could not be checked in {}", cases(not_checked))
    } else {
        String::new()
    };
    format!("{}: {found}{rest}", must_hold(check.name))
}

/// Where something does not fit.
fn misfit_of(answer: &Answer, check: &Check, misfit: &Misfit) -> String {
    let runs = misfit.runs.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let word = if misfit.runs.len() == 1 { "run" } else { "runs" };
    let is_rate = matches!(check.name, CheckName::WithinLinkRate | CheckName::LinkIsUsed);
    let number =
        |value| format!("{}{}", amount(misfit.unit, value), if is_rate { " each second" } else { "" });
    let (measured, limit) = (number(misfit.measured), number(misfit.limit));
    let says =
        if misfit.says.is_empty() { format!("{measured}, against {limit}") } else { misfit.says.clone() };
    format!("{word} {runs} ({}): {says}", label(answer, &misfit.cell))
}
