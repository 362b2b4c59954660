//! For the tests of this crate and of its users: frames with known costs, and announcements. The feature `testing`
//! enables it, which no program and no release needs.

pub mod announcements;
pub mod frames;

use crate::packet::{Frame, Metadata};

/// Bytes as a frame about which the kernel knows nothing besides.
#[derive(Clone, Copy, Debug)]
pub struct Buffer<'a>(pub &'a [u8]);

impl Frame for Buffer<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..)?.first_chunk().copied()
    }

    fn metadata(&self) -> Metadata {
        Metadata::default()
    }
}
