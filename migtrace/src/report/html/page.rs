//! The frame of a page: one file that fetches nothing and runs nothing.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::shapes::patterns;
use crate::terminal;

const STYLE: &str = include_str!("style.css");

/// With closed elements, so that an XML parser reads it, too.
const HEAD: &str = r#"<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta name="generator" content="migtrace"/>
"#;

/// A page. Whatever would hide or turn text in it is shown as an escape, wherever it comes from.
pub(in crate::report) fn page(title: &str, content: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (PreEscaped(HEAD))
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (patterns())
                main { (content) }
                footer {
                    p {
                        "Made by migtrace " (env!("CARGO_PKG_VERSION"))
                        ". Point at a bar, a mark or a curve, or reach it with the Tab key, to see its exact value. \
                         Sent is from the source to the destination."
                    }
                }
            }
        }
    };
    terminal::clean_lines(&page.into_string()).into_owned() + "\n"
}
