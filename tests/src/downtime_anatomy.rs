//! The absence of a guest, from the records of both hosts. The hosts of a lab share one clock, so their stamps compare.

use serde_json::Value;
use std::fmt;

/// A duration with its bounds, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundedDuration {
    /// The lower bound.
    pub low_ns: i64,
    /// The best single value.
    pub value_ns: i64,
    /// The upper bound, if there is one.
    pub high_ns: Option<i64>,
}

/// How long the guest was gone, seen from three places.
#[derive(Debug, Clone)]
pub struct DowntimeAnatomy {
    /// How long it did not run.
    pub stop: BoundedDuration,
    /// How long its taps were silent.
    pub network: BoundedDuration,
    /// How long it did not answer echo requests.
    pub reachability: BoundedDuration,
    /// The marks between which the stop lies.
    pub stop_marks: (String, String),
    /// How long QEMU went on sending packets of the stopped guest: the taps may have been silent for that much less.
    pub held_back_ns: i64,
}

impl DowntimeAnatomy {
    /// Joins the source's record, which was made with `--probe`, and the destination's. None if a mark is missing.
    #[must_use]
    pub fn of(source: &Value, destination: &Value) -> Option<Self> {
        let stopped = ["all-vcpus-stopped", "stop"].into_iter().find_map(|name| mark(source, name));
        let run = ["first-vcpu-run", "resume"].into_iter().find_map(|name| mark(destination, name));
        let ((stopped_name, stopped), (run_name, run)) = (stopped?, run?);
        let began = mark(source, "first-vcpu-stopped").map(|(_, at)| at);
        let (_, stop_event) = mark(source, "stop")?;
        let (_, last_frame) = mark(source, "last-guest-frame")?;
        let (_, first_frame) = mark(destination, "first-guest-frame")?;
        // Without a reply there is no gap, and the record bounds the reachability by the gap that may have been missed.
        mark(source, "first-reply")?;
        let exactly = |ns: i64| BoundedDuration { low_ns: ns, value_ns: ns, high_ns: Some(ns) };
        // QEMU's events lie within the stop, so they give no upper bound.
        let high_ns = began.filter(|_| run_name == "first-vcpu-run").map(|began| run - began);
        Some(Self {
            stop: BoundedDuration { high_ns, ..exactly(run - stopped) },
            network: exactly(first_frame - last_frame),
            reachability: bounded_duration(&source["downtime"]["reachability"])?,
            stop_marks: (stopped_name, run_name),
            held_back_ns: stop_event - stopped,
        })
    }

    /// Whether, within the bounds, the taps were silent at least as long as the guest was stopped, and the guest did not answer
    /// for at least as long as the taps were silent.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        let allows =
            |longer: &BoundedDuration, shorter: i64| longer.high_ns.is_none_or(|high| high >= shorter);
        allows(&self.network, self.stop.low_ns - self.held_back_ns)
            && allows(&self.reachability, self.network.low_ns)
    }
}

/// The last mark of this name, on the monotonic clock.
fn mark(record: &Value, name: &str) -> Option<(String, i64)> {
    let marks = record["downtime"]["marks"].as_array()?;
    let at_ns = marks.iter().rfind(|mark| mark["name"] == name)?["at_ns"].as_i64()?;
    let offset_ns = record["observers"][0]["clock"]["offset_ns"].as_i64()?;
    Some((name.to_owned(), record["start"]["realtime_ns"].as_i64()? - offset_ns + at_ns))
}

fn bounded_duration(estimate: &Value) -> Option<BoundedDuration> {
    let ns = |field: &str| estimate[field].as_i64();
    Some(BoundedDuration { low_ns: ns("low_ns")?, value_ns: ns("value_ns")?, high_ns: ns("high_ns") })
}

impl fmt::Display for BoundedDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "three digits of a millisecond are shown")]
        let ms = |ns: i64| ns as f64 / 1e6;
        match self.high_ns {
            Some(high) => {
                write!(f, "{:.3} ms ({:.3} to {:.3})", ms(self.value_ns), ms(self.low_ns), ms(high))
            }
            None => write!(f, "{:.3} ms ({:.3} or longer)", ms(self.value_ns), ms(self.low_ns)),
        }
    }
}
