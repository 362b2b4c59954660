//! Whose a filter of the clsact qdisc is, and whether its owner lives: a filter survives the process that added it.
//!
//! Who adds filters holds an abstract Unix socket, and every filter's name ends in that socket's name. The kernel takes
//! the name away with the process, however it ends. Such names belong to a network namespace, as filters do: so a
//! migtrace in a container sees that of one on the host, and the other way round, if they see each other's filters at
//! all. That needs neither `/proc`, which shows the processes of one pid namespace, nor privileges.
//!
//! Any local user can take a name that has become free, and so keep the filters of a killed run from being removed. No
//! one can take that of a living process, or guess one before it is taken.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Between the name of a program and that of who owns the filter.
const SEPARATOR: char = '@';
/// What the names of sockets begin with.
const PREFIX: &str = "migtrace-filters-";

/// A living owner of filters.
#[derive(Debug)]
pub(super) struct Owner {
    name: String,
    /// Open for as long as this lives, and closed in every program that this process runs.
    _socket: UnixDatagram,
}

impl Owner {
    /// Takes a name in the calling thread's network namespace.
    ///
    /// # Errors
    /// No Unix socket can be opened.
    pub(super) fn new() -> io::Result<Self> {
        // The process id is for people: it may be that of another pid namespace.
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
    /// None: it is that of an early version, which did not say.
    owner: Option<String>,
}

impl FilterName {
    pub(super) fn parse(name: &str) -> Self {
        match name.split_once(SEPARATOR) {
            Some((program, owner)) => Self { program: program.into(), owner: Some(owner.into()) },
            None => Self { program: name.into(), owner: None },
        }
    }

    /// Whether nobody uses the filter any more, so far as can be known. A filter without an owner counts as left.
    pub(super) fn is_left(&self) -> bool {
        self.owner.as_deref().is_none_or(|owner| !lives(owner))
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

/// Whether somebody holds the name in this network namespace. When the kernel does not say (a security module may forbid
/// to ask), somebody may.
fn lives(owner: &str) -> bool {
    let asked = || UnixDatagram::unbound()?.connect_addr(&address(owner)?);
    match asked() {
        Ok(()) => true,
        // A name that is too long for a socket is nobody's.
        Err(error) => !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidInput),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::in_new_netns;

    #[test]
    fn a_name_says_what_runs_and_whose_it_is() {
        let owner = Owner::new().unwrap();
        let name = owner.filter("migtrace_ingress");
        let text = name.to_string();
        assert!(text.starts_with(&format!("migtrace_ingress@{}-", std::process::id())), "{text}");
        assert_eq!(FilterName::parse(&text), name);
        assert_eq!(FilterName::parse("migtrace_guest").to_string(), "migtrace_guest");
    }

    #[test]
    fn what_an_owner_has_is_left_when_it_is_gone_and_no_earlier() {
        let (owner, other) = (Owner::new().unwrap(), Owner::new().unwrap());
        let [name, others] = [&owner, &other].map(|owner| owner.filter("migtrace_egress"));
        assert!(!name.is_left() && !others.is_left());
        drop(owner);
        assert!(name.is_left() && !others.is_left());
        assert!(FilterName::parse("migtrace_egress").is_left());
        assert!(FilterName::parse(&format!("migtrace_egress@{}", "long".repeat(60))).is_left());
    }

    #[test]
    fn owners_are_those_of_the_network_namespace() {
        let here = Owner::new().unwrap().filter("migtrace_guest");
        let held = Owner::new().unwrap();
        in_new_netns(|| assert!(held.filter("migtrace_guest").is_left()));
        assert!(here.is_left() && !held.filter("migtrace_guest").is_left());
    }
}
