//! Draws lines of a terminal as SVG.
//!
//! Fonts differ in how wide a character is, so every piece of text has its place and its width in cells. Bars and dots
//! are shapes, as many fonts lack these characters.

use std::fmt::Write as _;

/// The size of a cell, in pixels: that of a letter in a font of 14 pixels.
const CELL_WIDTH: f64 = 8.4;
const CELL_HEIGHT: f64 = 20.0;
/// From the top of a cell to the foot of its letters.
const BASELINE: f64 = 14.5;
const MARGIN: f64 = 20.0;
/// The title bar of the window.
const BAR_HEIGHT: f64 = 30.0;

const BLOCK: char = '█';
const MARK: char = '●';
const DOT: char = '·';

const STYLE: &str = "\
    text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; \
    font-size: 14px; fill: #d0d7de; white-space: pre }\n\
    .heading { font-weight: bold; fill: #79c0ff }\n\
    .headline { font-weight: bold; fill: #ffffff }\n\
    .quiet { fill: #8b949e }\n";

/// A piece of a line that is drawn as one.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    /// So many cells of a bar.
    Bar(usize),
    /// So many dots.
    Dots(usize),
    Mark,
}

/// Draws a window with these lines. The first is the command, the next that is not empty the headline.
pub(super) fn draw(title: &str, lines: &[&str]) -> String {
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let width = 2.0 * MARGIN + columns as f64 * CELL_WIDTH;
    let height = BAR_HEIGHT + 2.0 * MARGIN + lines.len() as f64 * CELL_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n",
        escaped(title)
    );
    svg += &format!("<rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\" fill=\"#0d1117\"/>\n");
    for (index, colour) in ["#ff5f57", "#febc2e", "#28c840"].iter().enumerate() {
        let x = MARGIN + index as f64 * 20.0;
        svg += &format!(
            "<circle cx=\"{x:.0}\" cy=\"{:.0}\" r=\"6\" fill=\"{colour}\"/>\n",
            BAR_HEIGHT / 2.0 + 4.0
        );
    }
    let headline = lines.iter().skip(1).position(|line| !line.is_empty()).map(|index| index + 1);
    for (index, line) in lines.iter().enumerate() {
        let class = match line {
            _ if index == 0 => "quiet",
            _ if Some(index) == headline => "headline",
            line if line.starts_with('[') => "quiet",
            line if line.starts_with(' ') => "",
            _ => "heading",
        };
        let top = BAR_HEIGHT + MARGIN + index as f64 * CELL_HEIGHT;
        for (column, piece) in pieces(line) {
            svg += &shape(&piece, MARGIN + column as f64 * CELL_WIDTH, top, class);
        }
    }
    svg + "</svg>\n"
}

/// Cuts a line into pieces, each with its column. Text is cut where it has more than one space, which are not drawn.
fn pieces(line: &str) -> Vec<(usize, Piece<'_>)> {
    let mut pieces = Vec::new();
    let mut rest = line;
    let mut column = 0;
    while let Some(first) = rest.chars().next() {
        let run = |character| rest.chars().take_while(|other| *other == character).count();
        let (length, bytes) = match first {
            ' ' | BLOCK | DOT => (run(first), run(first) * first.len_utf8()),
            MARK => (1, first.len_utf8()),
            _ => {
                let end = rest.find([BLOCK, MARK, DOT]).unwrap_or(rest.len());
                let end = rest[..end].find("  ").unwrap_or(end);
                let text = rest[..end].trim_end();
                (text.chars().count(), text.len())
            }
        };
        match first {
            ' ' => {}
            BLOCK => pieces.push((column, Piece::Bar(length))),
            DOT => pieces.push((column, Piece::Dots(length))),
            MARK => pieces.push((column, Piece::Mark)),
            _ => pieces.push((column, Piece::Text(&rest[..bytes]))),
        }
        column += length;
        rest = &rest[bytes..];
    }
    pieces
}

/// The element of a piece whose first cell has its top left corner at `x`, `top`.
fn shape(piece: &Piece<'_>, x: f64, top: f64, class: &str) -> String {
    let middle = top + CELL_HEIGHT / 2.0;
    let width_of = |cells: usize| cells as f64 * CELL_WIDTH;
    let mut svg = String::new();
    let written = match piece {
        Piece::Text(text) => {
            let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{:.1}\" lengthAdjust=\"spacingAndGlyphs\"{class}>{}</text>",
                top + BASELINE,
                width_of(text.chars().count()),
                escaped(text)
            )
        }
        Piece::Bar(cells) => writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\" fill=\"#3fb950\"/>",
            top + 4.0,
            width_of(*cells),
            CELL_HEIGHT - 8.0
        ),
        // A line of dashes without length, whose round ends make dots.
        Piece::Dots(cells) => writeln!(
            svg,
            "<path d=\"M{:.1} {middle:.1}h{:.1}\" stroke=\"#484f58\" stroke-width=\"2\" stroke-linecap=\"round\" \
             stroke-dasharray=\"0 {CELL_WIDTH}\"/>",
            x + CELL_WIDTH / 2.0,
            // A bit longer than to the last dot, as that one would be lost to rounding.
            width_of(cells - 1) + 0.1
        ),
        Piece::Mark => writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"4.2\" fill=\"#f0883e\"/>",
            x + CELL_WIDTH / 2.0
        ),
    };
    // Writing to a string cannot fail.
    debug_assert!(written.is_ok());
    svg
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_into_text_bars_dots_and_marks_at_their_columns() {
        let expected = vec![
            (1, Piece::Text("1.5 ms")),
            (9, Piece::Text("stop")),
            (14, Piece::Bar(2)),
            (16, Piece::Mark),
            (17, Piece::Dots(3)),
        ];
        assert_eq!(pieces(" 1.5 ms  stop ██●···"), expected);
        assert_eq!(pieces(" ± 4 µs"), vec![(1, Piece::Text("± 4 µs"))]);
        assert_eq!(pieces(""), vec![]);
    }

    #[test]
    fn what_means_something_in_xml_is_escaped() {
        let svg = draw("A & B", &["$ x", "a <b> \"c\" & d"]);
        assert!(svg.contains(">a &lt;b&gt; &quot;c&quot; &amp; d</text>"), "{svg}");
        assert!(svg.contains("<title>A &amp; B</title>"), "{svg}");
    }

    #[test]
    fn every_text_has_the_width_of_its_cells() {
        let svg = draw("t", &["$ x", "", "abcde"]);
        assert!(svg.contains("x=\"20.0\" y=\"104.5\" textLength=\"42.0\""), "{svg}");
    }
}
