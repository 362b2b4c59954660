//! What is wrong with a record.

/// One sentence for each thing that is wrong.
#[derive(Default)]
pub(super) struct Violations(pub(super) Vec<String>);

impl Violations {
    pub(super) fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    pub(super) fn result(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("\n")) }
    }
}
