//! Only a real QEMU is traced, whatever other processes call themselves. VMs with one name but different users are
//! different VMs.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, SLOW_MIB_PER_S, network, sent_payload_bytes};
use migtrace_lab::migtrace_command::{self, Recording};
use migtrace_lab::record_checks::{assert_consistent, assert_replays, not_measured, phase_names};
use migtrace_lab::{BareQemu, Host, Process, Qmp, monotonic_ns, send_migration_status};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const QEMU_NAME: &str = "qemu-system-x86_64";
const NOBODY: u32 = 65534;
/// More than migtrace can trace at once.
const CROWD_SIZE: usize = 1_100;
/// Set only for a forger: this program is to write events as QEMU does.
const FORGER_VARIABLE: &str = "MIGTRACE_TEST_FORGER";
/// The test that a forger runs.
const FORGER_TEST: &str = "qemu_identity::writes_events_as_qemu_does";

/// Processes with QEMU's name that are not QEMU. Dropping this kills them.
struct Crowd(Vec<Child>);

impl Crowd {
    /// Starts processes of the user `nobody` on a host.
    fn start(host: &Host, size: usize) -> Self {
        let children = host.enter(|| {
            let mut children = Vec::with_capacity(size);
            for number in 0..size {
                let mut command = Command::new("/bin/sleep");
                command.arg0(QEMU_NAME).arg("600").uid(NOBODY).gid(NOBODY).current_dir("/");
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                children.push(command.spawn().unwrap_or_else(|error| panic!("process {number}: {error}")));
            }
            children
        });
        Self(children.unwrap())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// A process of the user `nobody` that has QEMU's name and writes, again and again, that its migration has completed.
struct Forger {
    process: Process,
    _folder: TempDir,
}

impl Forger {
    fn start(host: &Host) -> Self {
        // The build folder may be closed to other users.
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let program = folder.path().join("forger");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args(["bash", "-c", "exec -a \"$0\" \"$@\"", QEMU_NAME]).arg(program);
        command.args(["--exact", FORGER_TEST, "--nocapture"]).env(FORGER_VARIABLE, "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: host.spawn(&mut command).unwrap(), _folder: folder }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }
}

/// Not a test: what the process of a [`Forger`] does. It does nothing elsewhere.
#[test]
fn writes_events_as_qemu_does() {
    if std::env::var_os(FORGER_VARIABLE).is_none() {
        return;
    }
    let (monitor, mut manager) = UnixStream::pair().unwrap();
    std::thread::spawn(move || io::copy(&mut manager, &mut io::sink()));
    loop {
        for status in ["setup", "active", "completed"] {
            send_migration_status(&monitor, status).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The processes that events of this kind are about.
fn pids_of(events: &[Value], kind: &str) -> BTreeSet<u64> {
    events.iter().filter(|event| event["event"] == kind).filter_map(|event| event["pid"].as_u64()).collect()
}

#[test]
fn processes_with_qemus_name_and_forged_events_change_nothing() {
    let lab = network();
    let crowd = Crowd::start(lab.source(), CROWD_SIZE);
    let forger = Forger::start(lab.source());
    let (mut source, _destination) = BareQemu::pair(&lab, "genuine", MIGRATION_PORT).unwrap();
    let mut recording = Recording::start(lab.source(), &[]).unwrap();
    // A second one starts after the recording.
    let late = Forger::start(lab.source());
    std::thread::sleep(Duration::from_secs(2));
    assert!(recording.try_wait().unwrap().is_none(), "a forged event has ended the recording");
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);

    let events = recorded.events().unwrap();
    let only = BTreeSet::from([u64::from(source.pid())]);
    for kind in ["qemu_seen", "qmp", "flow_owner"] {
        assert_eq!(pids_of(&events, kind), only, "{kind}");
    }
    let record = assert_replays(&recorded);
    assert_eq!(record["vm"]["name"], "genuine");
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["start"]["seen"], true);
    assert_eq!(phase_names(&record)[..2], ["setup", "active 1"]);
    assert_eq!(phase_names(&record).last().unwrap(), "completed");
    let sent = sent_payload_bytes(&record);
    assert!((16 << 20..20 << 20).contains(&sent), "{sent}");

    // A few lines name them and say what to do.
    let messages: Vec<_> =
        recorded.stderr.lines().filter(|line| line.contains("call themselves QEMU")).collect();
    assert_eq!(messages.len(), 3, "one for the sleepers, one for each copy of the forger: {messages:#?}");
    assert!(messages.iter().all(|line| line.contains("--qemu-binary")), "{messages:#?}");
    assert!(messages.iter().any(|line| line.contains("sleep`")), "{messages:#?}");
    assert!(
        not_measured(&record).contains("which does not have the name of a QEMU"),
        "{}",
        not_measured(&record)
    );

    // They still run, under QEMU's name.
    for pid in crowd.0.iter().map(Child::id).chain([forger.pid(), late.pid()]) {
        let name = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(name.starts_with(QEMU_NAME.as_bytes()), "{pid}");
    }
}

/// A copy of QEMU that belongs to a user without privileges.
fn own_copy(name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("bin").join(name);
    fs::create_dir(folder.path().join("bin")).unwrap();
    // QEMU looks for its modules and its firmware beside itself.
    for shared in ["lib", "share"] {
        symlink(Path::new("/usr").join(shared), folder.path().join(shared)).unwrap();
    }
    fs::copy(fs::canonicalize("/usr/bin/qemu-system-x86_64").unwrap(), &copy).unwrap();
    for path in [folder.path(), &copy] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    (folder, copy)
}

#[test]
fn a_qemu_that_a_user_built_is_traced_when_it_is_named_with_qemu_binary() {
    let lab = network();
    for name in ["qemu-system-x86_64", "emulator"] {
        let (_folder, copy) = own_copy(name);
        let path = copy.to_str().unwrap();
        let named = Recording::start(lab.source(), &["--qemu-binary", path]).unwrap();
        let unnamed = Recording::start(lab.source(), &[]).unwrap();
        let mut source = BareQemu::start_program(lab.source(), "built", &copy).unwrap();
        let _destination = BareQemu::incoming(lab.destination(), "built", MIGRATION_PORT).unwrap();
        let pid = source.pid().to_string();
        if name == QEMU_NAME {
            unnamed.wait_for_event(&format!("process {pid} and others"), PATIENCE).unwrap();
        }
        let refused = migtrace_command::run(lab.source(), &["record", "--pid", &pid]).unwrap();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(&format!("process {pid} is not a QEMU")), "{refused:?}");
        assert_eq!(
            refused.stderr.contains("name that executable with --qemu-binary"),
            name == QEMU_NAME,
            "{refused:?}"
        );
        source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
        let recorded = named.finish(PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let record = assert_replays(&recorded);
        assert_eq!(record["vm"]["name"], "built");
        assert_eq!(record["start"]["seen"], true, "the recording saw its start");
        unnamed.signal(nix::sys::signal::Signal::SIGINT).unwrap();
        let events = unnamed.finish(PATIENCE).unwrap().events().unwrap();
        assert_eq!(pids_of(&events, "qemu_seen"), BTreeSet::new());
        assert_eq!(pids_of(&events, "qmp"), BTreeSet::new());
    }
    for (path, why) in [("/no/such/file", "No such file"), ("/usr/bin", "not an executable file")] {
        let refused = migtrace_command::run(lab.source(), &["record", "--qemu-binary", path]).unwrap();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(path) && refused.stderr.contains(why), "{refused:?}");
    }
}

#[test]
fn a_vm_name_that_two_users_have_is_refused_and_a_pid_selects_one() {
    let lab = network();
    let genuine = BareQemu::start(lab.source(), "web").unwrap();
    let mut forged = BareQemu::start_as(lab.source(), "web", NOBODY).unwrap();
    let _destination = BareQemu::incoming(lab.destination(), "web", MIGRATION_PORT).unwrap();
    let refused = migtrace_command::run(lab.source(), &["record", "--vm", "web"]).unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for words in
        ["different users", "--pid", &genuine.pid().to_string(), &forged.pid().to_string(), "user id 65534"]
    {
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }
    let recording = Recording::start(lab.source(), &["--pid", &forged.pid().to_string()]).unwrap();
    forged.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let record = assert_replays(&recorded);
    assert_eq!(record["migration"]["outcome"], "completed");
    assert!(recorded.stderr.contains(&format!("tracing web (pid {}, user id 65534)", forged.pid())));
}

#[test]
fn a_vm_that_another_user_starts_under_the_selected_name_is_reported_and_not_recorded() {
    let lab = network();
    let mut genuine = BareQemu::start(lab.source(), "web").unwrap();
    let _destinations =
        [0, 1].map(|offset| BareQemu::incoming(lab.destination(), "web", MIGRATION_PORT + offset).unwrap());
    let mut recording = Recording::start(lab.source(), &["--vm", "web"]).unwrap();
    let mut forged = BareQemu::start_as(lab.source(), "web", NOBODY).unwrap();
    recording.wait_for_event("that another user has started", PATIENCE).unwrap();
    forged.migrate(lab.destination().ipv4(), MIGRATION_PORT + 1, FAST).unwrap();
    forged.wait_for_status("completed", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(recording.try_wait().unwrap().is_none(), "it still waits for the selected VM");
    genuine.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    let flows = record["traffic"]["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert!(flows[0]["remote"].as_str().unwrap().ends_with(&format!(":{MIGRATION_PORT}")), "{flows:?}");
    let why = not_measured(&record);
    assert!(why.contains("it runs with the user id 65534, and the VM that was seen before with 0"), "{why}");
    assert!(recorded.stderr.contains("it runs with the user id 65534"), "{}", recorded.stderr);
}

/// A QEMU that was started with `-daemonize`: it has forked, and its command has ended.
struct Daemon {
    pid: u64,
    /// Just before its command was started, and just after it had ended.
    began_ns: u64,
    ended_ns: u64,
    qmp: Qmp,
    _folder: TempDir,
}

impl Daemon {
    /// Starts one, whose guest does not run yet.
    fn start(host: &Host) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (pid_file, socket) = (folder.path().join("pid"), folder.path().join("qmp"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-daemonize", "-S", "-name", "daemon", "-nodefaults", "-display", "none", "-m", "16"]);
        command.args(["-accel", "tcg", "-pidfile"]).arg(&pid_file);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let began_ns = monotonic_ns();
        let status = host.spawn(&mut command).unwrap().wait(PATIENCE).unwrap();
        let ended_ns = monotonic_ns();
        assert!(status.success(), "{status}");
        let pid = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        Self { pid, began_ns, ended_ns, qmp: connect(&socket), _folder: folder }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // QEMU may end before it answers.
        let _ = self.qmp.execute("quit", json!({}));
    }
}

fn connect(socket: &Path) -> Qmp {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Qmp::connect(socket) {
            Ok(qmp) => return qmp,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[test]
fn a_qemu_that_daemonizes_is_traced_from_its_start() {
    let lab = network();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    let daemons: Vec<_> = (0..5)
        .map(|_| {
            let mut daemon = Daemon::start(lab.source());
            daemon.qmp.execute("cont", json!({})).unwrap();
            daemon
        })
        .collect();
    let resumed = |event: &&Value| event["event"] == "qmp" && event["name"] == "RESUME";
    std::thread::sleep(Duration::from_secs(2));
    recording.signal(nix::sys::signal::Signal::SIGINT).unwrap();
    let events = recording.finish(PATIENCE).unwrap().events().unwrap();
    for daemon in &daemons {
        let is_its = |event: &&Value| event["pid"] == daemon.pid;
        let seen = events.iter().filter(is_its).find(|event| event["event"] == "qemu_seen").unwrap();
        let at_ns = seen["at_ns"].as_u64().unwrap();
        // A scan of /proc once a second would hardly ever be in time.
        assert!((daemon.began_ns..daemon.ended_ns).contains(&at_ns), "{} {seen:#}", daemon.ended_ns);
        assert!(events.iter().filter(is_its).any(|event| resumed(&event)), "{}: {events:#?}", daemon.pid);
    }
}
