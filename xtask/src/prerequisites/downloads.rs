//! What is only unpacked: what reads the exports in the tests, and a linker.

use migtrace_lab::Download;

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
    find(Download::Perfetto)
}

/// Rotel needs the library of the Python that its wheel is for.
pub(super) fn find_otlp() -> Result<String, Missing> {
    const LIBRARY: &str = "libpython3.11.so.1.0";
    if find_library(LIBRARY).is_none() {
        let actions = vec![Action::packages(["libpython3.11"])];
        return Err(Missing { what: format!("the C compiler finds no {LIBRARY}"), actions });
    }
    find(Download::Otlp)
}

pub(super) fn find_clickhouse() -> Result<String, Missing> {
    find(Download::ClickHouse)
}

/// It is only unpacked, so that no daemon starts here.
pub(super) fn find_prometheus() -> Result<String, Missing> {
    find(Download::Prometheus)
}

/// For packages: links for older C libraries than this machine's.
pub(super) fn find_zig() -> Result<String, Missing> {
    find(Download::Zig)
}

/// For the test of packages: a system to install them in.
pub(super) fn find_debian() -> Result<String, Missing> {
    find(Download::Debian)
}

fn find(wanted: Download) -> Result<String, Missing> {
    match wanted.fetched() {
        Ok(Some(directory)) => Ok(directory.display().to_string()),
        Ok(None) => {
            Err(Missing { what: "not downloaded yet".into(), actions: vec![Action::Download(wanted)] })
        }
        Err(error) => Err(Missing { what: format!("{error:#}"), actions: vec![Action::Download(wanted)] }),
    }
}
