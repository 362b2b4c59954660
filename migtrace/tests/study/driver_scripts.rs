//! The driver for OpenStack, against a client that only writes down what it is asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::scene::Scene;

pub(crate) fn drivers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/study/drivers").canonicalize().unwrap()
}

#[test]
fn every_driver_is_a_script_that_any_shell_can_read() {
    let scripts: Vec<_> = fs::read_dir(drivers()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(scripts.len() >= 3);
    for script in scripts {
        let read = Command::new("sh").arg("-n").arg(&script).output().unwrap();
        assert!(read.status.success(), "{}: {read:?}", script.display());
    }
}

/// The client knows one server, which is on the host that the file `host` names.
const CLIENT: &str = r#"#!/bin/sh
shift 2 # --os-compute-api-version
echo "$*" >> calls
case "$*" in
    "server show study -f value -c id") echo 6f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b ;;
    "server show study --format json -c addresses") echo '{"addresses": {"study": ["10.20.0.7"]}}' ;;
    "server show study -f value -c OS-EXT-SRV-ATTR:host") cat host ;;
    "server migration list"*) echo 42 ;;
esac
"#;

/// stress has filled its memory.
const SHELL: &str = r#"#!/bin/sh
echo "on $*" >> calls
case "$*" in *"ps -C stress"*) echo 3146000 ;; esac
"#;

fn drive(scene: &Scene, step: &str, more: &[(&str, &str)]) -> Output {
    let path = format!("{}:{}", scene.path("").display(), std::env::var("PATH").unwrap());
    let variables = scene.path("variables").display().to_string();
    let all = [
        ("PATH", path.as_str()),
        ("STUDY_VARIABLES", &variables),
        ("GUEST", "study"),
        ("SOURCE", "compute-1"),
        ("DESTINATION", "compute-2"),
        ("RSH", "./rsh"),
        ("GUEST_SHELL", "./rsh"),
        ("IMAGE", "debian"),
        ("NETWORK", "net"),
        ("KEY", "key"),
        ("VCPUS", "2"),
        ("MEMORY_MIB", "4096"),
        ("DISK_GIB", "40"),
    ];
    let mut command = Command::new("sh");
    command.arg(drivers().join("openstack.sh")).arg(step).current_dir(scene.path(""));
    command.envs(all).envs(more.iter().copied()).output().unwrap()
}

#[test]
fn the_driver_for_openstack_asks_for_what_the_plan_means() {
    let scene = Scene::of_two_cells("");
    scene.write_program("openstack", CLIENT);
    scene.write_program("rsh", SHELL);
    let load = [("LOAD_PERCENT", "75"), ("HOST_CPU_PERCENT", "66"), ("STUDY_CONVERGENCE", "suspend")];
    scene.write("host", "compute-2\n");
    for step in ["prepare", "migrate", "converge", "clean-up"] {
        let done = drive(&scene, step, &load);
        assert!(done.status.success(), "{step}: {done:?}");
    }
    let calls = fs::read_to_string(scene.path("calls")).unwrap();
    for call in [
        "flavor create --private --vcpus 2 --ram 4096 --disk 40 study-flavour",
        "server create --wait --flavor study-flavour --image debian --network net --key-name key --availability-zone nova:compute-1 study",
        "on root@10.20.0.7 systemd-run --quiet --collect --unit migtrace-study stress --vm 1 --vm-bytes 3072M --vm-keep",
        "on compute-2 systemd-run --quiet --collect --unit migtrace-study-cpu stress-ng --cpu 0 --cpu-load 66",
        "server migrate --live-migration --block-migration --host compute-2 --wait study",
        "server migration force complete study 42",
        "on compute-1 systemctl stop migtrace-study-cpu 2>/dev/null || ! systemctl is-active --quiet migtrace-study-cpu",
        "server delete --wait study",
        "flavor delete study-flavour",
    ] {
        assert!(calls.lines().any(|line| line == call), "{call}: {calls}");
    }
    let variables = fs::read_to_string(scene.path("variables")).unwrap();
    assert_eq!(variables, "GUEST_UUID=6f1c2a34-5b6d-4e7f-8a9b-0c1d2e3f4a5b\nGUEST_ADDRESS=10.20.0.7\n");
    // The client does not fail with the migration; the driver does.
    scene.write("host", "compute-1\n");
    let failed = drive(&scene, "migrate", &[("STORAGE", "shared")]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&failed.stderr).contains("the server is still on compute-1"),
        "{failed:?}"
    );
    assert!(
        fs::read_to_string(scene.path("calls"))
            .unwrap()
            .contains("--live-migration --shared-migration --host")
    );
}
