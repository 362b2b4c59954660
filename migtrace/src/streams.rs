//! Standard output and standard error: whatever becomes of them, the command does not panic, and no text from outside
//! steers the terminal behind them.

use std::io::{self, ErrorKind, Write};

use migtrace::terminal;

/// One of the two.
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

    /// Writes a text of several lines. Whoever closes a pipe has read as much as they wanted (`| head`): that is no error.
    pub(crate) fn print(self, text: &str) -> io::Result<()> {
        let text = terminal::clean_lines(text);
        let written = match self {
            Self::Output => write(io::stdout().lock(), text.as_bytes()),
            Self::Error => write(io::stderr().lock(), text.as_bytes()),
        };
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}

/// Says something on standard error, as one line whatever is in it. When nobody can hear it, nothing else changes.
pub(crate) fn say(line: &str) {
    // One write, so that lines of several processes do not mix.
    let _ = io::stderr().write_all(format!("{}\n", terminal::clean(line)).as_bytes());
}

fn write(mut stream: impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}
