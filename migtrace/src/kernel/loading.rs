//! Loading programs, also while signals come.

use std::io::ErrorKind;

use aya::programs::ProgramError;

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

#[cfg(test)]
mod tests {
    use super::*;

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
