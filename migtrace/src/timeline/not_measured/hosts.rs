//! What is not known because the clocks of two hosts are not.

use super::list::List;
use crate::timeline::alignment::NotAligned;
use crate::timeline::joined::Apart;

/// The other half of the migration was seen on a host whose clock is not known.
pub(super) fn apart(apart: &Apart<'_>, list: &mut List) {
    let why = match apart.why {
        NotAligned::NoPackets => {
            "no packet was stamped on both: the migration's connections were not seen there, or not from their \
             beginning, or something between the hosts ends them. The two belong together by the VM or its \
             addresses, and by their wall clocks"
        }
        NotAligned::Contradiction => {
            "packets that were stamped on both seem to have arrived before they were sent: somebody has made \
             packets up, or a clock was slewed faster than NTP does"
        }
    };
    list.push(&format!("what happens between the two hosts (the clock of {})", apart.view.half.host()), why);
}
