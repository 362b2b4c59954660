//! ClickHouse (chDB, which `cargo xtask setup` brings), and records to ask it about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use migtrace_lab::Download;
use serde_json::{Value, json};

use super::merged::{folder, names};

/// Python with chDB.
pub(crate) fn python(script: &str) -> Command {
    let module = Download::ClickHouse.fetched().unwrap().expect("run `cargo xtask setup`");
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clickhouse").join(script));
    python.env("PYTHONPATH", module).env("PYTHONDONTWRITEBYTECODE", "1");
    python
}

/// Every record of the tests, as JSON Lines. Canned logs are of one VM and one connection, and so have one id: each gets one
/// of its own.
pub(crate) fn records() -> String {
    let pairs = names().into_iter().map(|name| folder().join(name).join("record.json"));
    let canned = fs::read_dir(super::logs()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        pairs.chain(canned.filter(|path| path.to_string_lossy().ends_with(".record.json"))).collect();
    files.sort();
    let mut lines = String::new();
    // Two machines of their own, with clocks of their own: they are no hosts of the others.
    let texts = files.iter().map(|file| {
        let text = fs::read_to_string(file).unwrap();
        let is_other = file.to_string_lossy().contains("two-kernels");
        if is_other { text.replace("\"host-b\"", "\"host-c\"") } else { text }
    });
    let records = texts.flat_map(|text| {
        serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap).collect::<Vec<_>>()
    });
    for (number, mut record) in records.enumerate() {
        record["migration"]["id"] = json!(format!("00000000-0000-5000-8000-{number:012}"));
        lines += &format!("{record}\n");
    }
    lines
}
