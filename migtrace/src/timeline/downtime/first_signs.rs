//! What was seen of the guest first, once it ran again at the destination.

use super::network::first_frame;
use super::parts::arrival;
use super::sides::Sides;
use crate::record::{FirstSign, MarkName, Method, Vantage};
use crate::timeline::gaps::BoundedGap;
use crate::timeline::half::Instant;

impl Sides<'_> {
    /// In order.
    pub(super) fn first_signs(&self, around_stop: Option<&BoundedGap<'_>>) -> Vec<FirstSign> {
        let mut signs = Vec::new();
        let Some(destination) = self.destination else { return signs };
        let Some((from, runs)) = self.after_stop(&destination).zip(arrival(self, &destination)) else {
            return signs;
        };
        let mut add = |name, role, host: &str, sign: Instant<'_>| {
            if !sign.is_before(&runs.runs) {
                let after = runs.runs.until(&sign, Method::BetweenMarks);
                signs.push(FirstSign { name, role, host: host.to_owned(), after });
            }
        };
        let process = destination.process;
        let announced = process.and_then(|process| Some(process.announcements.since(from).next()?.0));
        let sent = process.and_then(|process| first_frame(process, from));
        for (name, at) in [(MarkName::FirstAnnouncement, announced), (MarkName::FirstGuestFrame, sent)] {
            if let Some(at) = at {
                add(
                    name,
                    Vantage::Destination,
                    destination.host(),
                    destination.instant(|there| there.at(at)),
                );
            }
        }
        if let Some(BoundedGap { gap, seen }) = around_stop
            && gap.length.high_ns.is_some()
        {
            let replied = self.prober.clock.instant(|clock| clock.at(seen.resumed_ns));
            add(MarkName::FirstReply, self.prober.vantage, self.prober.facts.host(), replied);
        }
        signs.sort_by_key(|sign| sign.after.value_ns);
        signs
    }
}
