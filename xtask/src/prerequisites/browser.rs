//! The browser in which a test looks at the HTML page.

use migtrace_toolchain::find_program;

use super::{Action, Missing};

/// The names that the test tries (`migtrace/tests/common/browser.rs`), in its order.
const NAMES: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

pub(super) fn find() -> Result<String, Missing> {
    let found = NAMES.iter().find_map(|name| find_program(name));
    found.map(|path| path.display().to_string()).ok_or_else(|| Missing {
        what: format!("not in PATH: {}", NAMES.join(", ")),
        // The smallest of them: it has no window. The font is what its texts are measured with.
        actions: vec![Action::packages(["chromium-headless-shell", "fonts-dejavu-core"])],
    })
}
