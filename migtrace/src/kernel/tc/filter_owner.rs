//! Who owns a filter of the clsact qdisc, and whether the owner still runs: a filter outlives the process
//! that added it.
//!
//! A process that adds filters holds an abstract Unix socket, and the name of each filter ends in that
//! socket's name. The kernel frees the name when the process ends, however it ends. Such names belong to a
//! network namespace, as filters do, so a migtrace in a container and one on the host see each other's names
//! if they see each other's filters. This needs no privileges and no `/proc`, which shows the processes of
//! one pid namespace only.
//!
//! Any local user can take a name that has become free, and so keep the filters of a killed run from being
//! removed. Nobody can take the name of a running process, or guess a name before it is taken.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Between the name of the program and that of the owner.
const SEPARATOR: char = '@';
/// The names of all sockets begin with this.
const PREFIX: &str = "migtrace-filters-";

/// An owner of filters that runs.
#[derive(Debug)]
pub(super) struct Owner {
    name: String,
    /// Close-on-exec: no program that this process runs keeps the name.
    _socket: UnixDatagram,
}

impl Owner {
    /// Takes a name in the calling thread's network namespace.
    ///
    /// # Errors
    /// No Unix socket can be opened.
    pub(super) fn new() -> io::Result<Self> {
        // The process id is for people only: it may be one of another pid namespace.
        let nonce = RandomState::new().hash_one(0);
        let name = format!("{}-{nonce:016x}", std::process::id());
        let socket = UnixDatagram::bind_addr(&address(&name)?)?;
        Ok(Self { name, _socket: socket })
    }

    /// The name of a filter of this owner that runs `program`.
    pub(super) fn filter(&self, program: &str) -> FilterName {
        FilterName { program: program.to_owned(), owner: Some(self.name.clone()) }
    }
}

/// The name of a filter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FilterName {
    pub(super) program: String,
    /// `None` for a filter of an early version, which did not name the owner.
    owner: Option<String>,
}

impl FilterName {
    pub(super) fn parse(name: &str) -> Self {
        match name.split_once(SEPARATOR) {
            Some((program, owner)) => Self { program: program.into(), owner: Some(owner.into()) },
            None => Self { program: name.into(), owner: None },
        }
    }

    /// Whether the filter was left behind, as far as can be known. A filter that names no owner counts as
    /// left behind.
    pub(super) fn is_left(&self) -> bool {
        self.owner.as_deref().is_none_or(|owner| !runs(owner))
    }
}

impl fmt::Display for FilterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        self.owner.as_ref().map_or(Ok(()), |owner| write!(f, "{SEPARATOR}{owner}"))
    }
}

fn address(owner: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{PREFIX}{owner}"))
}

/// Whether a process holds this name in this network namespace. Yes, if that cannot be found out (a security
/// module may forbid it).
fn runs(owner: &str) -> bool {
    let connect = || UnixDatagram::unbound()?.connect_addr(&address(owner)?);
    match connect() {
        Ok(()) => true,
        // A name too long for a socket has no owner.
        Err(error) => !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidInput),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::in_new_netns;
    use crate::kernel::testing::soon;

    #[test]
    fn a_name_holds_the_program_and_the_owner() {
        let owner = Owner::new().unwrap();
        let name = owner.filter("migtrace_ingress");
        let text = name.to_string();
        assert!(text.starts_with(&format!("migtrace_ingress@{}-", std::process::id())), "{text}");
        assert_eq!(FilterName::parse(&text), name);
        assert_eq!(FilterName::parse("migtrace_guest").to_string(), "migtrace_guest");
    }

    #[test]
    fn a_filter_is_left_behind_once_its_owner_is_gone_and_not_before() {
        let (owner, other) = (Owner::new().unwrap(), Owner::new().unwrap());
        let [name, others] = [&owner, &other].map(|owner| owner.filter("migtrace_egress"));
        assert!(!name.is_left() && !others.is_left());
        drop(owner);
        assert!(soon(|| name.is_left()));
        assert!(!others.is_left());
        assert!(FilterName::parse("migtrace_egress").is_left());
        assert!(FilterName::parse(&format!("migtrace_egress@{}", "long".repeat(60))).is_left());
    }

    #[test]
    fn an_owner_is_known_in_its_own_network_namespace_only() {
        let here = Owner::new().unwrap().filter("migtrace_guest");
        let held = Owner::new().unwrap();
        in_new_netns(|| assert!(held.filter("migtrace_guest").is_left()));
        assert!(soon(|| here.is_left()));
        assert!(!held.filter("migtrace_guest").is_left());
    }
}
