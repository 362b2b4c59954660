//! What holds for every page, whatever it shows.

use std::collections::BTreeSet;

use roxmltree::{Document, Node, ParsingOptions};

/// Names that would leave an element, an attribute or the style, or turn the text around.
pub(crate) const HOSTILE: &str = "\"'><script>alert(1)</script><img src=x onerror=y>&amp;</style>]]><!--\u{202e}\u{200b}\u{1b}[31m\0\u{7f}";

/// Elements that a page without scripts and without anything from elsewhere may have.
const ELEMENTS: [&str; 43] = [
    "a",
    "article",
    "body",
    "dd",
    "defs",
    "desc",
    "details",
    "div",
    "dl",
    "dt",
    "figcaption",
    "figure",
    "footer",
    "h1",
    "h2",
    "h3",
    "h4",
    "head",
    "header",
    "html",
    "li",
    "main",
    "meta",
    "p",
    "path",
    "pattern",
    "rect",
    "section",
    "small",
    "span",
    "strong",
    "style",
    "summary",
    "svg",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "title",
    "tr",
    "ul",
    "nav",
];

/// The page as an XML parser reads it.
pub(crate) fn parsed(page: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("{error}: {page}"))
}

/// It is well-formed, and fetches and runs nothing.
pub(crate) fn check(page: &str) {
    let document = parsed(page);
    for node in document.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        assert!(ELEMENTS.contains(&name), "<{name}>");
        for attribute in node.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(!name.starts_with("on") && !["src", "srcset"].contains(&name), "{name}={value}");
            assert!(name != "href" || value.starts_with('#'), "{name}={value}");
            let is_drawn = ["d", "x", "y", "width", "height", "viewBox", "style", "data-from", "data-to"];
            let is_no_number = ["NaN", "inf"].iter().any(|word| value.contains(word));
            assert!(!(is_drawn.contains(&name) && is_no_number), "{name}={value}");
        }
    }
    let ids: Vec<_> = document.descendants().filter_map(|node| node.attribute("id")).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id is there twice: {ids:?}");
    // What would hide or turn text.
    assert_eq!(migtrace::terminal::clean_lines(page), page);
}

/// What a reader sees or hears: all text but that of the style.
pub(crate) fn text_of(page: &str) -> String {
    let document = parsed(page);
    let is_text = |node: &Node<'_, '_>| {
        node.is_text() && node.parent().is_none_or(|parent| parent.tag_name().name() != "style")
    };
    document.descendants().filter(is_text).filter_map(|node| node.text()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}
