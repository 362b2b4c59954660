//! What the first bytes of a connection say about what it carries.

/// What a connection begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beginning {
    /// The memory stream of a migration.
    Memory,
    /// Another channel of that stream.
    Channel,
    /// A disk over NBD.
    Nbd,
    /// A TLS record.
    Tls,
}

impl Beginning {
    /// Of the first four bytes of payload, big endian; `None` when they say nothing.
    #[inline(always)]
    #[must_use]
    pub const fn of(first_bytes: u32) -> Option<Self> {
        match first_bytes.to_be_bytes() {
            // QEMU_VM_FILE_MAGIC, migration/savevm.h
            [b'Q', b'E', b'V', b'M'] => Some(Self::Memory),
            // MULTIFD_MAGIC, migration/multifd.h
            [0x11, 0x22, 0x33, 0x44] => Some(Self::Channel),
            // The server's greeting, NBDMAGIC, and the client's first option, IHAVEOPT
            [b'N', b'B', b'D', b'M'] | [b'I', b'H', b'A', b'V'] => Some(Self::Nbd),
            // A TLS handshake record
            [0x16, 0x03, _, _] => Some(Self::Tls),
            _ => None,
        }
    }
}
