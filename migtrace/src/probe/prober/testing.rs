//! What tests of a probe need.

use crate::host::testing::{in_new_netns, ip, ip_in, this_netns};

/// Runs a test in a network namespace whose neighbour, in another, has the address 192.0.2.9.
pub(super) fn beside_a_neighbour(test: impl FnOnce(&str) + Send) {
    in_new_netns(|| {
        let neighbour = this_netns();
        ip("link add answering type veth peer name asking");
        ip("link set answering up");
        ip("addr add 192.0.2.9/24 dev answering");
        in_new_netns(|| {
            ip_in(&neighbour, &format!("link set asking netns {}", this_netns()));
            ip("link set asking up");
            ip("addr add 192.0.2.1/24 dev asking");
            test(&neighbour);
        });
    });
}
