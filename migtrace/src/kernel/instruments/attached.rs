//! An instrument that is attached, and can be detached for a while.

use std::any::Any;

use aya::Ebpf;
use aya::programs::{KProbe, ProgramError, RawTracePoint, TracePoint};

use super::programs;
use super::table::{Asleep, AttachPoint, Definition, Hook};

/// A program at its hook, whatever kind of hook it is. Dropping it detaches the program.
type Link = Box<dyn Any + Send>;

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
    let is_loaded = program.fd().is_ok();
    let loaded = |load: &mut dyn FnMut() -> Result<(), ProgramError>| match is_loaded {
        true => Ok(()),
        false => programs::load(load),
    };
    let linked: Result<Link, ProgramError> = match hook.point {
        AttachPoint::Kprobe { function } | AttachPoint::Kretprobe { function } => {
            <&mut KProbe>::try_from(program).and_then(|program| {
                loaded(&mut || program.load())?;
                let id = program.attach(function, 0)?;
                Ok(Box::new(program.take_link(id)?) as Link)
            })
        }
        AttachPoint::Tracepoint { category, name } => {
            <&mut TracePoint>::try_from(program).and_then(|program| {
                loaded(&mut || program.load())?;
                let id = program.attach(category, name)?;
                Ok(Box::new(program.take_link(id)?) as Link)
            })
        }
        AttachPoint::RawTracepoint { name } => <&mut RawTracePoint>::try_from(program).and_then(|program| {
            loaded(&mut || program.load())?;
            let id = program.attach(name)?;
            Ok(Box::new(program.take_link(id)?) as Link)
        }),
    };
    linked.map_err(|error| programs::why(&error))
}
