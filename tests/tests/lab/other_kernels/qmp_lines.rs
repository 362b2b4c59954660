//! The tests of [`crate::qmp_lines`] that another kernel may answer differently.

use super::in_vm;
use crate::qmp_lines::{
    assert_a_flood_is_counted_and_hides_no_other_process,
    assert_events_on_a_connection_of_a_migration_are_ignored, assert_every_shape_is_read,
    assert_lines_push_no_other_messages_out,
};
use crate::support::network;

#[test]
fn every_shape_of_an_event_is_read() {
    if in_vm() {
        assert_every_shape_is_read(network().source());
    }
}

#[test]
fn a_flood_of_events_is_counted_and_hides_no_other_process() {
    if in_vm() {
        assert_a_flood_is_counted_and_hides_no_other_process(network().source(), 20_000);
    }
}

#[test]
fn events_on_a_connection_of_a_migration_are_ignored() {
    if in_vm() {
        assert_events_on_a_connection_of_a_migration_are_ignored(network().source());
    }
}

#[test]
fn lines_that_nobody_reads_push_no_other_messages_out() {
    if in_vm() {
        assert_lines_push_no_other_messages_out(&network());
    }
}
