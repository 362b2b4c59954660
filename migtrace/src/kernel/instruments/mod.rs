//! Attaches the instruments: of each, the first [hook](table::Hook) that this kernel has.

mod attached;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use aya::Ebpf;

use super::btf::{Btf, BtfError, Function};
use super::programs;
use crate::errors::with_causes;
use crate::event::{Instrument, InstrumentStatus};
pub(super) use attached::Attached;
pub(super) use table::Need;
use table::{AttachPoint, Definition, TABLE};

/// It is there while a module of KVM is loaded, and always where KVM is built into the kernel.
const KVM_DEVICE: &str = "/sys/class/misc/kvm";

/// The running kernel's types, or why there are none.
pub(super) type Types = Result<Btf, BtfError>;

/// The functions of the kernel to which programs of the table are attached by fentry; where there is none, why.
pub(super) struct Functions(BTreeMap<&'static str, Result<Function, String>>);

impl Functions {
    /// Finds them among the kernel's types, which are not needed any more then.
    pub(super) fn find(types: &Types) -> Self {
        let points = TABLE.iter().flat_map(|definition| definition.hooks).map(|hook| hook.point);
        let names = points.filter_map(|point| match point {
            AttachPoint::Fentry { function } | AttachPoint::Fexit { function } => Some(function),
            _ => None,
        });
        let find =
            |name| types.as_ref().map_err(ToString::to_string)?.function(name).map_err(|e| e.to_string());
        Self(names.map(|name| (name, find(name))).collect())
    }

    /// What the loader needs of the kernel's types for this one.
    fn types_of(&self, name: &str) -> Result<aya::Btf, String> {
        let function = self.0[name].as_ref().map_err(Clone::clone)?;
        function.types().map_err(|error| with_causes(&error))
    }
}

/// The needs that this kernel does not meet, and why.
#[derive(Debug, Default)]
pub(super) struct Unmet(Vec<(Need, String)>);

impl Unmet {
    pub(super) fn push(&mut self, need: Need, why: String) {
        self.0.push((need, why));
    }

    /// Why the first of these needs that is not met is not; `None` when all are met.
    pub(super) fn why(&self, needs: &[Need]) -> Option<&str> {
        let unmet = |need: &Need| self.0.iter().find(|(unmet, _)| unmet == need);
        needs.iter().find_map(unmet).map(|(_, why)| why.as_str())
    }
}

/// Loads and attaches every instrument. One that cannot be attached is listed with the reason; that is not an
/// error. Also returns those that are attached.
pub(super) fn attach_all(
    ebpf: &mut Ebpf,
    functions: &Functions,
    unmet: &mut Unmet,
) -> (Vec<Instrument>, Vec<Attached>) {
    if !Path::new(KVM_DEVICE).exists() {
        let why = "KVM is not loaded (run `modprobe kvm_intel` or `modprobe kvm_amd` before tracing)";
        unmet.push(Need::Kvm, why.into());
    }
    let mut attached = Vec::new();
    let instruments = TABLE.iter().map(|definition| {
        let (instrument, link) = attach(ebpf, functions, definition, unmet.why(definition.needs));
        attached.extend(link);
        instrument
    });
    (instruments.collect(), attached)
}

fn attach(
    ebpf: &mut Ebpf,
    functions: &Functions,
    definition: &'static Definition,
    unmet: Option<&str>,
) -> (Instrument, Option<Attached>) {
    let mut instrument = Instrument {
        name: definition.name.into(),
        observes: definition.observes.into(),
        status: InstrumentStatus::Missing,
        hook: None,
        lost: Some(definition.lost.into()),
        note: None,
        why: None,
    };
    let mut refused: Vec<String> = unmet.map(str::to_owned).into_iter().collect();
    let hooks = if unmet.is_some() { &[] } else { definition.hooks };
    let mut attached = None;
    for (index, hook) in hooks.iter().enumerate() {
        match Attached::attach(ebpf, definition, hook, functions) {
            Ok(link) => {
                attached = Some(link);
                instrument.hook = Some(hook.point.name());
                instrument.status =
                    if index == 0 { InstrumentStatus::Ok } else { InstrumentStatus::Fallback };
                instrument.lost = None;
                instrument.note = hook.note.map(Into::into);
                break;
            }
            Err(why) => refused.push(format!("{}: {why}", hook.point.name())),
        }
    }
    instrument.why = (!refused.is_empty()).then(|| refused.join("; "));
    (instrument, attached)
}

impl AttachPoint {
    fn name(self) -> String {
        match self {
            Self::Kprobe { function } => format!("kprobe:{function}"),
            Self::Kretprobe { function } => format!("kretprobe:{function}"),
            Self::Fentry { function } => format!("fentry:{function}"),
            Self::Fexit { function } => format!("fexit:{function}"),
            Self::Tracepoint { category, name } => format!("tracepoint:{category}:{name}"),
            Self::RawTracepoint { name } => format!("raw_tracepoint:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_unmet_need_of_an_instrument_is_the_reason() {
        let mut unmet = Unmet::default();
        unmet.push(Need::RetransmitOffsets, "no field".into());
        assert_eq!(unmet.why(&[Need::SocketOffsets, Need::RetransmitOffsets]), Some("no field"));
        assert_eq!(unmet.why(&[Need::SocketOffsets]), None);
    }

    #[test]
    fn no_two_instruments_have_one_name() {
        let mut names: Vec<_> = TABLE.iter().map(|definition| definition.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
