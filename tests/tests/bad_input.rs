//! What cannot work is said in one clear message, before anybody waits for it where that is possible.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use migtrace_lab::migtrace_command::{self, CommandOutput, Recording};
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::{BareQemu, Host, Lab};
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(15);
const PORT: u16 = 49152;

fn network() -> Lab {
    Lab::builder().without_guests().start().unwrap()
}

/// Checks that `migtrace` with these arguments ends with this code, before it would wait, and one message that has
/// all of these words.
fn refused(host: &Host, arguments: &[&str], code: i32, words: &[&str]) {
    check_refused(&migtrace_command::run(host, arguments).unwrap(), code, words);
}

fn check_refused(said: &CommandOutput, code: i32, words: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert!(words.iter().all(|word| said.stderr.contains(word)), "{words:?}: {said:?}");
    assert!(!said.stderr.lines().any(|line| line == "ready"), "{said:?}");
    assert!(!said.stderr.contains("panicked"), "{said:?}");
    let messages =
        said.stderr.lines().filter(|line| line.starts_with("migtrace: ") || line.starts_with("error: "));
    assert_eq!(messages.count(), 1, "{said:?}");
}

/// Checks that a VM that is not there is waited for, and that this is said with all of these words.
fn waits(host: &Host, vm: &str, words: &[&str]) {
    let said = migtrace_command::run(host, &["record", "--vm", vm, "--timeout", "100ms"]).unwrap();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(words.iter().all(|word| said.stderr.contains(word)), "{words:?}: {said:?}");
    assert!(
        said.stderr.contains("\nready\n") && said.stderr.contains("within the time of --timeout"),
        "{said:?}"
    );
}

/// A copy of the command that everybody may run: the folder of the build may be closed to others.
fn public_copy() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("migtrace");
    std::fs::copy(migtrace_command::binary().unwrap(), &copy).unwrap();
    (folder, copy)
}

#[test]
fn who_may_not_trace_is_told_what_is_missing() {
    let lab = network();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let no_network = ["--bounding-set=-net_admin"];
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&nobody, &["record"], &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "run as root"]),
        (&["--bounding-set=-bpf,-sys_admin"], &["record"], &["CAP_BPF missing"]),
        (&no_network, &["record"], &["CAP_NET_ADMIN missing"]),
        (&no_network, &["cleanup"], &["CAP_NET_ADMIN missing"]),
    ];
    let (_folder, migtrace) = public_copy();
    let run = |rights: &[&str], arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(rights).arg(&migtrace).args(arguments);
        migtrace_command::run_command(lab.source(), command).unwrap()
    };
    for (rights, arguments, words) in cases {
        check_refused(&run(rights, arguments), 1, words);
    }
    // Doctor is for those who cannot record.
    let said = run(&nobody, &["doctor"]);
    assert_eq!(said.code, Some(6), "{said:?}");
    assert!(said.stdout.contains("CAP_BPF") && said.stdout.contains("no packet can be counted"), "{said:?}");
}

#[test]
fn what_is_not_there_is_named_beside_what_is() {
    let lab = network();
    waits(lab.source(), "db", &["waiting for `db`", "no QEMU runs"]);
    let web = BareQemu::start(lab.source(), "web").unwrap();
    let pid = web.pid().to_string();
    waits(lab.source(), "db", &["waiting for `db`", "web", &pid]);
    refused(lab.source(), &["record", "--pid", "1"], 1, &["process 1 is no QEMU", "web", &pid]);
    // It is in another network namespace.
    waits(lab.destination(), "web", &["waiting for `web`", "no QEMU runs"]);
    refused(lab.source(), &["record", "--interface", "eth7"], 1, &["`eth7`", "lo", "br0", "uplink"]);
}

#[test]
fn interfaces_that_would_count_wrong_are_refused() {
    let lab = network();
    refused(lab.source(), &["record", "--interface", "lo"], 1, &["`lo`", "loopback"]);
    let both = ["record", "--interface", "br0", "--interface", "uplink"];
    refused(lab.source(), &both, 1, &["`br0`", "`uplink`", "twice"]);
    // The switch has no address: there is nothing to choose from.
    refused(lab.switch(), &["record"], 1, &["no interface to count at", "--interface"]);
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let lab = network();
    for ports in ["", "50-40", "0-10", "65536", "http"] {
        refused(lab.source(), &["record", "--ports", ports], 2, &["--ports", "port"]);
    }
    for time in ["30", "soon", "0s", "-5s"] {
        let option = format!("--timeout={time}");
        refused(lab.source(), &["record", &option], 2, &["--timeout", "write a time like 30s"]);
        let option = format!("--max-total={time}");
        refused(lab.source(), &["record", &option], 2, &["--max-total", "write a time like 30s"]);
    }
    refused(lab.source(), &["record", "--format", "yaml"], 2, &["--format", "json"]);
    refused(lab.source(), &["trace"], 2, &["trace"]);
}

#[test]
fn a_file_that_cannot_be_written_is_known_before_the_wait() {
    let lab = network();
    let folder = tempfile::tempdir().unwrap();
    for option in ["--output", "--events"] {
        for (file, why) in [("/no/such/folder/file", "No such file"), (path(folder.path()), "Is a directory")]
        {
            refused(lab.source(), &["record", option, file], 1, &["cannot write to", file, why]);
        }
    }
    refused(
        lab.source(),
        &["record", "--events", "/dev/full"],
        1,
        &["cannot write to /dev/full", "No space left"],
    );
    let file = folder.path().join("file");
    let same = ["record", "--output", path(&file), "--events", path(&file)];
    refused(lab.source(), &same, 1, &["--output and --events", "same file"]);
    refused(lab.source(), &["record", "--qmp", "/no/socket"], 1, &["QMP socket /no/socket", "No such file"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_known_before_the_wait() {
    let lab = network();
    let disk = SmallDisk::mount("64k");
    for option in ["--output", "--events"] {
        let file = disk.file("file");
        refused(lab.source(), &["record", option, &file], 1, &["cannot write to", &file, "No space left"]);
    }
}

#[test]
fn a_report_that_cannot_be_written_at_the_end_is_not_lost() {
    let lab = network();
    let (mut source, _destination) = (
        BareQemu::start(lab.source(), "unlucky").unwrap(),
        BareQemu::incoming(lab.destination(), "unlucky", PORT).unwrap(),
    );
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("stdout");
    let mut recording =
        migtrace_command::command(&["record", "--format", "json", "--output", "/dev/full"]).unwrap();
    recording.stdout(std::fs::File::create(&said).unwrap()).stderr(std::process::Stdio::piped());
    let recording = lab.source().spawn(&mut recording).unwrap();
    // Nobody tells when it is ready: its standard error is read at its end.
    std::thread::sleep(Duration::from_secs(2));
    source.migrate(lab.destination().ipv4(), PORT, 0).unwrap();
    let output: CommandOutput = recording.output(PATIENCE).unwrap().into();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("/dev/full") && output.stderr.contains("standard output instead"),
        "{output:?}"
    );
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(said).unwrap()).unwrap();
    assert_consistent(&record);
    assert_eq!(record["migration"]["outcome"], "completed");
}

#[test]
fn a_disk_that_fills_up_ends_the_event_log_and_not_the_recording() {
    let lab = network();
    let (mut source, _destination) = (
        BareQemu::start(lab.source(), "long").unwrap(),
        BareQemu::incoming(lab.destination(), "long", PORT).unwrap(),
    );
    let disk = SmallDisk::mount("300k");
    let log = disk.file("events.jsonl");
    let recording = Recording::start(lab.source(), &["--events", &log]).unwrap();
    disk.fill();
    source.migrate(lab.destination().ipv4(), PORT, 8).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(1), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert_eq!(record["migration"]["outcome"], "completed");
    for words in ["the recording goes on", "is not whole", "No space left", &log] {
        assert!(recorded.stderr.contains(words), "{words}: {}", recorded.stderr);
    }
    // What there was room for can be read, up to the line that was cut.
    let report = migtrace_command::command(&["report", &log]).unwrap().output().unwrap();
    assert_eq!(report.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&report.stderr).contains("line "), "{report:?}");
}

/// A file system of a few pages.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        run(
            "mount",
            &[
                OsStr::new("-t"),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                options.as_ref(),
                "tmpfs".as_ref(),
                folder.path().as_ref(),
            ],
        );
        Self(folder)
    }

    fn file(&self, name: &str) -> String {
        path(&self.0.path().join(name)).to_owned()
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.file("ballast")).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &[self.0.path().as_ref()]);
    }
}

fn run(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
