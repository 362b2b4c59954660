//! An instrument that is attached, and can be detached for a while.

use std::any::Any;

use aya::Ebpf;
use aya::programs::{FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint};

use super::table::{Asleep, AttachPoint, Definition, Hook};
use super::{Btf, Functions, programs};

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
        functions: &Functions,
    ) -> Result<Self, String> {
        load(ebpf, hook, functions)?;
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
    pub(in crate::kernel) fn rest(&mut self, ebpf: &mut Ebpf) {
        if !self.is_for_waking_hours() {
            return;
        }
        self.link = None;
        let is_trampoline = matches!(self.hook.point, AttachPoint::Fentry { .. } | AttachPoint::Fexit { .. });
        // Before Linux 5.13 such a program can be attached once after each loading. That takes longer than to attach it,
        // so it is not left for when the sleep ends.
        if is_trampoline && link(ebpf, self.hook).is_err() {
            // If this fails, so does `resume`.
            let _ = load_again(ebpf, self.hook);
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

fn load_again(ebpf: &mut Ebpf, hook: &Hook) -> Result<(), String> {
    match program_of(ebpf, hook)? {
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        _ => Ok(()),
    }
    .map_err(|error| programs::why(&error))?;
    load(ebpf, hook, &Functions::find(&Btf::of_running_kernel()))
}

/// Loads the program of a hook.
fn load(ebpf: &mut Ebpf, hook: &Hook, functions: &Functions) -> Result<(), String> {
    let program = program_of(ebpf, hook)?;
    macro_rules! load {
        ($kind:ty, $($of:expr),*) => {
            <&mut $kind>::try_from(program).and_then(|program| programs::load(|| program.load($($of),*)))
        };
    }
    let loaded = match hook.point {
        AttachPoint::Kprobe { .. } | AttachPoint::Kretprobe { .. } => load!(KProbe,),
        AttachPoint::Fentry { function } => {
            let types = functions.types_of(function)?;
            load!(FEntry, function, &types)
        }
        AttachPoint::Fexit { function } => {
            let types = functions.types_of(function)?;
            load!(FExit, function, &types)
        }
        AttachPoint::Tracepoint { .. } => load!(TracePoint,),
        AttachPoint::RawTracepoint { .. } => load!(RawTracePoint,),
    };
    loaded.map_err(|error| programs::why(&error))
}

/// Attaches the program of a hook, which is loaded.
fn link(ebpf: &mut Ebpf, hook: &Hook) -> Result<Link, String> {
    let program = program_of(ebpf, hook)?;
    macro_rules! attach {
        ($kind:ty, $($place:expr),*) => {
            <&mut $kind>::try_from(program).and_then(|program| {
                let id = program.attach($($place),*)?;
                Ok(Box::new(program.take_link(id)?) as Link)
            })
        };
    }
    let linked: Result<Link, ProgramError> = match hook.point {
        AttachPoint::Kprobe { function } | AttachPoint::Kretprobe { function } => {
            attach!(KProbe, function, 0)
        }
        AttachPoint::Fentry { .. } => attach!(FEntry,),
        AttachPoint::Fexit { .. } => attach!(FExit,),
        AttachPoint::Tracepoint { category, name } => attach!(TracePoint, category, name),
        AttachPoint::RawTracepoint { name } => attach!(RawTracePoint, name),
    };
    linked.map_err(|error| programs::why(&error))
}

fn program_of<'a>(ebpf: &'a mut Ebpf, hook: &Hook) -> Result<&'a mut Program, String> {
    ebpf.program_mut(hook.program).ok_or_else(|| programs::absent(hook.program).to_string())
}
