//! The running kernel's type information (BTF): where fields lie, how many arguments a tracepoint passes, which functions
//! there are.
//!
//! The format is `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use aya::Endianness;
use bytes::{Buf, BufMut as _};

/// Where the kernel publishes its own BTF.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const HEADER_LENGTH: usize = 24;
const TYPE_LENGTH: usize = 12;
const MEMBER_LENGTH: usize = 12;

/// Kinds of type (`BTF_KIND_*`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FORWARD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// Why something could not be found.
#[derive(Debug, thiserror::Error)]
pub(super) enum BtfError {
    /// The kernel has no BTF, or it cannot be read.
    #[error("cannot read {}: {source} (the kernel needs CONFIG_DEBUG_INFO_BTF=y)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// The file is not BTF, or not a form of it that this reader knows.
    #[error("{} is not valid BTF: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// This kernel has no such type.
    #[error("this kernel's BTF has no {0}")]
    NoType(String),
    /// This kernel's type has no such field.
    #[error("this kernel's struct {0} has no field {1}")]
    NoField(&'static str, &'static str),
}

/// A kernel's BTF.
pub(super) struct Btf {
    path: PathBuf,
    bytes: Vec<u8>,
    strings: usize,
    /// Offset of each type's header in `bytes`; type 0 is void.
    types: Vec<usize>,
    structs: HashMap<&'static str, u32>,
}

/// The structs whose fields are read.
const STRUCTS: [&str; 11] = [
    "task_struct",
    "files_struct",
    "fdtable",
    "file",
    "socket",
    "sock_common",
    "tcp_sock",
    "sk_buff",
    "tcp_skb_cb",
    "net",
    "ns_common",
];

/// A function of the kernel.
#[derive(Debug)]
pub(super) struct Function {
    name: &'static str,
    id: usize,
}

impl Function {
    /// What the loader of programs needs of the kernel's types to find it: at its id, it alone. To read all of them takes tens of
    /// MiB.
    pub(super) fn types(&self) -> Result<aya::Btf, aya::BtfError> {
        let Self { name, id } = *self;
        let type_length = id * TYPE_LENGTH;
        let strings = [b"\0", name.as_bytes(), b"\0"].concat();
        let mut bytes = Vec::with_capacity(HEADER_LENGTH + type_length + strings.len());
        bytes.put_u16_ne(MAGIC);
        bytes.put_u16_ne(1);
        for number in [HEADER_LENGTH, 0, type_length, type_length, strings.len()] {
            bytes.put_u32_ne(number as u32);
        }
        for of in 1..=id {
            let (name, kind) = if of == id { (1, kind::FUNC) } else { (0, kind::FORWARD) };
            bytes.put_u32_ne(name);
            bytes.put_u32_ne(kind << 24);
            bytes.put_u32_ne(0);
        }
        bytes.extend(strings);
        aya::Btf::parse(&bytes, Endianness::default())
    }
}

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    length: u32,
    size_or_type: u32,
    /// Offset of what follows the header.
    body: usize,
}

impl Btf {
    /// Reads the running kernel's BTF.
    pub(super) fn of_running_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new(VMLINUX))
    }

    fn read(path: &Path) -> Result<Self, BtfError> {
        let bytes =
            std::fs::read(path).map_err(|source| BtfError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, bytes)
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, BtfError> {
        let malformed = |what| BtfError::Malformed { path: path.to_owned(), what };
        let mut header = bytes.get(..HEADER_LENGTH).ok_or_else(|| malformed("it is too short"))?;
        if header.get_u16_ne() != MAGIC {
            return Err(malformed("its magic number is wrong"));
        }
        header.advance(2);
        let header_length = header.get_u32_ne() as usize;
        let first_type = header_length + header.get_u32_ne() as usize;
        let types_end = first_type + header.get_u32_ne() as usize;
        let strings = header_length + header.get_u32_ne() as usize;
        if types_end > bytes.len() || strings > bytes.len() {
            return Err(malformed("it is truncated"));
        }
        let mut btf = Self { path: path.to_owned(), bytes, strings, types: vec![0], structs: HashMap::new() };
        let mut at = first_type;
        while at < types_end {
            let header = btf.type_at(at).ok_or_else(|| malformed("a type is truncated"))?;
            let id = btf.types.len() as u32;
            if header.kind == kind::STRUCT
                && let Some(name) = STRUCTS.iter().find(|name| btf.is_named(header.name, name))
            {
                // The first definition is vmlinux' own.
                btf.structs.entry(name).or_insert(id);
            }
            btf.types.push(at);
            at = header.body + body_length(&header);
        }
        Ok(btf)
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let mut header = self.bytes.get(at..at + TYPE_LENGTH)?;
        let name = header.get_u32_ne();
        let info = header.get_u32_ne();
        Some(Type {
            name,
            kind: info >> 24 & 0x1f,
            length: info & 0xffff,
            size_or_type: header.get_u32_ne(),
            body: at + TYPE_LENGTH,
        })
    }

    fn type_by_id(&self, id: u32) -> Option<Type> {
        if id == 0 { None } else { self.type_at(*self.types.get(id as usize)?) }
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let start = self.strings + name as usize;
        let end = start + wanted.len();
        self.bytes.get(start..end) == Some(wanted.as_bytes()) && self.bytes.get(end) == Some(&0)
    }

    /// Offset in bytes of a field, which may be in an anonymous member of the struct.
    pub(super) fn offset(&self, of: &'static str, field: &'static str) -> Result<u32, BtfError> {
        let id = self.structs.get(of).ok_or_else(|| BtfError::NoType(format!("struct {of}")))?;
        self.offset_in(*id, field).ok_or(BtfError::NoField(of, field))
    }

    fn offset_in(&self, id: u32, field: &str) -> Option<u32> {
        let container = self.type_by_id(self.resolve(id))?;
        if container.kind != kind::STRUCT && container.kind != kind::UNION {
            return None;
        }
        for index in 0..container.length as usize {
            let mut member = self.bytes.get(container.body + index * MEMBER_LENGTH..)?;
            let name = member.get_u32_ne();
            let member_type = member.get_u32_ne();
            // The upper byte is the width of a bit field when the struct has any.
            let offset = (member.get_u32_ne() & 0x00ff_ffff) / 8;
            if self.is_named(name, field) {
                return Some(offset);
            }
            if self.is_named(name, "")
                && let Some(inner) = self.offset_in(member_type, field)
            {
                return Some(offset + inner);
            }
        }
        None
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> u32 {
        while let Some(alias) = self.type_by_id(id)
            && matches!(alias.kind, kind::TYPEDEF | kind::VOLATILE | kind::CONST)
        {
            id = alias.size_or_type;
        }
        id
    }

    /// Where a function of the kernel is among its types.
    ///
    /// # Errors
    /// When there is no such function, as where the compiler has inlined it.
    pub(super) fn function(&self, name: &'static str) -> Result<Function, BtfError> {
        let id = self
            .find(|header| header.kind == kind::FUNC && self.is_named(header.name, name))
            .ok_or_else(|| BtfError::NoType(format!("function {name}")))?;
        Ok(Function { name, id })
    }

    /// The id of the first type that is wanted.
    fn find(&self, is_wanted: impl Fn(&Type) -> bool) -> Option<usize> {
        (1..self.types.len())
            .find(|id| self.type_at(self.types[*id]).is_some_and(|header| is_wanted(&header)))
    }

    /// How many arguments a tracepoint passes to its raw programs.
    pub(super) fn tracepoint_arguments(&self, tracepoint: &str) -> Result<u32, BtfError> {
        let name = format!("btf_trace_{tracepoint}");
        let missing = || BtfError::NoType(format!("tracepoint {tracepoint}"));
        let pointer = self
            .find(|header| header.kind == kind::TYPEDEF && self.is_named(header.name, &name))
            .and_then(|id| self.type_by_id(id as u32))
            .and_then(|alias| self.type_by_id(alias.size_or_type))
            .filter(|header| header.kind == kind::PTR)
            .ok_or_else(missing)?;
        let prototype = self.type_by_id(pointer.size_or_type).ok_or_else(missing)?;
        if prototype.kind != kind::FUNC_PROTO {
            return Err(BtfError::Malformed {
                path: self.path.clone(),
                what: "a tracepoint's type is not a function",
            });
        }
        // The first is the probe's private data.
        Ok(prototype.length.saturating_sub(1))
    }
}

/// Bytes that follow a type's header.
const fn body_length(header: &Type) -> usize {
    let length = header.length as usize;
    match header.kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION => length * MEMBER_LENGTH,
        kind::ENUM | kind::FUNC_PROTO => length * 8,
        kind::DATASEC | kind::ENUM64 => length * 12,
        _ => 0,
    }
}

/// Whether the running kernel has BTF.
#[cfg(test)]
pub(super) fn is_published() -> bool {
    Path::new(VMLINUX).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_field_is_named() {
        if let Ok(btf) = Btf::of_running_kernel() {
            let error = btf.offset("file", "no_such_field").unwrap_err();
            assert_eq!(error.to_string(), "this kernel's struct file has no field no_such_field");
        }
    }

    #[test]
    fn a_missing_function_is_named() {
        if let Ok(btf) = Btf::of_running_kernel() {
            let error = btf.function("no_such_function").unwrap_err();
            assert_eq!(error.to_string(), "this kernel's BTF has no function no_such_function");
        }
    }

    #[test]
    fn garbage_is_refused() {
        let path = Path::new("x");
        for bytes in [vec![], vec![0; 24], vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff]]
        {
            assert!(Btf::parse(path, bytes).is_err());
        }
    }
}
