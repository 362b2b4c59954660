//! An instrument that is attached, and can be detached for a while.

use aya::Ebpf;
use aya::programs::kprobe::KProbeLink;
use aya::programs::raw_trace_point::RawTracePointLink;
use aya::programs::trace_point::TracePointLink;
use aya::programs::{KProbe, ProgramError, RawTracePoint, TracePoint};

use super::programs;
use super::table::{Asleep, AttachPoint, Definition, Hook};

/// A program at its hook. Dropping it detaches the program.
enum Link {
    Probe { _link: KProbeLink },
    Tracepoint { _link: TracePointLink },
    RawTracepoint { _link: RawTracePointLink },
}

/// An instrument at the hook that it has found.
pub(in crate::kernel) struct Attached {
    pub(in crate::kernel) name: &'static str,
    hook: &'static Hook,
    asleep: Asleep,
    /// `None` while migtrace sleeps.
    link: Option<Link>,
}

impl Attached {
    /// Loads the program of a hook and attaches it.
    pub(super) fn attach(
        ebpf: &mut Ebpf,
        definition: &'static Definition,
        hook: &'static Hook,
    ) -> Result<Self, String> {
        let link = Some(link(ebpf, hook)?);
        Ok(Self { name: definition.name, hook, asleep: definition.asleep, link })
    }

    /// Whether it costs something between migrations, so that it is detached for a sleep.
    fn is_for_waking_hours(&self) -> bool {
        match self.asleep {
            Asleep::AlwaysStays => false,
            Asleep::Stays => self.hook.slows_system_calls(),
            Asleep::Detached => true,
        }
    }

    /// Detaches it for a sleep, if it is of those that are.
    pub(in crate::kernel) fn rest(&mut self) {
        if self.is_for_waking_hours() {
            self.link = None;
        }
    }

    /// Attaches it again.
    pub(in crate::kernel) fn resume(&mut self, ebpf: &mut Ebpf) -> Result<(), String> {
        if self.link.is_none() {
            self.link = Some(link(ebpf, self.hook)?);
        }
        Ok(())
    }
}

/// Loads the program of a hook, unless it is loaded, and attaches it.
fn link(ebpf: &mut Ebpf, hook: &Hook) -> Result<Link, String> {
    let name = hook.program;
    let program = ebpf.program_mut(name).ok_or_else(|| programs::absent(name).to_string())?;
    let linked = match hook.point {
        AttachPoint::Kprobe { function } | AttachPoint::Kretprobe { function } => {
            <&mut KProbe>::try_from(program).and_then(|program| {
                loaded(program.fd().is_ok(), || program.load())?;
                let id = program.attach(function, 0)?;
                Ok(Link::Probe { _link: program.take_link(id)? })
            })
        }
        AttachPoint::Tracepoint { category, name } => {
            <&mut TracePoint>::try_from(program).and_then(|program| {
                loaded(program.fd().is_ok(), || program.load())?;
                let id = program.attach(category, name)?;
                Ok(Link::Tracepoint { _link: program.take_link(id)? })
            })
        }
        AttachPoint::RawTracepoint { name } => <&mut RawTracePoint>::try_from(program).and_then(|program| {
            loaded(program.fd().is_ok(), || program.load())?;
            let id = program.attach(name)?;
            Ok(Link::RawTracepoint { _link: program.take_link(id)? })
        }),
    };
    linked.map_err(|error| programs::why(&error))
}

fn loaded(is_loaded: bool, load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    if is_loaded { Ok(()) } else { programs::load(load) }
}
