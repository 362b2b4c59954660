//! The readings of each other's clocks that two hosts have taken.
//!
//! A question for the other's clock and its answer are like two packets: the clock showed what it did after the question was
//! sent, and before the answer came.

use super::Pair;
use super::crossings::Pairs;
use crate::timeline::facts::Facts;

/// What two hosts have read of each other's clocks; the first is the record's.
pub(in crate::timeline) fn readings(record: &Facts, other: &Facts) -> Pairs {
    let mut pairs = Pairs::default();
    for reading in record.readings_of(other) {
        pairs.there.push(Pair { record: reading.asked, other: reading.showed });
        pairs.back.push(Pair { record: reading.answered, other: reading.showed });
    }
    for reading in other.readings_of(record) {
        pairs.back.push(Pair { record: reading.showed, other: reading.asked });
        pairs.there.push(Pair { record: reading.showed, other: reading.answered });
    }
    pairs
}
