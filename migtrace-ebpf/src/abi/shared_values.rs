//! The macro that defines values in maps.

/// Defines each of these types twice: as a copy, which nobody else reads or writes, and in a module `shared` as the
/// words in the map. `U64` and `U32` are the integers of the copy and the words of the other.
macro_rules! shared_values {
    ($(
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$about_field:meta])* pub $field:ident: $type:ty,)+
        }
    )+) => {
        type U64 = u64;
        type U32 = u32;

        $(
            $(#[$about])*
            #[derive(
                Clone, Copy, Debug, Default, Eq, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::IntoBytes,
                PartialEq,
            )]
            #[repr(C)]
            pub struct $name {
                $($(#[$about_field])* pub $field: $type,)+
            }
        )+

        #[allow(missing_docs, reason = "the copies' fields have the documentation")]
        pub(super) mod shared {
            use crate::word::{Word, Words};

            type U64 = Word<u64>;
            type U32 = Word<u32>;

            $(
                #[doc = concat!("[`", stringify!($name), "`](super::", stringify!($name), ")")]
                #[derive(Debug, Default)]
                #[repr(C)]
                pub struct $name {
                    $(pub $field: $type,)+
                }

                const _: () = assert!(size_of::<$name>() == size_of::<super::$name>());

                impl Words for $name {
                    type Copied = super::$name;

                    #[inline(always)]
                    fn load(&self) -> super::$name {
                        super::$name { $($field: self.$field.load(),)+ }
                    }

                    #[inline(always)]
                    fn store(&self, value: &super::$name) {
                        $(self.$field.store(&value.$field);)+
                    }
                }
            )+
        }
    };
}

pub(super) use shared_values;
