//! The driver of studies with libvirt where it makes its guest from a template: the guest moves with the content of its disk, and
//! wherever a run breaks off, nothing is left of it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::remote_shell::RemoteShell;
use super::study::docs;
use crate::support::GUEST_PATIENCE;
use migtrace_lab::{Host, LibvirtLab, Process, shared_libvirt_lab};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A guest without an operating system or a network: its firmware looks for one.
const TEMPLATE: &str = "<domain type='qemu'>
  <name>@GUEST@</name>
  <memory unit='MiB'>@MEMORY_MIB@</memory>
  <vcpu>@VCPUS@</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='@DISK@'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
";

const BASE: &str = "/var/tmp/base.qcow2";
const DISK: &str = "/var/lib/libvirt/images/study.qcow2";
const DISK_IN_QEMU: &str = "/machine/peripheral/virtio-disk0/virtio-backend";
/// Slower than QEMU would be.
const LIMIT: [(&str, &str); 2] = [("LINK", Host::UPLINK), ("LINK_RATE", "200mbit")];
const POLL: Duration = Duration::from_millis(20);

/// The driver, with a guest of its own beside that of the lab.
struct Driver<'a> {
    lab: &'a LibvirtLab,
    folder: TempDir,
    shell: RemoteShell<'a>,
}

impl<'a> Driver<'a> {
    fn new(lab: &'a LibvirtLab) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shell = RemoteShell::write(lab, folder.path());
        fs::write(folder.path().join("template.xml"), TEMPLATE).unwrap();
        // The lab's guest would only take time.
        lab.virsh(&["suspend", &lab.guest().name]).unwrap();
        Self { lab, folder, shell }
    }

    /// Lets the lab's guest go on.
    fn end(self) {
        self.lab.virsh(&["resume", &self.lab.guest().name]).unwrap();
    }

    /// Starts a step, in a process group of its own as in a study.
    fn start(&self, step: &str, more: &[(&str, &str)]) -> Process {
        let folder = self.folder.path();
        let [source, destination] = self.lab.hosts();
        let mut command = Command::new("sh");
        command.arg(docs().join("drivers/virsh.sh")).arg(step).current_dir(folder).process_group(0);
        command
            .env("RSH", self.shell.path())
            .env("STUDY_DIRECTORY", folder)
            .env("STUDY_VARIABLES", folder.join("variables"))
            .envs([("SOURCE", source.role()), ("DESTINATION", destination.role())])
            .env("DESTINATION_URI", format!("qemu+tcp://{}/system", destination.ipv4()))
            .envs([("GUEST", "study"), ("DOMAIN_XML", "template.xml"), ("BASE_IMAGE", BASE), ("DISK", DISK)])
            .envs([("VCPUS", "1"), ("MEMORY_MIB", "64"), ("DISK_GIB", "1")])
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.lab.observer().spawn(&mut command).unwrap()
    }

    fn run(&self, step: &str, more: &[(&str, &str)]) -> Output {
        self.start(step, more).output(GUEST_PATIENCE).unwrap()
    }

    fn succeed(&self, step: &str, more: &[(&str, &str)]) {
        let done = self.run(step, more);
        assert!(done.status.success(), "{step}: {done:?}");
    }

    /// Lets prepare fail for a reason that it names.
    fn fail_to_prepare(&self, more: &[(&str, &str)], why: &str) {
        let done = self.run("prepare", more);
        assert!(
            !done.status.success() && String::from_utf8_lossy(&done.stderr).contains(why),
            "{why}: {done:?}"
        );
    }

    fn state(&self, host: &Host) -> String {
        self.shell.run(host, "virsh domstate study 2>/dev/null || true").trim().to_owned()
    }

    /// The guest, its files and the limits of links, on both hosts.
    fn traces(&self) -> String {
        let line = format!(
            "virsh list --all --name | grep -x study; ls /var/lib/libvirt/images | grep study; \
             tc qdisc show dev {} | grep -o 'tbf 2014: root'; true",
            Host::UPLINK
        );
        self.lab.hosts().map(|host| self.shell.run(host, &line)).concat()
    }

    /// Checks that clean-up leaves nothing.
    fn assert_cleaned_up(&self, more: &[(&str, &str)]) {
        self.succeed("clean-up", more);
        assert_eq!(self.traces(), "");
    }

    /// Checks the disk at the destination, where the guest ends.
    fn assert_disk(&self) {
        let [_, destination] = self.lab.hosts();
        let expected = [
            ("0x11", "0", "1M"),
            ("0x22", "1M", "1M"),
            ("0", "2M", "1M"),
            ("0x22", "3M", "1M"),
            ("0", "4M", "1M"),
            ("0x12", "5M", "1M"),
            ("0", "6M", "1018M"),
        ];
        let read = |(pattern, at, bytes)| format!(" -c 'read -q -P {pattern} {at} {bytes}'");
        let reads = expected.map(read).concat();
        let line = format!("virsh -q destroy study >&2 && qemu-io -r{reads} {DISK}");
        assert_eq!(self.shell.run(destination, &line), "");
        // It stands alone.
        let info = self.shell.run(destination, &format!("qemu-img info {DISK}"));
        assert!(info.contains("virtual size: 1 GiB") && !info.contains("backing"), "{info}");
    }
}

#[test]
fn a_guest_made_from_a_template_moves_with_its_disk_and_leaves_nothing() {
    let lab = shared_libvirt_lab().unwrap();
    let [source, destination] = lab.hosts();
    let driver = Driver::new(&lab);
    let writes = "-c 'write -q -P 0x11 0 2M' -c 'write -q -P 0x12 5M 1M'";
    driver.shell.run(source, &format!("qemu-img create -q -f qcow2 {BASE} 8M && qemu-io {writes} {BASE}"));

    driver.succeed("prepare", &LIMIT);
    assert_eq!((driver.state(source).as_str(), driver.state(destination).as_str()), ("running", ""));
    // Where its base has something, and where it has nothing.
    for write in ["write -P 0x22 1M 1M", "write -P 0 2M 1M", "write -P 0x22 3M 1M"] {
        let line = format!("virsh qemu-monitor-command study --hmp 'qemu-io -d {DISK_IN_QEMU} \"{write}\"'");
        driver.shell.run(source, &line);
    }
    driver.succeed("migrate", &LIMIT);
    assert_eq!((driver.state(source).as_str(), driver.state(destination).as_str()), ("shut off", "running"));
    let uuid = driver.shell.run(destination, "virsh domuuid study");
    let variables = fs::read_to_string(driver.folder.path().join("variables")).unwrap();
    assert_eq!(variables.trim(), format!("GUEST_UUID={}", uuid.trim()));
    driver.assert_disk();
    // Packets had to wait.
    let limit = driver.shell.run(source, &format!("tc -s qdisc show dev {}", Host::UPLINK));
    assert!(limit.contains("rate 200Mbit") && !limit.contains("overlimits 0 "), "{limit}");
    driver.assert_cleaned_up(&LIMIT);
    // There need not be anything to remove.
    driver.assert_cleaned_up(&LIMIT);
    driver.end();
}

#[test]
fn clean_up_removes_what_was_made_wherever_a_run_has_broken_off_and_nothing_else() {
    let lab = shared_libvirt_lab().unwrap();
    let [source, destination] = lab.hosts();
    let driver = Driver::new(&lab);
    driver.shell.run(source, &format!("qemu-img create -q -f qcow2 {BASE} 8M"));

    // Somebody else's guest, file and limit stay.
    let guest = [("GUEST", lab.guest().name.as_str())];
    driver.fail_to_prepare(&guest, "has a domain");
    driver.assert_cleaned_up(&guest);
    assert_eq!(lab.virsh(&["domstate", guest[0].1]).unwrap(), "paused");
    let other_disk = "/var/lib/libvirt/images/other.qcow2";
    driver.shell.run(source, &format!("echo mine > {other_disk}"));
    let other = [("DISK", other_disk)];
    driver.fail_to_prepare(&other, "is there already");
    driver.assert_cleaned_up(&other);
    assert_eq!(driver.shell.run(source, &format!("cat {other_disk} && rm {other_disk}")), "mine\n");
    source.tool("tc", &["qdisc", "add", "dev", Host::UPLINK, "root", "handle", "1:", "pfifo"]).unwrap();
    driver.fail_to_prepare(&LIMIT, "cannot slow down uplink on src");
    driver.assert_cleaned_up(&LIMIT);
    // This fails if it is gone.
    source.tool("tc", &["qdisc", "del", "dev", Host::UPLINK, "root", "handle", "1:"]).unwrap();

    // A migration that is cut off while it copies the disk goes on on the hosts.
    driver.succeed("prepare", &[]);
    let line =
        format!("virsh qemu-monitor-command study --hmp 'qemu-io -d {DISK_IN_QEMU} \"write -P 1 0 8M\"'");
    driver.shell.run(source, &line);
    let migrate = driver.start("migrate", &[("BANDWIDTH_MIB", "1")]);
    let started = Instant::now();
    while driver.state(destination) != "paused" {
        assert!(started.elapsed() < GUEST_PATIENCE);
        thread::sleep(POLL);
    }
    killpg(Pid::from_raw(migrate.id().cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!((driver.state(source).as_str(), driver.state(destination).as_str()), ("running", "paused"));
    driver.assert_cleaned_up(&[]);
    driver.end();
}
