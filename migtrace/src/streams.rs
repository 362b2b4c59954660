//! Standard output and standard error. Writing never panics, and text from outside cannot control the terminal.

use std::io::{self, ErrorKind, IsTerminal as _, Write};

use migtrace::terminal;

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stream {
    Output,
    Error,
}

impl Stream {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Output => "standard output",
            Self::Error => "standard error",
        }
    }

    /// Writes text of several lines. A closed pipe is no error: its reader wanted no more (`| head`).
    pub(crate) fn print(self, text: &str) -> io::Result<()> {
        self.pass(terminal::clean_lines(text).as_bytes())
    }

    pub(crate) fn is_terminal(self) -> bool {
        match self {
            Self::Output => io::stdout().is_terminal(),
            Self::Error => io::stderr().is_terminal(),
        }
    }

    /// Writes what is not text for a person, as [`Stream::print`] does.
    pub(crate) fn pass(self, bytes: &[u8]) -> io::Result<()> {
        let written = match self {
            Self::Output => write(io::stdout().lock(), bytes),
            Self::Error => write(io::stderr().lock(), bytes),
        };
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}

/// Writes one line to standard error, whatever the text contains. Failures are ignored.
pub(crate) fn say(line: &str) {
    // One write, so that lines of several processes do not mix.
    let _ = io::stderr().write_all(format!("{}\n", terminal::clean(line)).as_bytes());
}

fn write(mut stream: impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}
