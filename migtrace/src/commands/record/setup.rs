//! What a recording begins with, on any host.

use std::net::IpAddr;

use anyhow::{Result, bail};
use migtrace::event::InstrumentStatus;
use migtrace::kernel::Settings;
use migtrace::probe::{ProbeOptions, Prober};
use migtrace::recorder::Recorder;
use migtrace::selection::{NoSuchVm, Selection};
use migtrace::tracer::Tracer;

use crate::cli::{GuestProbeArgs, ScopeArgs, SleepAfter};
use crate::commands::probe;
use crate::commands::progress::Progress;

/// A recording that has begun.
pub(super) struct Begun {
    pub(super) recorder: Recorder,
    /// The VM that is waited for.
    absent: Option<NoSuchVm>,
    /// The address that is pinged, and the interface at which that is seen.
    probed: Option<(IpAddr, String)>,
}

/// Begins to trace and, if that is wanted here, to ping the guest.
pub(super) async fn begin(scope: &ScopeArgs, probe: Option<&GuestProbeArgs>) -> Result<Begun> {
    let tracer = start_tracer(scope)?;
    let selection = Selection::new(scope.vm.clone(), scope.pid);
    let absent = absent(&tracer, &selection)?;
    let mut recorder = Recorder::new(tracer, selection);
    let probed = match probe {
        Some(probe) => start_probe(probe, scope, &mut recorder).await?,
        None => None,
    };
    Ok(Begun { recorder, absent, probed })
}

pub(in crate::commands) fn start_tracer(options: &ScopeArgs) -> Result<Tracer> {
    let settings = Settings::default()
        .ports(options.ports.clone())
        .tunnels(options.decapsulate.clone())
        .flow_capacity(options.flow_capacity)
        .attach(options.attach.into());
    let mut tracer = Tracer::builder()
        .settings(settings)
        .interfaces(options.interfaces.iter().cloned())
        .qemu_binaries(options.qemu_binaries.iter().cloned());
    if let Some(SleepAfter(Some(quiet))) = options.sleep_after {
        tracer = tracer.sleep_after(quiet);
    }
    Ok(tracer.start()?)
}

/// Checks that the selected VM is here, or can be waited for. Returns the one to wait for.
pub(in crate::commands) fn absent(tracer: &Tracer, selection: &Selection) -> Result<Option<NoSuchVm>> {
    let present: Vec<_> = tracer.qemus().cloned().collect();
    selection.is_of_one_user(&present)?;
    match selection.of(&present) {
        // A later process with this number need not be the one that is meant.
        Err(absent) if absent.wanted.pid.is_some() => {
            match absent.wanted.pid.and_then(|pid| tracer.why_not_traced(pid)) {
                Some(why) => bail!("{absent}; {why}"),
                None => bail!("{absent}; only a VM can be waited for (--vm)"),
            }
        }
        present => Ok(present.err()),
    }
}

/// Begins to ping the guest, if that was requested. Returns the address, and the interface at which it is watched.
async fn start_probe(
    options: &GuestProbeArgs,
    scope: &ScopeArgs,
    recorder: &mut Recorder,
) -> Result<Option<(IpAddr, String)>> {
    let Some(target) = &options.probe else { return Ok(None) };
    let target = probe::resolve(target, false)?;
    let mut wanted = ProbeOptions::new(target);
    wanted.interval = Some(options.probe_interval);
    wanted.attach = scope.attach.into();
    let prober = Prober::start(wanted).await?;
    let interface = prober.interface().to_owned();
    recorder.probe(prober).await?;
    Ok(Some((target, interface)))
}

/// Prints counted interfaces and traced VMs.
pub(in crate::commands) fn describe_host(tracer: &Tracer, say: &dyn Fn(&str)) {
    let observation = tracer.observation();
    let interfaces: Vec<_> = observation.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    say(&format!("counting TCP ports {} at {}", observation.ports, interfaces.join(", ")));
    for qemu in tracer.qemus() {
        let name = qemu.name.as_deref().unwrap_or("(no name)");
        let uuid = qemu.uuid.as_ref().map(|uuid| format!(", {uuid}")).unwrap_or_default();
        let uid = qemu.uid.map(|uid| format!(", user id {uid}")).unwrap_or_default();
        say(&format!("tracing {name} (pid {}{uid}{uuid})", qemu.pid));
    }
    for instrument in
        observation.instruments.iter().filter(|instrument| instrument.status == InstrumentStatus::Missing)
    {
        let lost = instrument.lost.as_deref().unwrap_or(&instrument.observes);
        say(&format!("not measured here: {lost} (`migtrace doctor` says why)"));
    }
}

/// Prints what is recorded, what is waited for, and what is pinged.
pub(super) fn describe(begun: &Begun, progress: &Progress) {
    describe_host(begun.recorder.tracer(), &|line| progress.say(line));
    if let Some(absent) = &begun.absent
        && let Some(vm) = &absent.wanted.vm
    {
        progress.say(&format!("waiting for `{vm}`; {}", absent.others()));
    }
    let Some((target, interface)) = &begun.probed else { return };
    let whose = begun.recorder.probed().map_or_else(String::new, |qemu| {
        format!(" of {} (pid {})", qemu.name.as_deref().unwrap_or("(no name)"), qemu.pid)
    });
    progress.say(&format!("pinging {target}{whose} at {interface}"));
}
