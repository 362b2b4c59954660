//! What has gone wrong while watching: each cause is reported once in a while, and everything is counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A cause is reported again after this time, if it is still one.
const AGAIN: Duration = Duration::from_secs(600);
/// So many causes are told apart.
const MOST_CAUSES: usize = 64;

/// What has gone wrong.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    causes: BTreeMap<String, Cause>,
}

#[derive(Debug)]
struct Cause {
    said: Instant,
    since_then: u64,
}

impl Troubles {
    /// Something has gone wrong. Returns what to say, if it is to be said now.
    pub(super) fn note(&mut self, cause: &str, now: Instant) -> Option<String> {
        if let Some(known) = self.causes.get_mut(cause) {
            if now < known.said + AGAIN {
                known.since_then += 1;
                return None;
            }
            let more = std::mem::take(&mut known.since_then);
            known.said = now;
            return Some(if more > 0 {
                format!("{cause} (and {more} times since)")
            } else {
                cause.to_owned()
            });
        }
        if self.causes.len() >= MOST_CAUSES {
            let oldest =
                self.causes.iter().min_by_key(|(_, known)| known.said).map(|(cause, _)| cause.clone());
            oldest.map(|oldest| self.causes.remove(&oldest));
        }
        self.causes.insert(cause.to_owned(), Cause { said: now, since_then: 0 });
        Some(cause.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_and_again_after_a_while_with_how_often_it_occurred() {
        let (mut troubles, start) = (Troubles::default(), Instant::now());
        assert_eq!(troubles.note("disk full", start).as_deref(), Some("disk full"));
        assert_eq!(troubles.note("disk full", start), None);
        assert_eq!(troubles.note("disk full", start + AGAIN / 2), None);
        assert_eq!(troubles.note("no directory", start).as_deref(), Some("no directory"));
        let again = troubles.note("disk full", start + AGAIN);
        assert_eq!(again.as_deref(), Some("disk full (and 2 times since)"));
        for number in 0..1_000 {
            troubles.note(&format!("cause {number}"), start + AGAIN);
        }
        assert!(troubles.causes.len() <= MOST_CAUSES);
    }
}
