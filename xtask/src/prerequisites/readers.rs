//! What reads the exports in the tests.

use migtrace_lab::Reader;

use super::{Action, Missing, find_library, first_line};
use std::process::Command;

/// pip brings them.
pub(super) fn find_pip() -> Result<String, Missing> {
    first_line(Command::new("python3").args(["-m", "pip", "--version"])).ok_or_else(|| Missing {
        what: "python3 has no module pip".into(),
        actions: vec![Action::packages(["python3", "python3-pip"])],
    })
}

pub(super) fn find_perfetto() -> Result<String, Missing> {
    find(Reader::Perfetto)
}

/// Rotel needs the library of the Python that its wheel is for.
pub(super) fn find_otlp() -> Result<String, Missing> {
    const LIBRARY: &str = "libpython3.11.so.1.0";
    if find_library(LIBRARY).is_none() {
        let actions = vec![Action::packages(["libpython3.11"])];
        return Err(Missing { what: format!("the C compiler finds no {LIBRARY}"), actions });
    }
    find(Reader::Otlp)
}

pub(super) fn find_clickhouse() -> Result<String, Missing> {
    find(Reader::ClickHouse)
}

/// It is only unpacked, so that no daemon starts here.
pub(super) fn find_prometheus() -> Result<String, Missing> {
    find(Reader::Prometheus)
}

/// For packages: links for older C libraries than this machine's.
pub(super) fn find_zig() -> Result<String, Missing> {
    find(Reader::Zig)
}

fn find(reader: Reader) -> Result<String, Missing> {
    match reader.fetched() {
        Ok(Some(directory)) => Ok(directory.display().to_string()),
        Ok(None) => Err(Missing { what: "not downloaded yet".into(), actions: vec![Action::Reader(reader)] }),
        Err(error) => Err(Missing { what: format!("{error:#}"), actions: vec![Action::Reader(reader)] }),
    }
}
