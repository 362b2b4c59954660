//! What a recording and the one that it serves say to each other, line by line.

use serde::{Deserialize, Serialize};

use crate::units::MonotonicNs;

/// A question or an order to a peer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// What does its clock show? The number is the asking host's own clock.
    Clock(MonotonicNs),
    /// The migration is over: it ends once nothing more is awaited there.
    Conclude,
}

/// The answer to [`Order::Clock`], among the lines of the event log.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct ClockAnswer {
    /// The question.
    pub(super) asked_ns: MonotonicNs,
    /// What the clock showed when it came.
    pub(super) showed_ns: MonotonicNs,
}

/// A line as JSON.
pub(super) fn line(of: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(of).expect("numbers and names are valid JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_lines_of_json_and_an_answer_is_no_event() {
        let asked = Order::Clock(MonotonicNs(7));
        assert_eq!(line(&asked), b"{\"clock\":7}\n");
        assert_eq!(line(&Order::Conclude), b"\"conclude\"\n");
        assert_eq!(serde_json::from_slice::<Order>(&line(&asked)).unwrap(), asked);
        let answer = ClockAnswer { asked_ns: MonotonicNs(7), showed_ns: MonotonicNs(9) };
        assert_eq!(serde_json::from_slice::<ClockAnswer>(&line(&answer)).unwrap(), answer);
        let event = br#"{"at_ns":1,"event":"qemu_gone","pid":7}"#;
        assert!(serde_json::from_slice::<ClockAnswer>(event).is_err());
    }
}
