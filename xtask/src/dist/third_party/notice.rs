//! The file that lists the libraries, and has each text once.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::Library;

const BEGINNING: &str = "\
The command migtrace contains these libraries of others. After its version, each has the expression of its licences, and the
numbers of the texts below that its sources have about them. The standard library of Rust has a file of its own, beside this one.

";

/// Writes it.
pub(super) fn write(libraries: &[Library]) -> Result<String> {
    let mut texts = Texts::default();
    let mut notice = BEGINNING.to_owned();
    for Library { name, version, expression, texts: own } in libraries {
        let numbers: BTreeSet<_> = own.iter().map(|text| texts.number(text)).collect();
        let numbers: Vec<_> = numbers.iter().map(|number| format!("[{number}]")).collect();
        writeln!(notice, "{name} {version}: {expression} {}", numbers.join(" "))
            .context("cannot write to a text")?;
    }
    for (place, text) in texts.all.iter().enumerate() {
        let line = "-".repeat(100);
        write!(notice, "\n{line}\n[{}]\n\n{}\n", place + 1, text.trim_end())
            .context("cannot write to a text")?;
    }
    Ok(notice)
}

/// The licences of all of them together, as SPDX writes it.
pub(super) fn expression(libraries: &[Library]) -> String {
    let parts = libraries.iter().flat_map(|Library { expression, .. }| {
        if expression.contains('(') {
            return vec![format!("({expression})")];
        }
        let mut choices: Vec<_> = expression.split(" OR ").collect();
        choices.sort_unstable();
        match &choices[..] {
            [all] => all.split(" AND ").map(str::to_owned).collect(),
            _ => vec![format!("({})", choices.join(" OR "))],
        }
    });
    parts.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" AND ")
}

/// Texts that differ in more than where their lines break.
#[derive(Default)]
struct Texts {
    all: Vec<String>,
    words: Vec<String>,
}

impl Texts {
    fn number(&mut self, text: &str) -> usize {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let known = self.words.iter().position(|known| *known == words);
        known.unwrap_or_else(|| {
            self.all.push(text.trim_matches('\n').replace('\r', ""));
            self.words.push(words);
            self.all.len() - 1
        }) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(name: &str, expression: &str, texts: &[&str]) -> Library {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        Library { name: name.into(), version: "1.0.0".into(), expression: expression.into(), texts }
    }

    #[test]
    fn each_text_is_there_once_and_each_library_leads_to_its_own() {
        let libraries = [
            library("a", "MIT", &["Permission\n is granted", "of a"]),
            library("b", "MIT", &["of b", "Permission is\r\ngranted\n"]),
        ];
        let notice = write(&libraries).unwrap();
        assert!(notice.contains("a 1.0.0: MIT [1] [2]\nb 1.0.0: MIT [1] [3]\n"), "{notice}");
        assert_eq!(notice.matches("granted").count(), 1, "{notice}");
        assert!(notice.contains("[3]\n\nof b\n"), "{notice}");
    }

    #[test]
    fn the_licences_together_are_one_expression() {
        let of = |expression| library("x", expression, &[]);
        let libraries = ["MIT OR Apache-2.0", "MIT", "Apache-2.0 OR MIT", "Apache-2.0 AND ISC"].map(of);
        assert_eq!(expression(&libraries), "(Apache-2.0 OR MIT) AND Apache-2.0 AND ISC AND MIT");
        let kept = ["(MIT OR Apache-2.0) AND Unicode-3.0"].map(of);
        assert_eq!(expression(&kept), "((MIT OR Apache-2.0) AND Unicode-3.0)");
    }
}
