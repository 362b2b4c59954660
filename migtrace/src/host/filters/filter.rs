//! Where a filter is, and what it is.

/// The direction of the packets that a filter sees.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Packets that come in through the interface.
    Ingress,
    /// Packets that go out through it.
    Egress,
}

/// Where filters are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Index of the interface.
    pub(crate) interface: u32,
    pub(crate) way: Way,
}

/// A filter of kind `bpf`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Filter {
    pub(crate) place: Place,
    /// `tc`'s `pref`: filters with a smaller one run first.
    pub(crate) preference: u16,
    pub(super) protocol: u16,
    pub(super) handle: u32,
    /// The name that it was added with.
    pub(crate) name: String,
}
