//! The loads of the drivers, against programs that only run until they are ended.

use std::fs;
use std::process::{Command, Output};

use crate::driver_scripts::drivers;
use crate::scene::{Scene, runs, wait_for};

/// A shell on a host, or in the guest. `AT` is where.
const SHELL: &str = "#!/bin/sh\nexport AT=$1\nshift\necho \"$AT: $*\" >> calls\nexec sh -c \"$*\"\n";

/// Starts a unit whose name nobody has, and keeps its process id.
const SYSTEMD_RUN: &str = r#"#!/bin/sh
while :; do
    case $1 in
        --unit) unit=units/$2@$AT; shift 2 ;;
        --property) shift 2 ;;
        --*) shift ;;
        *) break ;;
    esac
done
[ ! -e "$unit" ] || { echo "$unit is there already" >&2; exit 1; }
"$@" </dev/null >/dev/null 2>&1 &
echo $! > "$unit"
echo $! >> pids
"#;

const SYSTEMCTL: &str = r#"#!/bin/sh
case $1 in
    stop) unit=units/$2@$AT; [ -e "$unit" ] || exit 5; kill "$(cat "$unit")" && rm "$unit" ;;
    is-active) [ -e "units/$3@$AT" ] || exit 3 ;;
esac
"#;

/// Knows one limit for each interface, by its handle.
const TC: &str = r#"#!/bin/sh
limit=units/$4@$AT
case $2 in
    add) [ ! -e "$limit" ] && echo "qdisc tbf $7 root" > "$limit" ;;
    del) grep -q " $7 " "$limit" && rm "$limit" ;;
    show) cat "$limit" ;;
esac
"#;

/// Has one guest, on the source.
const VIRSH: &str = r#"#!/bin/sh
case "$AT $1" in
    "host-a list") echo study ;;
    "host-a domstate") echo running ;;
    "host-a domuuid") echo 6f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b ;;
esac
"#;

/// A client is refused once.
const IPERF3: &str = r#"#!/bin/sh
case "$*" in *--bytes*) rm refuse 2>/dev/null && exit 1; exit 0 ;; esac
exec tail -f /dev/null
"#;

/// Cannot reach the server.
const CUT_OFF_IPERF3: &str = r#"#!/bin/sh
case "$*" in *--client*) echo "no route to $2" >&2; exit 1 ;; esac
exec tail -f /dev/null
"#;

/// The second time, stress has filled its memory.
const PS: &str = "#!/bin/sh\necho 1000\ncat filled_kib\necho 3146000 > filled_kib\n";

const PROGRAM: &str = "#!/bin/sh\nexec tail -f /dev/null\n";
const NOTHING: &str = "#!/bin/sh\n";

/// A guest of 4096 MiB that runs on host-a, and hosts with the programs that make loads.
struct Hosts(Scene);

impl Hosts {
    fn new() -> Self {
        let scene = Scene::of_two_cells("");
        fs::create_dir(scene.path("units")).unwrap();
        scene.write("pids", "");
        for (name, script) in [
            ("rsh", SHELL),
            ("systemd-run", SYSTEMD_RUN),
            ("systemctl", SYSTEMCTL),
            ("tc", TC),
            ("virsh", VIRSH),
            ("iperf3", IPERF3),
            ("stress", PROGRAM),
            ("stress-ng", PROGRAM),
            ("ps", PS),
            ("dd", NOTHING),
            ("ping", NOTHING),
            ("sleep", NOTHING),
        ] {
            scene.write_program(name, script);
        }
        for name in ["refuse", "filled_kib"] {
            scene.write(name, "");
        }
        Self(scene)
    }

    fn drive(&self, step: &str) -> Output {
        let path = format!("{}:{}", self.0.path("").display(), std::env::var("PATH").unwrap());
        let all = [
            ("PATH", path.as_str()),
            ("STUDY_VARIABLES", "variables"),
            ("GUEST", "study"),
            ("GUEST_ADDRESS", "192.0.2.50"),
            ("SOURCE", "host-a"),
            ("DESTINATION", "host-b"),
            ("RSH", "./rsh"),
            ("GUEST_SHELL", "./rsh"),
            ("STORAGE", "shared"),
            ("MEMORY_MIB", "4096"),
            ("DISK_USED_GIB", "10"),
            ("LOAD_PERCENT", "75"),
            ("HOST_CPU_PERCENT", "66"),
            ("NETWORK_LOAD", "300M"),
            ("LINK", "eth1"),
            ("LINK_RATE", "1gbit"),
        ];
        let mut command = Command::new("sh");
        command.arg(drivers().join("virsh.sh")).arg(step).current_dir(self.0.path(""));
        command.envs(all).output().unwrap()
    }

    /// What runs, and where.
    fn units(&self) -> Vec<String> {
        let mut units: Vec<_> = fs::read_dir(self.0.path("units"))
            .unwrap()
            .map(|unit| unit.unwrap().file_name().into_string().unwrap())
            .collect();
        units.sort();
        units
    }

    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.0.path("pids")).unwrap();
        text.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.0.path("calls")).unwrap()
    }

    /// Checks that clean-up ends all that was started, of which there are so many processes.
    fn assert_cleaned_up(&self, processes: usize) {
        let pids = self.pids();
        assert_eq!(pids.len(), processes);
        assert!(pids.iter().all(|pid| runs(*pid)), "{pids:?}");
        // Even if there is nothing left to end.
        for _ in 0..2 {
            let done = self.drive("clean-up");
            assert!(done.status.success(), "{done:?}");
            assert_eq!(self.units(), [""; 0]);
        }
        wait_for("all have ended", || !pids.iter().any(|pid| runs(*pid)));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

#[test]
fn every_load_is_made_and_ends_with_clean_up() {
    let hosts = Hosts::new();
    let done = hosts.drive("prepare");
    assert!(done.status.success(), "{done:?}");
    let units = [
        "eth1@host-a",
        "eth1@host-b",
        "migtrace-study-cpu@host-a",
        "migtrace-study-cpu@host-b",
        "migtrace-study-net@host-a",
        "migtrace-study-net@host-b",
        "migtrace-study@root@192.0.2.50",
    ];
    assert_eq!(hosts.units(), units);
    let calls = hosts.calls();
    for call in [
        "root@192.0.2.50: dd if=/dev/urandom of=/study bs=1M count=10240 conv=fsync status=none",
        "root@192.0.2.50: systemd-run --quiet --collect --unit migtrace-study stress --vm 1 --vm-bytes 3072M --vm-keep",
        "host-a: systemd-run --quiet --collect --unit migtrace-study-cpu stress-ng --cpu 0 --cpu-load 66",
        "host-b: systemd-run --quiet --collect --unit migtrace-study-cpu stress-ng --cpu 0 --cpu-load 66",
        "host-b: tc qdisc add dev eth1 root handle 2014: tbf rate 1gbit burst 256kb latency 50ms",
        "host-b: systemd-run --quiet --collect --unit migtrace-study-net iperf3 --server",
        "host-a: systemd-run --quiet --collect --unit migtrace-study-net --property Restart=always \
         --property RestartSec=1 iperf3 --client host-b --time 0 --bitrate 300M",
    ] {
        assert!(calls.lines().any(|line| line == call), "{call}: {calls}");
    }
    // Neither stress nor the server of iperf3 was ready at once.
    assert_eq!((calls.matches("ps -C stress").count(), calls.matches("--bytes 1K").count()), (2, 2));
    hosts.assert_cleaned_up(5);
    assert!(hosts.calls().contains("root@192.0.2.50: rm -f /study\n"));
}

#[test]
fn what_a_failed_prepare_has_started_ends_with_clean_up() {
    let hosts = Hosts::new();
    hosts.0.write_program("iperf3", CUT_OFF_IPERF3);
    let failed = hosts.drive("prepare");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("no route to host-b"), "{failed:?}");
    hosts.assert_cleaned_up(4);
}

#[test]
fn a_load_that_does_not_end_is_named() {
    let hosts = Hosts::new();
    assert!(hosts.drive("prepare").status.success());
    hosts.0.write_program("systemctl", "#!/bin/sh\n[ \"$AT $1\" != 'host-b stop' ]\n");
    let failed = hosts.drive("clean-up");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(
        said.contains("cannot end migtrace-study-cpu on host-b, migtrace-study-net on host-b\n"),
        "{said}"
    );
    // All else has ended.
    assert!(!hosts.units().iter().any(|unit| unit.starts_with("eth1")));
    hosts.0.write_program("systemctl", SYSTEMCTL);
    hosts.assert_cleaned_up(5);
}
