//! What the records of both hosts of a lab tell together: their namespaces are on one machine, with one clock.

use serde_json::Value;
use std::fmt;

/// A length of time with its bounds, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Not shorter than this.
    pub low_ns: i64,
    /// The best single value.
    pub value_ns: i64,
    /// Not longer than this, if anything tells.
    pub high_ns: Option<i64>,
}

/// How long the guest was gone, from three places.
#[derive(Debug, Clone)]
pub struct DowntimeAnatomy {
    /// It did not run.
    pub stop: Length,
    /// Its taps were silent.
    pub network: Length,
    /// It did not answer echo requests.
    pub reachability: Length,
    /// Which marks the stop lies between.
    pub stop_marks: (String, String),
    /// For how long QEMU sent what the stopped guest had left behind: its taps may have been silent for so much less.
    pub held_back_ns: i64,
}

impl DowntimeAnatomy {
    /// Joins the source's record, made with `--probe`, and the destination's. `None`: one of them lacks a mark.
    #[must_use]
    pub fn of(source: &Value, destination: &Value) -> Option<Self> {
        let stopped = ["all-vcpus-stopped", "stop"].into_iter().find_map(|name| mark(source, name));
        let run = ["first-vcpu-run", "resume"].into_iter().find_map(|name| mark(destination, name));
        let ((stopped_name, stopped), (run_name, run)) = (stopped?, run?);
        let began = mark(source, "first-vcpu-stopped").map(|(_, at)| at);
        let (_, told) = mark(source, "stop")?;
        let (_, last_frame) = mark(source, "last-guest-frame")?;
        let (_, first_frame) = mark(destination, "first-guest-frame")?;
        // Without a gap the reachability is bounded by what can hide one.
        mark(source, "first-reply")?;
        let exactly = |ns: i64| Length { low_ns: ns, value_ns: ns, high_ns: Some(ns) };
        // QEMU's events lie inside the stop.
        let high_ns = began.filter(|_| run_name == "first-vcpu-run").map(|began| run - began);
        Some(Self {
            stop: Length { high_ns, ..exactly(run - stopped) },
            network: exactly(first_frame - last_frame),
            reachability: length(&source["downtime"]["reachability"])?,
            stop_marks: (stopped_name, run_name),
            held_back_ns: told - stopped,
        })
    }

    /// Whether the guest was gone for its tap no shorter than it did not run, and for the network no shorter than for
    /// its tap, as far as the bounds allow to tell.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        let allows = |longer: &Length, shorter: i64| longer.high_ns.is_none_or(|high| high >= shorter);
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

fn length(estimate: &Value) -> Option<Length> {
    let ns = |field: &str| estimate[field].as_i64();
    Some(Length { low_ns: ns("low_ns")?, value_ns: ns("value_ns")?, high_ns: ns("high_ns") })
}

impl fmt::Display for Length {
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
