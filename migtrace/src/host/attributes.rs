//! The attributes of a netlink message, as they are after its header. Each is read only when it is needed.

use netlink_packet_core::NlasIterator;

/// Attributes, one after the other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Those in a message whose header has so many bytes.
    pub(super) fn after(header_bytes: usize, message: &[u8]) -> Self {
        Self(message.get(header_bytes..).unwrap_or_default().to_vec())
    }

    /// The value of the first of this kind; `None` also where they cannot be read that far.
    pub(super) fn get(&self, kind: u16) -> Option<&[u8]> {
        find(&self.0, kind)
    }

    /// A text.
    pub(super) fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }

    /// A number.
    pub(super) fn u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }
}

/// The value of the first attribute of this kind; `None` also where they cannot be read that far.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(attributes).map_while(Result::ok).find(|nla| nla.kind() == kind)?;
    let length = usize::from(found.length());
    // Its header has four bytes.
    found.into_inner().get(4..length)
}

/// A value that is a text, which the kernel ends with a NUL.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable as _};

    use super::*;

    fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
        let mut bytes = vec![0; attributes.buffer_len()];
        attributes.emit(&mut bytes);
        bytes
    }

    #[test]
    fn attributes_that_cannot_be_read_are_none() {
        let whole = bytes(&[DefaultNla::new(1, b"bpf\0".to_vec()), DefaultNla::new(11, vec![0; 4])]);
        assert_eq!((find(&whole, 1), find(&whole, 11)), (Some(&b"bpf\0"[..]), Some(&[0; 4][..])));
        assert_eq!(find(&whole, 2), None);
        for length in 0..whole.len() {
            let cut = &whole[..length];
            assert_eq!(find(cut, 1).is_some(), length >= 8, "{length}");
            assert_eq!(find(cut, 11), None);
        }
        for length in [0, 3, 0xffff] {
            let mut wrong = whole.clone();
            wrong[..2].copy_from_slice(&u16::to_ne_bytes(length));
            assert_eq!(find(&wrong, 11), None);
        }
    }

    #[test]
    fn a_value_is_read_as_what_it_is() {
        let message = bytes(&[
            DefaultNla::new(3, b"eth0\0".to_vec()),
            DefaultNla::new(4, 1500_u32.to_ne_bytes().to_vec()),
            DefaultNla::new(5, vec![1, 2]),
        ]);
        let attributes = Attributes::after(8, &[vec![0; 8], message].concat());
        assert_eq!(attributes.text(3).as_deref(), Some("eth0"));
        assert_eq!((attributes.u32(4), attributes.u32(5), attributes.u32(6)), (Some(1500), None, None));
        assert_eq!(Attributes::after(8, &[0; 4]), Attributes::default());
    }
}
