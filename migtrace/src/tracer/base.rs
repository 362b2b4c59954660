//! What every part of the tracer uses.

use super::queue::EventQueue;
use crate::kernel::Kernel;

/// What every part of the tracer uses: the kernel programs, and the queue for what is found.
pub(super) struct Base {
    pub(super) kernel: Kernel,
    pub(super) events: EventQueue,
}
