//! What the README and `docs/` quote is what the command prints, and what they type is what it takes.
//!
//! A comment before a `text` block says whose output it is:
//!
//! ```text
//! <!-- output of: migtrace merge docs/demo/local.jsonl docs/demo/dst.jsonl docs/demo/observer.jsonl -->
//! <!-- probe report: migtrace/tests/probes/moved-guest.json -->
//! <!-- study report: migtrace/tests/studies/two-by-two.txt -->
//! <!-- trace of: docs/demo/local.jsonl docs/demo/dst.jsonl docs/demo/observer.jsonl -->
//! ```
//!
//! The lines of the block must follow each other in that output. A line `[...]` stands for any number of lines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use migtrace::report;
use serde_json::Value;

/// A fenced block, and the line before its fence.
struct Block {
    before: String,
    language: String,
    lines: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The README, and the pages of `docs/` and `docs/study/`.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let folders = ["docs", "docs/study"].map(|folder| fs::read_dir(root().join(folder)));
    for entry in folders.into_iter().flatten().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut before = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let content = lines.by_ref().take_while(|line| *line != "```").map(str::to_owned).collect();
            blocks.push(Block { before, language: language.to_owned(), lines: content });
            before = String::new();
        } else if !line.is_empty() {
            before = line.to_owned();
        }
    }
    blocks
}

fn migtrace(arguments: &[&str]) -> (bool, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_migtrace")).args(arguments).current_dir(root()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// The output that a comment names; none if it is no such comment.
fn named_output(comment: &str) -> Option<String> {
    let comment = comment.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    if let Some(command) = comment.strip_prefix("output of: migtrace ") {
        let (ok, output, error) = migtrace(&command.split(' ').collect::<Vec<_>>());
        assert!(ok, "`{command}`: {error}");
        return Some(output);
    }
    // What a study gives is compared with this file by another test.
    if let Some(path) = comment.strip_prefix("study report: ") {
        return Some(fs::read_to_string(root().join(path)).unwrap());
    }
    if let Some(logs) = comment.strip_prefix("trace of: ") {
        return Some(trace_of(logs));
    }
    let path = comment.strip_prefix("probe report: ")?;
    let json = fs::read_to_string(root().join(path)).unwrap();
    Some(report::probe::render(&serde_json::from_str(&json).unwrap()))
}

/// A span of a trace.
struct Span {
    id: String,
    parent: String,
    name: String,
    host: String,
    from_ns: u64,
    to_ns: u64,
}

/// The trace that a collector gets of these logs, as a trace viewer draws it: a span a line, below its parent.
fn trace_of(logs: &str) -> String {
    let (ok, output, error) =
        migtrace(&format!("merge {logs} --format otlp-json").split(' ').collect::<Vec<_>>());
    assert!(ok, "{error}");
    let request: Value = serde_json::from_str(&output).unwrap();
    let mut spans: Vec<Span> =
        request["resourceSpans"].as_array().unwrap().iter().flat_map(spans_of).collect();
    spans.sort_by_key(|span| span.from_ns);
    let whole = spans[0].from_ns..spans.iter().map(|span| span.to_ns).max().unwrap();
    let mut text = String::new();
    draw_below("", "", &spans, &whole, &mut text);
    let of_downtime = |span: &&Span| ["stop", "network gap"].contains(&span.name.as_str());
    let starts = spans.iter().filter(of_downtime).map(|span| span.from_ns).min().unwrap();
    let ends = spans.iter().filter(of_downtime).map(|span| span.to_ns).max().unwrap();
    text += "\nZoomed to the downtime:\n";
    spans.retain(|span| span.name == "migration" || (starts..=ends).contains(&span.from_ns));
    draw_below("", "", &spans, &(starts..ends), &mut text);
    text
}

fn spans_of(of_host: &Value) -> Vec<Span> {
    let attributes = of_host["resource"]["attributes"].as_array().unwrap();
    let host = attributes.iter().find(|attribute| attribute["key"] == "host.name").unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let spans = of_host["scopeSpans"][0]["spans"].as_array().unwrap().iter();
    let made = spans.map(|span| Span {
        id: text(&span["spanId"]),
        parent: text(&span["parentSpanId"]),
        name: text(&span["name"]),
        host: text(&host["value"]["stringValue"]),
        from_ns: text(&span["startTimeUnixNano"]).parse().unwrap(),
        to_ns: text(&span["endTimeUnixNano"]).parse().unwrap(),
    });
    made.collect()
}

/// Draws what is shown of these spans, each with its length and a bar.
fn draw_below(parent: &str, indent: &str, spans: &[Span], shown: &Range<u64>, text: &mut String) {
    for span in spans.iter().filter(|span| span.parent == parent) {
        let name = format!("{indent}{}", span.name);
        let length = report::duration(span.to_ns - span.from_ns);
        let line = format!("{name:<24} {} {length:>9}  {}", span.host, bar(span, shown));
        *text += &format!("{}\n", line.trim_end());
        draw_below(&span.id, &format!("{indent}  "), spans, shown, text);
    }
}

/// A span on a scale of sixty places.
fn bar(span: &Span, shown: &Range<u64>) -> String {
    let place = |ns: u64| {
        let after = ns.clamp(shown.start, shown.end) - shown.start;
        (after * 60 / (shown.end - shown.start)) as usize
    };
    let (from, to) = (place(span.from_ns), place(span.to_ns));
    format!("{}{}", " ".repeat(from), "█".repeat((to - from).max(1)))
}

/// Checks that the pieces of a quotation occur in the output, in their order.
fn is_quoted_from(quotation: &[String], output: &str) -> bool {
    let output: Vec<&str> = output.lines().collect();
    let mut from = 0;
    quotation.split(|line| line == "[...]").filter(|piece| !piece.is_empty()).all(|piece| {
        let found = output[from..].windows(piece.len()).position(|lines| lines == piece);
        from += found.map_or(0, |at| at + piece.len());
        found.is_some()
    })
}

/// Whether a block shows a report.
fn is_report(block: &Block) -> bool {
    let headings = ["Downtime", "Gaps (no echo", "Phases (wire", "Flows (", "Totals (sent"];
    block.lines.iter().any(|line| headings.iter().any(|heading| line.starts_with(heading)))
}

#[test]
fn every_quoted_report_is_what_the_command_prints() {
    for page in pages() {
        let is_readme = page == root().join("README.md");
        for block in blocks(&fs::read_to_string(&page).unwrap()) {
            let at = format!("{}, at the block that begins with {:?}", page.display(), block.lines.first());
            match named_output(&block.before) {
                Some(output) => {
                    assert!(is_quoted_from(&block.lines, &output), "{at}: the output is\n{output}");
                }
                None => assert!(
                    !(is_report(&block) || is_readme && block.language == "text"),
                    "{at}: no comment says whose output it is"
                ),
            }
        }
    }
}

/// Files whose text the pages may quote as JSON.
fn json_sources() -> Vec<String> {
    let folders = ["migtrace/tests/logs", "migtrace/tests/probes", "migtrace/tests/runs", "docs/demo"];
    let files = folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let paths = files.map(|entry| entry.unwrap().path());
    paths.map(|path| without_whitespace(&fs::read_to_string(path).unwrap())).collect()
}

/// Pages wrap JSON differently from its files.
fn without_whitespace(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

#[test]
fn every_quoted_json_is_in_a_file_of_the_tests() {
    let sources = json_sources();
    for page in pages() {
        for block in blocks(&fs::read_to_string(&page).unwrap()) {
            let quoted = without_whitespace(&block.lines.concat());
            let is_quoted = sources.iter().any(|source| source.contains(&quoted));
            assert!(block.language != "json" || is_quoted, "{}: {:?}", page.display(), block.lines.first());
        }
    }
}

/// The arguments of a command line of migtrace, without a comment, a pipe and the like.
fn arguments(line: &str) -> Option<Vec<&str>> {
    let command = line.strip_prefix("# ")?.split(" #").next()?;
    let words: Vec<&str> = command.split_whitespace().collect();
    // `-p migtrace` is cargo's, and `install target/release/migtrace` runs nothing.
    let is_migtrace = |at: &usize| {
        (words[*at] == "migtrace" || words[*at].ends_with("/migtrace"))
            && (*at == 0 || !["-p", "install"].contains(&words[at - 1]))
    };
    let at = (0..words.len()).find(is_migtrace)?;
    let ends = ["|", "&", "&&", ">", "2>"];
    Some(words[at + 1..].iter().copied().take_while(|word| !ends.contains(word)).collect())
}

#[test]
fn every_command_line_has_options_that_exist() {
    let mut found = 0;
    for page in pages() {
        let page = fs::read_to_string(&page).unwrap();
        let blocks = blocks(&page);
        let lines = blocks.iter().filter(|block| block.language == "console").flat_map(|block| &block.lines);
        for line in lines {
            let Some(mut arguments) = arguments(line) else { continue };
            // clap reads what precedes it, and then runs nothing.
            arguments.push("--help");
            let (ok, _, error) = migtrace(&arguments);
            assert!(ok, "{line}: {error}");
            found += 1;
        }
    }
    assert!(found > 0);
}

#[test]
fn every_option_in_the_readme_exists() {
    let subcommands = ["record", "watch", "probe", "report", "merge", "doctor", "cleanup"];
    let help: String = subcommands.map(|subcommand| migtrace(&[subcommand, "--help"]).1).concat();
    let known: Vec<&str> = help.split_whitespace().filter(|word| word.starts_with("--")).collect();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    // What stands between backticks, in lines that are not of a block.
    for code in readme
        .lines()
        .filter(|line| !line.starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
    {
        if !(code.starts_with("--") || code.starts_with("migtrace")) {
            continue;
        }
        for option in code.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(known.contains(&option), "`{code}`: no help knows {option}");
        }
    }
}

/// The example in `lib.rs` is compiled with its documentation.
#[test]
fn the_example_of_the_library_is_one_that_compiles() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let library = fs::read_to_string(root().join("migtrace/src/lib.rs")).unwrap();
    let documentation: String = library
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    let blocks = blocks(&readme);
    let examples: Vec<_> = blocks.iter().filter(|block| block.language == "rust").collect();
    assert_eq!(examples.len(), 1);
    for example in examples {
        assert!(is_quoted_from(&example.lines, &documentation), "{}", example.lines.join("\n"));
    }
}

#[test]
fn a_quotation_may_leave_lines_out_where_it_says_so() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let output = "one\ntwo\n\nthree\nfour\n";
    for quotation in ["one\ntwo", "two\n\nthree", "one\n[...]\nfour", "[...]\nfour\n[...]"] {
        assert!(is_quoted_from(&lines(quotation), output), "{quotation}");
    }
    for other in ["one\nthree", "on", "one\n[...]\none", "four\n[...]\none", "five"] {
        assert!(!is_quoted_from(&lines(other), output), "{other}");
    }
}
