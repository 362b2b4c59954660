//! The limits of `record --max-total`, `--max-stop` and `--max-reachability`.

use std::time::Duration;

use migtrace::record::{Estimate, Record};
use migtrace::report::{duration, duration_beside};

use crate::cli::RecordArgs;

/// One sentence for each limit that the record does not prove to have been met.
pub(super) fn not_met(options: &RecordArgs, record: &Record) -> Vec<String> {
    let downtime = &record.downtime;
    let limits = [
        (options.max_total, "--max-total", "the migration", &record.total_time),
        (options.max_stop, "--max-stop", "the stop", &downtime.stop),
        (options.max_reachability, "--max-reachability", "the reachability gap", &downtime.reachability),
    ];
    let judge = |(limit, option, what, measured): (Option<Duration>, _, _, &Option<Estimate>)| {
        let limit_ns = u64::try_from(limit?.as_nanos()).unwrap_or(u64::MAX);
        objection(what, measured.as_ref(), option, limit_ns)
    };
    limits.into_iter().filter_map(judge).collect()
}

/// Why a limit is not met; none if the upper bound of what was measured is within it.
fn objection(what: &str, measured: Option<&Estimate>, option: &str, limit_ns: u64) -> Option<String> {
    let limit = format!("the {} of {option}", duration(limit_ns));
    let not_proved = format!("not proved to be within {limit}");
    let Some(measured) = measured else {
        return Some(format!("{what} was not measured (the report says why): {not_proved}"));
    };
    let [took, low] = [measured.value_ns, measured.low_ns].map(|ns| duration_beside(ns, limit_ns));
    let (took, verdict) = match measured.high_ns {
        Some(high_ns) if high_ns <= limit_ns => return None,
        Some(high_ns) => {
            let high = duration_beside(high_ns, limit_ns);
            let exact = measured.low_ns == high_ns;
            (if exact { took } else { format!("{took}, between {low} and {high}") }, not_proved)
        }
        None => (
            format!("about {took} or longer (at least {low}, no upper bound)"),
            format!("{not_proved} (the report says why)"),
        ),
    };
    let verdict = if measured.low_ns > limit_ns { format!("more than {limit}") } else { verdict };
    Some(format!("{what} took {took}: {verdict}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MS: u64 = 1_000_000;

    fn stop(value_ns: u64, low_ns: u64, high_ns: Option<u64>) -> Estimate {
        let json = json!({ "value_ns": value_ns, "low_ns": low_ns, "high_ns": high_ns, "method": "vcpus" });
        serde_json::from_value(json).unwrap()
    }

    fn verdict(measured: Option<&Estimate>, limit_ns: u64) -> String {
        objection("the stop", measured, "--max-stop", limit_ns).unwrap_or_else(|| "met".to_owned())
    }

    #[test]
    fn a_limit_is_met_if_the_upper_bound_is_within_it() {
        let stop = stop(65_700_000, 49 * MS, Some(83 * MS));
        assert_eq!(verdict(Some(&stop), 83 * MS), "met");
        assert_eq!(
            verdict(Some(&stop), 83 * MS - 1),
            "the stop took 65.7 ms, between 49.0 ms and 83.000000 ms: not proved to be within the 83.0 ms of \
             --max-stop"
        );
        for limit_ns in [70 * MS, 49 * MS] {
            let limit_ms = limit_ns / MS;
            assert_eq!(
                verdict(Some(&stop), limit_ns),
                format!(
                    "the stop took 65.7 ms, between 49.0 ms and 83.0 ms: not proved to be within the \
                     {limit_ms}.0 ms of --max-stop"
                )
            );
        }
    }

    #[test]
    fn certainly_longer_and_possibly_longer_are_distinguished() {
        assert_eq!(
            verdict(Some(&stop(65_700_000, 61 * MS, Some(83 * MS))), 60 * MS),
            "the stop took 65.7 ms, between 61.0 ms and 83.0 ms: more than the 60.0 ms of --max-stop"
        );
        assert_eq!(
            verdict(Some(&stop(60_040_000, 60_040_000, Some(60_040_000))), 60 * MS),
            "the stop took 60.04 ms: more than the 60.0 ms of --max-stop"
        );
        assert_eq!(
            verdict(Some(&stop(70 * MS, 61 * MS, None)), 60 * MS),
            "the stop took about 70.0 ms or longer (at least 61.0 ms, no upper bound): more than the 60.0 ms of \
             --max-stop"
        );
    }

    #[test]
    fn a_time_without_upper_bound_meets_no_limit() {
        assert_eq!(
            verdict(Some(&stop(50 * MS, 49 * MS, None)), 60 * MS),
            "the stop took about 50.0 ms or longer (at least 49.0 ms, no upper bound): not proved to be within \
             the 60.0 ms of --max-stop (the report says why)"
        );
        assert_eq!(
            verdict(None, 60 * MS),
            "the stop was not measured (the report says why): not proved to be within the 60.0 ms of --max-stop"
        );
    }
}
