//! The whole migration on one axis: what QEMU was doing, how fast it sent, its connections, and when the guest was gone.

use maud::{Markup, html};

use super::super::chart::{Axis, Cell, Chart, Curve, HIGH, LOW, Lane, Legend, Rows, chart as figure, signs};
use super::super::scale::{Quantity, Scale};
use super::super::shapes::{Data, Form, Item};
use super::super::{length, place};
use super::downtime::{figure_item, gap_lane};
use crate::record::{Bar, FlowRecord, Phase, PhaseName, Record, Step, bars, steps};
use crate::report::content::{UNKNOWN, clean};
use crate::report::phases::length_ns;
use crate::report::quantities::{Bounded, bytes, duration, grouped, offset, rate, signed};

/// The most steps of a curve: about as many as a screen shows apart.
pub(in crate::report::html) const MOST_STEPS: u32 = 180;
/// The most connections that are drawn. The table of connections has all.
const MOST_FLOWS: usize = 12;

pub(super) fn charts(record: &Record, index: usize) -> Markup {
    let axis = axis(record);
    let steps = steps(record, MOST_STEPS);
    let mut lanes = vec![phases(record, index, &axis)];
    lanes.extend(curves(record, index, &steps, highest(&steps)));
    lanes.extend(flows(record, index));
    lanes.extend(gone(record, index));
    let about = "What QEMU was doing, how fast it sent and received, its connections, and when the guest was gone. \
                 Each step of a curve is the average between two samples, or to the last packet.";
    let overview = Chart {
        title: "The migration over time".to_owned(),
        about: about.to_owned(),
        axis: Axis { scale: axis, origin: 0.0, name: "after the start".to_owned() },
        legend: signs(&lanes, Legend::Value),
        lanes,
        table: table(record, index, &steps),
    };
    html! { section { h3 { "Over time" } (figure(&overview)) } }
}

/// From the start to the end, and to the end of a gap soon after it. How long a destination listened before is left out, and
/// for how long nothing more came.
pub(in crate::report::html) fn axis(record: &Record) -> Scale {
    let phases = record.phases.iter().filter(|phase| phase.name != PhaseName::Listening);
    let flows = &record.traffic.flows;
    let begins = phases.map(|phase| phase.start_ns).chain(flows.iter().map(|flow| flow.first_ns));
    let total = record.total_time.as_ref().map(|total| i64::try_from(total.value_ns).unwrap_or(i64::MAX));
    let ends = record.phases.iter().map(|phase| phase.end_ns).chain(flows.iter().map(|flow| flow.last_ns));
    let end = place(ends.chain(total).max().unwrap_or(0).max(0));
    let gaps = record.gaps.iter().map(|gap| place(gap.start.value_ns) + length(gap.length.value_ns));
    let to = gaps.filter(|gap_end| *gap_end <= end * 1.5).fold(end, f64::max);
    // What lies further before the start than all the rest takes would leave no room for it.
    let from = place(begins.min().unwrap_or(0).min(0)).max(-to);
    Scale::new(Quantity::Time, from, to + (to - from) * 0.01)
}

fn phases(record: &Record, index: usize, axis: &Scale) -> Lane {
    let item = |(number, phase): (usize, &Phase)| {
        let traffic = phase.traffic;
        let values = vec![
            ("start_ns", Some(phase.start_ns.into())),
            ("end_ns", Some(phase.end_ns.into())),
            ("traffic.tx.wire_bytes", traffic.map(|traffic| traffic.tx.wire_bytes.into())),
            ("traffic.rx.wire_bytes", traffic.map(|traffic| traffic.rx.wire_bytes.into())),
        ];
        let sent = traffic.map_or(UNKNOWN.to_owned(), |traffic| {
            let (sent, received) = (bytes(traffic.tx.wire_bytes), bytes(traffic.rx.wire_bytes));
            let at = rate(traffic.tx.wire_bytes, length_ns(phase));
            format!("{sent}{}, received {received}", at.map(|at| format!(" ({at})")).unwrap_or_default())
        });
        let (name, took) = (phase_name(phase), duration(length_ns(phase)));
        Item {
            from: place(phase.start_ns).max(axis.from()),
            to: place(phase.end_ns),
            form: Form::Span,
            tone: if number % 2 == 0 { "t-even" } else { "t-odd" },
            tip: format!("{name}: from {}, for {took}; sent {sent}", offset(phase.start_ns)),
            data: Data::new(format!("/{index}/phases/{number}"), values),
            label: phase.pass.map_or_else(|| clean(phase.name.as_str()), |pass| pass.to_string()),
        }
    };
    let shown = record.phases.iter().enumerate().filter(|(_, phase)| axis.has(place(phase.end_ns)));
    Lane {
        name: "Phases".to_owned(),
        value: Bounded::alone("numbers: passes"),
        height: 26,
        items: shown.map(item).collect(),
        ..Lane::default()
    }
}

fn phase_name(phase: &Phase) -> String {
    let name = clean(phase.name.as_str());
    phase.pass.map_or_else(|| name.clone(), |pass| format!("{name}, pass {pass}"))
}

/// What a curve shows.
#[derive(Clone, Copy)]
struct Series {
    name: &'static str,
    tone: &'static str,
    height: u16,
    of: fn(&Step) -> u64,
}

impl Series {
    const SENT: Self = Self { name: "Sent", tone: "t-sent", height: HIGH, of: |step| step.wire_bytes.tx };
    const SENT_MEMORY: Self = Self {
        name: "Sent: memory",
        of: |step| step.wire_bytes.tx.saturating_sub(step.disk.tx),
        ..Self::SENT
    };
    const SENT_DISK: Self =
        Self { name: "Sent: disk", tone: "t-disk", height: HIGH, of: |step| step.disk.tx };
    const RECEIVED: Self =
        Self { name: "Received", tone: "t-received", height: HIGH / 2, of: |step| step.wire_bytes.rx };

    /// Disks and memory apart, where disks were copied.
    fn all(record: &Record) -> &'static [Self] {
        if record.traffic.samples.iter().any(|sample| sample.disk_wire_bytes.is_some()) {
            &[Self::SENT_MEMORY, Self::SENT_DISK, Self::RECEIVED]
        } else {
            &[Self::SENT, Self::RECEIVED]
        }
    }

    fn rate(&self, step: &Step) -> f64 {
        step.bits_per_s((self.of)(step))
    }
}

/// The highest rates of some steps: of what was sent, and of what was received.
pub(in crate::report::html) fn highest<'a>(steps: impl IntoIterator<Item = &'a Step>) -> [f64; 2] {
    steps.into_iter().fold([0.0, 0.0], |[sent, received], step| {
        [Series::SENT.rate(step).max(sent), Series::RECEIVED.rate(step).max(received)]
    })
}

/// How fast the migration sent and received: a lane each. `most` is the highest rate of each direction on the scales.
pub(in crate::report::html) fn curves(
    record: &Record,
    index: usize,
    steps: &[Step],
    [most_sent, most_received]: [f64; 2],
) -> Vec<Lane> {
    if steps.is_empty() {
        return vec![Lane {
            items: vec![Item::unknown(&axis(record), "the rate is unknown: no sample was taken", UNKNOWN)],
            name: "Sent, received".to_owned(),
            value: Bounded::alone(UNKNOWN),
            height: LOW,
            ..Lane::default()
        }];
    }
    let every_other = record.phases.iter().skip(1).step_by(2);
    let bands: Vec<_> = every_other.map(|phase| (place(phase.start_ns), place(phase.end_ns))).collect();
    let lane = |series: &Series| {
        let most = if series.name == Series::RECEIVED.name { most_received } else { most_sent };
        let drawn = |step: &Step| (place(step.from_ns), place(step.to_ns), series.rate(step));
        Lane {
            name: series.name.to_owned(),
            height: series.height,
            bands: bands.clone(),
            items: steps.iter().map(|step| step_item(series, step, index)).collect(),
            curve: Some(Curve {
                scale: Scale::from_zero(Quantity::Rate, most),
                tone: series.tone,
                steps: steps.iter().map(drawn).collect(),
            }),
            ..Lane::default()
        }
    };
    Series::all(record).iter().map(lane).collect()
}

fn step_item(series: &Series, step: &Step, index: usize) -> Item {
    Item {
        from: place(step.from_ns),
        to: place(step.to_ns),
        form: Form::Step,
        tone: series.tone,
        tip: step_tip(step, series.name, (series.of)(step)),
        data: Data::new(format!("/{index}/traffic/samples/{}", step.until), step_values(step)),
        ..Item::default()
    }
}

fn step_tip(step: &Step, name: &str, crossed: u64) -> String {
    let (from, to) = (offset(step.from_ns), offset(step.to_ns));
    let at = rate(crossed, step.length_ns()).unwrap_or_default();
    format!("{from} to {to}: {} {} ({at})", name.to_lowercase(), bytes(crossed))
}

fn step_values(step: &Step) -> Vec<(&'static str, Option<i128>)> {
    let since = step.since.map(|since| i128::try_from(since).unwrap_or(i128::MAX));
    vec![("at_ns", Some(step.sampled_ns.into())), ("since", since)]
}

/// The connections, a lane each.
fn flows(record: &Record, index: usize) -> Vec<Lane> {
    let lane = |(number, flow): (usize, &FlowRecord)| {
        let (sent, received) = (flow.counters.tx.wire_bytes, flow.counters.rx.wire_bytes);
        let said = format!(
            "{} ({}): from {} to {}; sent {}, received {}",
            flow.flow,
            flow.purpose.name(),
            offset(flow.first_ns),
            offset(flow.last_ns),
            bytes(sent),
            bytes(received),
        );
        let values = vec![
            ("first_ns", Some(flow.first_ns.into())),
            ("last_ns", Some(flow.last_ns.into())),
            ("counters.tx.wire_bytes", Some(sent.into())),
            ("counters.rx.wire_bytes", Some(received.into())),
        ];
        Lane {
            name: format!("Flow: {}", flow.purpose.name()),
            value: format!("{} sent", bytes(sent)).into(),
            height: LOW,
            items: vec![Item {
                from: place(flow.first_ns),
                to: place(flow.last_ns),
                form: Form::Span,
                tone: tone(flow),
                tip: said,
                data: Data::new(format!("/{index}/traffic/flows/{number}"), values),
                ..Item::default()
            }],
            ..Lane::default()
        }
    };
    let flows = &record.traffic.flows;
    let mut lanes: Vec<_> = flows.iter().enumerate().take(MOST_FLOWS).map(lane).collect();
    if let Some(more) = flows.len().checked_sub(MOST_FLOWS).filter(|more| *more > 0) {
        lanes.push(Lane::heading(&format!("and {more} more flows, in the table below")));
    }
    lanes
}

fn tone(flow: &FlowRecord) -> &'static str {
    if flow.purpose == crate::vocabulary::Purpose::Nbd { "t-disk" } else { "t-sent" }
}

/// When the guest was gone.
fn gone(record: &Record, index: usize) -> Vec<Lane> {
    let bars = bars(&record.downtime);
    let lane = |bar: &Bar<'_>| Lane {
        name: bar.name.to_owned(),
        value: bar.figure.into(),
        height: LOW,
        items: vec![figure_item(bar, format!("/{index}/downtime/{}", bar.name))],
        ..Lane::default()
    };
    let mut lanes: Vec<_> = bars.iter().filter(|bar| bar.name == "stop").map(lane).collect();
    lanes.extend(gap_lane(record, index, &axis(record)));
    lanes
}

/// The samples at which the steps end.
fn table(record: &Record, index: usize, steps: &[Step]) -> Rows {
    let headings = [
        "Sample at (ns after the start)",
        "Sent until then (bytes)",
        "Received until then (bytes)",
        "Sent since the row before",
        "Received since the row before",
    ];
    let row = |step: &Step| {
        let sample = &record.traffic.samples[step.until];
        let at =
            |field: &str| Data::new(format!("/{index}/traffic/samples/{}/{field}", step.until), Vec::new());
        let average = |bytes| Cell::Amount(rate(bytes, step.length_ns()).unwrap_or_default());
        vec![
            Cell::Number(signed(sample.at_ns), at("at_ns")),
            Cell::Number(grouped(sample.wire_bytes.tx), at("wire_bytes/tx")),
            Cell::Number(grouped(sample.wire_bytes.rx), at("wire_bytes/rx")),
            average(step.wire_bytes.tx),
            average(step.wire_bytes.rx),
        ]
    };
    Rows { headings: headings.map(str::to_owned).to_vec(), rows: steps.iter().map(row).collect() }
}
