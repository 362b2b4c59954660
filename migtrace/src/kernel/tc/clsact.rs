//! Filters of the clsact qdisc.
//!
//! They do not die with the process that added them, so the name of each [says who owns
//! it](super::filter_owner): the next run and [`cleanup`] remove those whose owner is gone. The clsact qdisc
//! is never removed, because it may hold somebody else's filters.
//!
//! A filter that says "pass" or "drop" ends the walk, so ours should be the first. All filters of one
//! preference have one kind and one protocol (`tc_new_tfilter`, net/sched/cls_api.c): where somebody has
//! filters of another kind at the first preference, ours takes the next one that is free, and this is
//! reported.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::Ebpf;
use aya::programs::ProgramError;
use aya::programs::tc::{self, TcError};

use super::filter_owner::{FilterName, Owner};
use super::{COUNT, ECHO, GUEST, OURS, Order, programs};
use crate::errors::with_causes;
use crate::host::filters::{Filter, Filters, News, Place, Way};
use crate::host::links;

/// The first to run. Among filters of one preference the newest runs first.
const FIRST_PREFERENCE: u16 = 1;
/// Where the search for a preference that accepts our filter ends.
const LAST_PREFERENCE: u16 = 64;

/// A filter that an earlier run left at an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Leftover {
    /// The interface.
    pub interface: String,
    /// The filter's name.
    pub filter: String,
}

/// Access to filters, and the owner of those that are added.
pub(super) struct Clsact {
    owner: Arc<Owner>,
    filters: Filters,
    pub(super) news: News,
}

/// A filter of ours. Dropping it removes the filter; until then its owner lives.
pub(super) struct OwnFilter {
    place: Place,
    preference: u16,
    name: String,
    _owner: Arc<Owner>,
}

impl Clsact {
    pub(super) fn open() -> Result<Self, String> {
        let cannot = |what: &str, error: &io::Error| format!("clsact: cannot {what}: {error}");
        let owner = Owner::new();
        let owner =
            owner.map_err(|error| cannot("open the Unix socket that names the filters' owner", &error))?;
        // Listen first, so that no change is missed after the filters are listed.
        let news = News::listen().map_err(|error| cannot("listen for changes of filters", &error))?;
        let filters = Filters::open().map_err(|error| cannot("open a netlink socket", &error))?;
        // Filters of a killed run still cost time with every packet, and nobody reads their counts. If they
        // cannot be removed they do no other harm, and `migtrace cleanup` says why.
        let _ = links::list()
            .and_then(|links| cleanup(links.iter().map(|link| (link.index, link.name.as_str()))));
        Ok(Self { owner: Arc::new(owner), filters, news })
    }

    /// Adds a filter at the first preference that accepts one of this kind.
    pub(super) fn add(
        &mut self,
        ebpf: &mut Ebpf,
        program: &str,
        place: Place,
    ) -> Result<OwnFilter, ProgramError> {
        let name = self.owner.filter(program).to_string();
        let program = programs::tc_mut(ebpf, program)?;
        let mut preference = FIRST_PREFERENCE;
        loop {
            match self.filters.add(place, preference, &name, program.fd()?.as_fd()) {
                Ok(()) => break,
                // "Specified filter kind does not match existing one" or "Protocol mismatch for filter with
                // specified priority".
                Err(error) if preference < LAST_PREFERENCE && error.raw_os_error() == Some(libc::EINVAL) => {
                    preference += 1;
                }
                Err(error) => return Err(ProgramError::IOError(error)),
            }
        }
        let added = OwnFilter { place, preference, name, _owner: self.owner.clone() };
        // The `ingress` qdisc has only one place, and puts every filter there.
        let ingress = Place { way: Way::Ingress, ..place };
        if place.way == Way::Egress
            && self.filters.list(ingress, Some(preference))?.iter().any(|filter| filter.name == added.name)
        {
            return Err(ProgramError::IOError(io::Error::other("the qdisc does not see outgoing packets")));
        }
        Ok(added)
    }

    /// Where a filter stands among those of its preference.
    pub(super) fn order(&mut self, own: &OwnFilter) -> io::Result<Order> {
        let all = self.filters.list(own.place, Some(own.preference))?;
        let position = all.iter().position(|filter| filter.name == own.name);
        let is_behind = |position: usize| all[..position].iter().any(|filter| !filter.name.starts_with(OURS));
        Ok(position.map_or(Order::Removed, |position| Order::behind_others(is_behind(position))))
    }
}

impl OwnFilter {
    pub(super) const fn has_first_preference(&self) -> bool {
        self.preference == FIRST_PREFERENCE
    }
}

impl Drop for OwnFilter {
    fn drop(&mut self) {
        // Found by its name: somebody may have removed it, and another filter may have its handle now. If
        // this fails, the next run finds it without an owner and removes it.
        let _ = Filters::open().and_then(|mut filters| {
            let all = filters.list(self.place, Some(self.preference))?;
            all.iter().filter(|filter| filter.name == self.name).try_for_each(|own| filters.remove(own))
        });
    }
}

/// Adds the qdisc, unless it is there.
pub(super) fn add_qdisc(interface: &str) -> Result<(), String> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(()),
        // It is there already: ours of an earlier run, or somebody else's.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(format!(
            "cannot add the clsact qdisc: {}; try `modprobe sch_ingress cls_bpf`",
            with_causes(&error)
        )),
    }
}

/// Whether a filter runs one of our programs and its owner is gone.
fn is_left(filter: &Filter) -> bool {
    let name = FilterName::parse(&filter.name);
    let mut programs = [COUNT, ECHO, GUEST].into_iter().flat_map(|set| set.by_way);
    programs.any(|(program, _)| *program == name.program) && name.is_left()
}

/// Removes what killed runs left at these interfaces (index and name): filters that run `migtrace_ingress`,
/// `migtrace_egress`, `migtrace_echo_ingress`, `migtrace_echo_egress` or `migtrace_guest` and whose owner is
/// gone.
///
/// # Errors
///
/// When an interface's filters cannot be listed or removed.
pub(crate) fn cleanup<'a>(interfaces: impl IntoIterator<Item = (u32, &'a str)>) -> io::Result<Vec<Leftover>> {
    let mut filters = Filters::open()?;
    let mut removed = Vec::new();
    for (interface, name) in interfaces {
        for way in [Way::Ingress, Way::Egress] {
            let all = filters.list(Place { interface, way }, None)?;
            for filter in all.iter().filter(|filter| is_left(filter)) {
                filters.remove(filter)?;
                removed.push(Leftover { interface: name.to_owned(), filter: filter.name.clone() });
            }
        }
    }
    Ok(removed)
}
