//! Bytes as a frame of which the kernel knows nothing besides.

use migtrace_ebpf::packet::{Frame, Metadata};

pub(crate) struct Buffer<'a>(pub(crate) &'a [u8]);

impl Frame for Buffer<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..)?.first_chunk().copied()
    }

    fn metadata(&self) -> Metadata {
        Metadata::default()
    }
}
