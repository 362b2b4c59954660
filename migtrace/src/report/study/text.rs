//! The answer of a study as a person reads it on a terminal: at most [`WIDTH`](crate::report::text::WIDTH) columns wide, without
//! colour.

use super::grid::in_blocks;
use super::{old_method, published, sentences, steps, tables};
use crate::report::content::Section;
use crate::report::layout::print;
use crate::study::answer::Answer;

/// The report of a study.
#[must_use]
pub fn render(answer: &Answer) -> String {
    let mut text = String::new();
    sections(answer).into_iter().map(in_blocks).for_each(|section| print(&section, &mut text));
    text
}

fn sections(answer: &Answer) -> Vec<Section> {
    let mut all = vec![sentences::headline(answer)];
    all.extend(tables::in_layout(answer));
    all.extend(sentences::findings(answer));
    all.extend(published::heading(answer));
    all.extend(published::tables(answer));
    all.extend(tables::others(answer));
    all.extend(steps::sections(answer));
    all.extend(old_method::sections(answer));
    all.extend(sentences::checks(answer));
    all.extend(sentences::left_out(answer));
    all
}
