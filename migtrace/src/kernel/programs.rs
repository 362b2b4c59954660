//! The programs of the object: finds one by its name, loads it, and says why the kernel refused it.

use std::fs;
use std::io::ErrorKind;

use aya::Ebpf;
use aya::programs::{ProgramError, SchedClassifier};

use super::KernelError;
use crate::errors::with_causes;

/// How often a program is loaded before giving up; libbpf tries as often.
const ATTEMPTS: u32 = 5;

/// A TC program of the object.
pub(super) fn tc<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a SchedClassifier, KernelError> {
    let program = ebpf.program(name).ok_or_else(|| absent(name))?;
    program.try_into().map_err(|error: ProgramError| refused(name, with_causes(&error)))
}

/// A TC program of the object, to load or attach it.
pub(super) fn tc_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

/// Loads a TC program.
pub(super) fn load_tc(ebpf: &mut Ebpf, name: &str) -> Result<(), KernelError> {
    let program = ebpf.program_mut(name).ok_or_else(|| absent(name))?;
    <&mut SchedClassifier>::try_from(program)
        .and_then(|program| load(|| program.load()))
        .map_err(|error| refused(name, why(&error)))
}

pub(super) fn absent(program: &str) -> KernelError {
    KernelError::Absent { what: format!("program {program}") }
}

pub(super) fn refused(program: &str, why: String) -> KernelError {
    KernelError::Refused { what: format!("program {program}"), why }
}

/// Loads a program. The verifier gives up when this process gets a signal, so this tries again then.
pub(super) fn load(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    retry(load, |result| match result {
        Err(ProgramError::LoadError { io_error, .. }) => io_error.kind() == ErrorKind::WouldBlock,
        _ => false,
    })
}

fn retry<T>(mut attempt: impl FnMut() -> T, was_interrupted: impl Fn(&T) -> bool) -> T {
    for _ in 1..ATTEMPTS {
        let result = attempt();
        if !was_interrupted(&result) {
            return result;
        }
    }
    attempt()
}

/// Why a program was not loaded or attached, with the last lines of the verifier's log.
pub(super) fn why(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            format!("{io_error}{}", last_meaningful_lines(&verifier_log.to_string()))
        }
        other => {
            let setting = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
            with_help(with_causes(other), setting.trim())
        }
    }
}

/// Adds what to do where `kernel.perf_event_paranoid` is why a perf event was refused. Linux itself knows no more than 2;
/// Debian and its kin refuse perf events above that to all who are not `CAP_SYS_ADMIN`.
fn with_help(error: String, paranoia: &str) -> String {
    let is_refusal = error.contains("perf_event_open") && error.contains("Permission denied");
    if !is_refusal || !paranoia.parse().is_ok_and(|level: i32| level > 2) {
        return error;
    }
    format!("{error} (kernel.perf_event_paranoid is {paranoia}: set it to 2, or grant CAP_SYS_ADMIN)")
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
    fn a_refused_perf_event_says_what_to_do_if_that_setting_is_why() {
        let refused = "`perf_event_open` failed: Permission denied (os error 13)".to_owned();
        let helped = with_help(refused.clone(), "3");
        assert!(helped.starts_with(&refused) && helped.ends_with("or grant CAP_SYS_ADMIN)"), "{helped}");
        assert_eq!(with_help(refused.clone(), "2"), refused);
        let other = "`perf_event_open` failed: No such file or directory".to_owned();
        assert_eq!(with_help(other.clone(), "3"), other);
    }

    #[test]
    fn an_error_shows_the_last_lines_of_the_verifier_log_without_its_statistics() {
        let log =
            "0: R1=ctx()\n; let x\n7: (85) call unknown#195\nunknown func unknown#195\nprocessed 8 insns\n";
        assert_eq!(
            last_meaningful_lines(log),
            " (verifier: 7: (85) call unknown#195 | unknown func unknown#195)"
        );
        assert_eq!(last_meaningful_lines(""), "");
    }

    #[test]
    fn an_interrupted_load_is_tried_again_five_times_at_most() {
        const INTERRUPTED: &str = "interrupted";
        let attempts = |result_of: fn(u32) -> &'static str| {
            let mut attempts = 0;
            let attempt = || {
                attempts += 1;
                result_of(attempts)
            };
            let last = retry(attempt, |result| *result == INTERRUPTED);
            (attempts, last)
        };
        assert_eq!(attempts(|_| "loaded"), (1, "loaded"));
        assert_eq!(attempts(|attempt| if attempt < 3 { INTERRUPTED } else { "refused" }), (3, "refused"));
        assert_eq!(attempts(|_| INTERRUPTED), (5, INTERRUPTED));
    }
}
