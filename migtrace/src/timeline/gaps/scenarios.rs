//! Random scenarios for the simulated guest.

use proptest::prelude::*;

use super::simulation::{CALM, Outage, Path, Scenario, WhileSilent};

pub(super) fn silences() -> impl Strategy<Value = Outage> {
    let silence =
        prop_oneof![Just(WhileSilent::Loses), Just(WhileSilent::Delays), Just(WhileSilent::LosesThenDelays)];
    (1.0..400.0_f64, 0.0..3.0_f64, silence).prop_map(|(length, phase, silence)| Outage {
        length,
        phase,
        silence,
    })
}

/// Paths from a cable to halfway round the world, with up to twenty requests on their way at once.
pub(super) fn paths(interval_ns: u64) -> impl Strategy<Value = Path> {
    (1_000..10 * interval_ns, 1_000..10 * interval_ns, 0.0..1.0_f64).prop_map(
        |(there_ns, back_ns, jitter)| Path {
            there_ns,
            back_ns,
            jitter_ns: (there_ns.min(back_ns) as f64 * jitter) as u64,
        },
    )
}

pub(super) fn scenarios() -> impl Strategy<Value = Scenario> {
    (100_000..10_000_000_u64)
        .prop_flat_map(|interval_ns| {
            let moves = paths(interval_ns)
                .prop_flat_map(move |before| (Just(before), prop_oneof![Just(before), paths(interval_ns)]));
            let outages = prop::collection::vec(silences(), 1..4);
            (Just(interval_ns), moves, outages, any::<u64>(), 0..3_u64, 0..3_u64, 0..3_u64)
        })
        .prop_map(|(interval_ns, (before, after), outages, seed, loss, duplicate, slip)| Scenario {
            interval_ns,
            before,
            after,
            outages,
            seed,
            loss_percent: loss,
            duplicate_percent: duplicate,
            slip_percent: slip,
            calm: CALM,
        })
}

/// Silences at any distance from each other, among more losses.
pub(super) fn dense_scenarios() -> impl Strategy<Value = Scenario> {
    (scenarios(), 0..CALM, 0..20_u64).prop_map(|(scenario, calm, loss_percent)| Scenario {
        loss_percent,
        calm,
        ..scenario
    })
}
