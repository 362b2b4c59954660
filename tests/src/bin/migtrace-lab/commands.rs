//! The commands of `migtrace-lab`.

use crate::cli::{Command, HostName, LabOptions, MigrationOptions};
use crate::load;
use anyhow::{Context as _, Result, anyhow, bail};
use migtrace_lab::migtrace_command::remote_shell;
use migtrace_lab::vm::agent;
use migtrace_lab::{Action, Builder, Host, Lab, Migrated, Outcome, Process, Remover};
use nix::sys::signal::{SigSet, Signal};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// After a migration the source's QEMU stays for this long, so that its statistics can be read.
const LINGER: Duration = Duration::from_secs(1);
/// How long a command may take to write its ready line.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a command may still run after the migration.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// Names the file where a study's `prepare` leaves variables for the commands after it.
const VARIABLES_FILE: &str = "STUDY_VARIABLES";

pub(crate) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { name, lab } => up(&name.name, &lab),
        Command::Migrate { name, migration, leave_source } => {
            let mut lab = Lab::attach(&name.name)?;
            // One that an earlier migration has left.
            lab.retire();
            if leave_source {
                return Ok(code(migrate(&mut lab, &migration)?));
            }
            let outcome = migrate_and_check(&mut lab, &migration)?;
            lab.retire();
            Ok(code(outcome))
        }
        Command::Converge { name, action } => {
            migtrace_lab::converge(&name.name, action.into()).map(|()| ExitCode::SUCCESS)
        }
        Command::Exec { name, host, command } => {
            Lab::attach(&name.name)?;
            Err(host.of(&name.name)?.exec(&mut program(&command)?))
        }
        Command::Rsh { name, host, command_line } => {
            let mut shell = std::process::Command::new("sh");
            shell.arg("-c").arg(command_line).env("PATH", path_with_own_folder()?);
            Err(host.of(&name.name)?.exec(&mut shell))
        }
        Command::VmRsh { address, host: _, command_line } => {
            agent::attach(address, &command_line).map(|()| ExitCode::SUCCESS)
        }
        Command::Load { load } => load.run().map(|()| ExitCode::SUCCESS),
        Command::Agent => agent::serve().map(|()| ExitCode::SUCCESS),
        Command::List => {
            for name in migtrace_lab::list()? {
                println!("{name}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Down { all: true, .. } => {
            for name in migtrace_lab::list()? {
                migtrace_lab::tear_down(&name)?;
                eprintln!("migtrace-lab: `{name}` is gone");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Down { name, all: false, if_exists: true }
            if !migtrace_lab::list()?.contains(&name.name) =>
        {
            Ok(ExitCode::SUCCESS)
        }
        Command::Down { name, all: false, .. } => {
            migtrace_lab::tear_down(&name.name).map(|()| ExitCode::SUCCESS)
        }
        Command::Run { name, lab, migration, ready_line, command } => {
            let builder = match name {
                Some(name) => lab.builder().name(&name),
                None => lab.builder(),
            };
            once(builder, &lab, &migration, ready_line, &command)
        }
    }
}

impl HostName {
    /// The host of a lab, which may be another process'.
    fn of(self, lab: &str) -> Result<Host> {
        Host::of_lab(
            lab,
            match self {
                Self::Src => "src",
                Self::Dst => "dst",
                Self::Observer => "observer",
                Self::Switch => "switch",
            },
        )
    }
}

/// Where commands are found: first beside this one, where cargo builds migtrace.
fn path_with_own_folder() -> Result<OsString> {
    let own = std::env::current_exe().context("cannot find the path of this program")?;
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let own = own.parent().map(Path::to_path_buf);
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&paths))).context("PATH is damaged")
}

fn up(name: &str, options: &LabOptions) -> Result<ExitCode> {
    let mut lab = start(options.builder().name(name).lasting())?;
    if let Err(error) = complete(&mut lab, options).and_then(|()| write_variables(&mut lab)) {
        migtrace_lab::tear_down(name)?;
        return Err(error);
    }
    let (guest, host) = (lab.guest(), lab.guest_host().netns().name());
    eprintln!(
        "migtrace-lab: {} ({}) runs in {host} and answers at {} and {}",
        guest.name, guest.uuid, guest.ipv4, guest.ipv6
    );
    let name = if name == "lab" { String::new() } else { format!(" --name {name}") };
    eprintln!(
        "migtrace-lab: now `migtrace-lab migrate{name}`, `migtrace-lab exec{name} src -- COMMAND`, `migtrace-lab down{name}`"
    );
    Ok(ExitCode::SUCCESS)
}

fn once(
    builder: Builder,
    options: &LabOptions,
    migration: &MigrationOptions,
    ready_line: Option<String>,
    command: &[OsString],
) -> Result<ExitCode> {
    let remover = remove_on_signals()?;
    let result = watched_run(builder, options, migration, ready_line, command, &remover);
    // A signal ends the process with its own exit code, and must not be overtaken by the error that it caused here.
    let _no_signal = remover.lock();
    result
}

fn watched_run(
    builder: Builder,
    options: &LabOptions,
    migration: &MigrationOptions,
    ready_line: Option<String>,
    command: &[OsString],
    remover: &Mutex<Option<Remover>>,
) -> Result<ExitCode> {
    let mut lab = start(builder)?;
    *remover.lock().map_err(|_| anyhow!("the thread that waits for signals has panicked"))? =
        Some(lab.remover());
    complete(&mut lab, options)?;
    let watcher = if command.is_empty() { None } else { Some(watch(&mut lab, command, ready_line)?) };
    let mut exit = code(migrate_and_check(&mut lab, migration)?);
    lab.ping_guest()?;
    if let Some(mut watcher) = watcher {
        let status = watcher.wait(END_PATIENCE)?;
        if !status.success() {
            eprintln!("migtrace-lab: `{}` ended with {status}", command[0].display());
            exit = ExitCode::FAILURE;
        }
    }
    Ok(exit)
}

fn start(builder: Builder) -> Result<Lab> {
    eprintln!("migtrace-lab: booting the guest");
    builder.start()
}

/// Waits for the guest, and adds what would only slow its boot down.
fn complete(lab: &mut Lab, options: &LabOptions) -> Result<()> {
    lab.wait_guest_ready()?;
    if options.drop > 0 {
        lab.drop_packets(options.drop)?;
    }
    load::start(lab, options.host_load, options.network_load)
}

/// Writes what a study's commands need to know about the lab, where `migtrace study` wants it.
fn write_variables(lab: &mut Lab) -> Result<()> {
    let Some(path) = std::env::var_os(VARIABLES_FILE).map(PathBuf::from) else { return Ok(()) };
    let text: String =
        variables(lab)?.iter().map(|(name, value)| format!("{name}={}\n", value.display())).collect();
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What a command needs to know about the lab: the guest's name and address, a monitor of the source QEMU that no other client
/// uses, and how to reach the other hosts.
fn variables(lab: &mut Lab) -> Result<[(&'static str, OsString); 4]> {
    Ok([
        ("GUEST", lab.guest().name.clone().into()),
        ("GUEST_ADDRESS", lab.guest().ipv4.to_string().into()),
        ("QMP", lab.qemu()?.spare_qmp_socket().into()),
        ("RSH", remote_shell(lab)?.into()),
    ])
}

/// Starts the command on the source host, and waits for its ready line if it has one. Its environment has the lab's
/// variables.
fn watch(lab: &mut Lab, command: &[OsString], ready_line: Option<String>) -> Result<Process> {
    let mut command = program(command)?;
    for (name, value) in variables(lab)? {
        command.env(format!("LAB_{name}"), value);
    }
    let Some(ready_line) = ready_line else { return lab.source().spawn(&mut command) };
    let mut process = lab.source().spawn(command.stderr(Stdio::piped()))?;
    let stderr = process.child().stderr.take().context("the command has no standard error")?;
    let (sender, ready) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if line.contains(&ready_line) {
                let _ = sender.send(());
            }
        }
    });
    if ready.recv_timeout(READY_PATIENCE).is_err() {
        bail!(
            "the command has ended, or has not written its ready line within {} s",
            READY_PATIENCE.as_secs()
        );
    }
    Ok(process)
}

const fn code(outcome: Outcome) -> ExitCode {
    if matches!(outcome, Outcome::Completed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Migrates, and waits until the guest answers and others have read the source's statistics.
fn migrate_and_check(lab: &mut Lab, options: &MigrationOptions) -> Result<Outcome> {
    let outcome = migrate(lab, options)?;
    if outcome == Outcome::Completed {
        lab.ping_guest()?;
        eprintln!("migtrace-lab: the guest answers ping, now from {}", lab.guest_host().role());
        std::thread::sleep(LINGER);
    }
    Ok(outcome)
}

fn migrate(lab: &mut Lab, options: &MigrationOptions) -> Result<Outcome> {
    eprintln!(
        "migtrace-lab: migrating {} from {} to {}",
        lab.guest().name,
        lab.guest_host().role(),
        lab.other_host().role()
    );
    let terminal = std::io::stderr().is_terminal();
    let mut last = Instant::now();
    let migrated = lab.migrate_with(&options.migration(), |progress| {
        let interval = if terminal { Duration::from_millis(250) } else { Duration::from_secs(2) };
        if last.elapsed() >= interval {
            last = Instant::now();
            let (start, end) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
            eprint!(
                "{start}migtrace-lab: {:5.1} s  {}  pass {}  sent {} MiB  left {} MiB{end}",
                progress.elapsed.as_secs_f32(),
                progress.status,
                progress.pass,
                progress.transferred_bytes >> 20,
                progress.remaining_bytes >> 20,
            );
        }
        Action::Continue
    })?;
    if terminal {
        eprint!("\r\x1b[K");
    }
    print_outcome(&migrated);
    Ok(migrated.outcome)
}

/// Prints what the driver saw, event by event.
fn print_outcome(migrated: &Migrated) {
    for observed in &migrated.events {
        let at = observed.event.received_ns.saturating_sub(migrated.started_ns);
        let data = &observed.event.data;
        let detail = data["status"].as_str().map_or_else(
            || data["pass"].as_u64().map(|pass| pass.to_string()).unwrap_or_default(),
            str::to_owned,
        );
        let side = format!("{:?}", observed.side).to_lowercase();
        println!("{:>12.6} s  {side:<11}  {} {detail}", at as f64 / 1e9, observed.event.name);
    }
    let total = (migrated.ended_ns - migrated.started_ns) as f64 / 1e9;
    let outcome = format!("{:?}", migrated.outcome).to_lowercase();
    let sent = migrated.source["ram"]["transferred"].as_u64().unwrap_or_default() >> 20;
    print!("{outcome} in {total:.3} s, {sent} MiB of memory sent");
    if let Some(downtime) = migrated.qemu_downtime_ms() {
        print!(", {downtime} ms of downtime as QEMU reports it");
    }
    if let Some(stop) = migrated.stop_to_resume_ns() {
        print!(", {:.1} ms from STOP to RESUME", stop as f64 / 1e6);
    }
    println!();
    if let Some(error) = migrated.source["error-desc"].as_str() {
        println!("QEMU's error: {error}");
    }
}

/// Blocks Ctrl-C and SIGTERM in this thread and all later ones, and waits for them on a thread of its own. When one comes,
/// the lab in the returned place is removed before the process ends.
fn remove_on_signals() -> Result<Arc<Mutex<Option<Remover>>>> {
    let place: Arc<Mutex<Option<Remover>>> = Arc::default();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot block signals")?;
    let seen_place = Arc::clone(&place);
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        eprintln!("\nmigtrace-lab: {signal}: removing the lab");
        // The lock is held until the process ends.
        let place = seen_place.lock();
        if let Ok(Some(remover)) = place.as_deref().map(Option::as_ref) {
            remover.remove();
        }
        // If the lab is not in its place yet, its janitor removes it when this process has ended.
        std::process::exit(128 + signal as i32);
    });
    Ok(place)
}

fn program(command: &[OsString]) -> Result<std::process::Command> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    Ok(command)
}
