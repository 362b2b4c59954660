//! Loading programs, also while signals come.

use std::io::ErrorKind;

use aya::programs::ProgramError;

use crate::errors::with_causes;

/// How often the kernel is asked, as by libbpf.
const ATTEMPTS: u32 = 5;

/// Loads a program. The verifier gives up where it is when this process gets a signal, and is asked again then.
pub(super) fn retry(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    ask(load, |result| match result {
        Err(ProgramError::LoadError { io_error, .. }) => io_error.kind() == ErrorKind::WouldBlock,
        _ => false,
    })
}

fn ask<T>(mut question: impl FnMut() -> T, is_interrupted: impl Fn(&T) -> bool) -> T {
    for _ in 1..ATTEMPTS {
        let answer = question();
        if !is_interrupted(&answer) {
            return answer;
        }
    }
    question()
}

/// Why a program was not loaded or attached, with the verifier's last words.
pub(super) fn why(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            format!("{io_error}{}", last_meaningful_lines(&verifier_log.to_string()))
        }
        other => with_causes(other),
    }
}

/// The end of a verifier's log without its statistics, ready to follow the error.
fn last_meaningful_lines(log: &str) -> String {
    let meaningful: Vec<_> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .filter(|line| !line.starts_with("processed ") && !line.starts_with("verification time"))
        .collect();
    let last = meaningful.iter().rev().take(2).rev().copied().collect::<Vec<_>>().join(" | ");
    if last.is_empty() { last } else { format!(" (verifier: {last})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_verifier_log_the_last_word_counts() {
        let log =
            "0: R1=ctx()\n; let x\n7: (85) call unknown#195\nunknown func unknown#195\nprocessed 8 insns\n";
        assert_eq!(
            last_meaningful_lines(log),
            " (verifier: 7: (85) call unknown#195 | unknown func unknown#195)"
        );
        assert_eq!(last_meaningful_lines(""), "");
    }

    #[test]
    fn who_was_interrupted_is_asked_again_and_who_has_answered_is_not() {
        const INTERRUPTED: &str = "interrupted";
        let asked = |answer: fn(u32) -> &'static str| {
            let mut times = 0;
            let question = || {
                times += 1;
                answer(times)
            };
            let last = ask(question, |answer| *answer == INTERRUPTED);
            (times, last)
        };
        assert_eq!(asked(|_| "loaded"), (1, "loaded"));
        assert_eq!(asked(|times| if times < 3 { INTERRUPTED } else { "refused" }), (3, "refused"));
        assert_eq!(asked(|_| INTERRUPTED), (5, INTERRUPTED));
    }
}
