//! What cannot work is refused with one clear message, before the wait for a migration where that is possible.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, SLOW_MIB_PER_S, network};
use migtrace_lab::migtrace_command::{self, CommandOutput, Recording};
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::{BareQemu, Host};
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Checks that `migtrace` with these arguments ends before it waits, with this code and with one message that contains all
/// of these words.
fn assert_refused(host: &Host, arguments: &[&str], code: i32, words: &[&str]) {
    assert_is_refusal(&migtrace_command::run(host, arguments).unwrap(), code, words);
}

fn assert_is_refusal(output: &CommandOutput, code: i32, words: &[&str]) {
    assert_eq!(output.code, Some(code), "{output:?}");
    assert!(words.iter().all(|word| output.stderr.contains(word)), "{words:?}: {output:?}");
    assert!(!output.stderr.lines().any(|line| line == "ready"), "{output:?}");
    assert!(!output.stderr.contains("panicked"), "{output:?}");
    let messages =
        output.stderr.lines().filter(|line| line.starts_with("migtrace: ") || line.starts_with("error: "));
    assert_eq!(messages.count(), 1, "{output:?}");
}

/// Checks that migtrace waits for this VM, and reports that with all of these words.
fn assert_waits(host: &Host, vm: &str, words: &[&str]) {
    let output = migtrace_command::run(host, &["record", "--vm", vm, "--timeout", "100ms"]).unwrap();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(words.iter().all(|word| output.stderr.contains(word)), "{words:?}: {output:?}");
    assert!(
        output.stderr.contains("\nready\n") && output.stderr.contains("within the time of --timeout"),
        "{output:?}"
    );
}

/// A copy of the command that every user may run: the build folder may be closed to them.
fn public_copy() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("migtrace");
    std::fs::copy(migtrace_command::binary().unwrap(), &copy).unwrap();
    (folder, copy)
}

#[test]
fn a_missing_capability_is_named() {
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
        assert_is_refusal(&run(rights, arguments), 1, words);
    }
    // `doctor` runs all the same: it is for those who cannot record.
    let output = run(&nobody, &["doctor"]);
    assert_eq!(output.code, Some(6), "{output:?}");
    assert!(
        output.stdout.contains("CAP_BPF") && output.stdout.contains("no packet can be counted"),
        "{output:?}"
    );
}

#[test]
fn a_vm_or_interface_that_is_missing_is_named_beside_those_that_exist() {
    let lab = network();
    assert_waits(lab.source(), "db", &["waiting for `db`", "no QEMU runs"]);
    let web = BareQemu::start(lab.source(), "web").unwrap();
    let pid = web.pid().to_string();
    assert_waits(lab.source(), "db", &["waiting for `db`", "web", &pid]);
    assert_refused(lab.source(), &["record", "--pid", "1"], 1, &["process 1 is not a QEMU", "web", &pid]);
    // `web` runs in another network namespace.
    assert_waits(lab.destination(), "web", &["waiting for `web`", "no QEMU runs"]);
    assert_refused(lab.source(), &["record", "--interface", "eth7"], 1, &["`eth7`", "lo", "br0", "uplink"]);
}

#[test]
fn interfaces_that_would_give_wrong_counts_are_refused() {
    let lab = network();
    assert_refused(lab.source(), &["record", "--interface", "lo"], 1, &["`lo`", "loopback"]);
    let both = ["record", "--interface", "br0", "--interface", "uplink"];
    assert_refused(lab.source(), &both, 1, &["`br0`", "`uplink`", "twice"]);
    // The switch has no address, so there is no interface to choose.
    assert_refused(lab.switch(), &["record"], 1, &["no interface to count at", "--interface"]);
}

#[test]
fn wrong_usage_has_an_exit_code_of_its_own() {
    let lab = network();
    for ports in ["", "50-40", "0-10", "65536", "http"] {
        assert_refused(lab.source(), &["record", "--ports", ports], 2, &["--ports", "port"]);
    }
    for time in ["30", "soon", "0s", "-5s"] {
        let option = format!("--timeout={time}");
        assert_refused(lab.source(), &["record", &option], 2, &["--timeout", "write for example 30s"]);
        let option = format!("--max-total={time}");
        assert_refused(lab.source(), &["record", &option], 2, &["--max-total", "write for example 30s"]);
    }
    assert_refused(lab.source(), &["record", "--format", "yaml"], 2, &["--format", "json"]);
    assert_refused(lab.source(), &["trace"], 2, &["trace"]);
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_wait() {
    let lab = network();
    let folder = tempfile::tempdir().unwrap();
    for option in ["--output", "--events"] {
        for (file, why) in [("/no/such/folder/file", "No such file"), (path(folder.path()), "Is a directory")]
        {
            assert_refused(lab.source(), &["record", option, file], 1, &["cannot write to", file, why]);
        }
    }
    assert_refused(
        lab.source(),
        &["record", "--events", "/dev/full"],
        1,
        &["cannot write to /dev/full", "No space left"],
    );
    let file = folder.path().join("file");
    let same = ["record", "--output", path(&file), "--events", path(&file)];
    assert_refused(lab.source(), &same, 1, &["--output and --events", "same file"]);
    assert_refused(
        lab.source(),
        &["record", "--qmp", "/no/socket"],
        1,
        &["QMP socket /no/socket", "No such file"],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_refused_before_the_wait() {
    let lab = network();
    let disk = SmallDisk::mount("64k");
    for option in ["--output", "--events"] {
        let file = disk.file("file");
        assert_refused(
            lab.source(),
            &["record", option, &file],
            1,
            &["cannot write to", &file, "No space left"],
        );
    }
}

#[test]
fn a_report_that_cannot_be_written_at_the_end_goes_to_standard_output() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "unlucky", MIGRATION_PORT).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stdout = folder.path().join("stdout");
    let mut recording =
        migtrace_command::command(&["record", "--format", "json", "--output", "/dev/full"]).unwrap();
    recording.stdout(std::fs::File::create(&stdout).unwrap()).stderr(std::process::Stdio::piped());
    let recording = lab.source().spawn(&mut recording).unwrap();
    // Its standard error is read only at its end, so nothing shows when it is ready.
    std::thread::sleep(Duration::from_secs(2));
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let output: CommandOutput = recording.output(PATIENCE).unwrap().into();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("/dev/full") && output.stderr.contains("standard output instead"),
        "{output:?}"
    );
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(stdout).unwrap()).unwrap();
    assert_consistent(&record);
    assert_eq!(record["migration"]["outcome"], "completed");
}

#[test]
fn a_disk_that_fills_up_ends_the_event_log_but_not_the_recording() {
    let lab = network();
    let (mut source, _destination) = BareQemu::pair(&lab, "long", MIGRATION_PORT).unwrap();
    let disk = SmallDisk::mount("300k");
    let log = disk.file("events.jsonl");
    let recording = Recording::start(lab.source(), &["--events", &log]).unwrap();
    disk.fill();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(1), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert_eq!(record["migration"]["outcome"], "completed");
    for words in ["the recording goes on", "is incomplete", "No space left", &log] {
        assert!(recorded.stderr.contains(words), "{words}: {}", recorded.stderr);
    }
    // The log can be read up to the line that was cut.
    let report = migtrace_command::command(&["report", &log]).unwrap().output().unwrap();
    assert_eq!(report.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&report.stderr).contains("line "), "{report:?}");
}

/// A file system that holds a few pages.
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

    /// Fills it up.
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
