//! `migtrace study run` with the example plan for libvirt and its driver: both cells are measured, and the guest is where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::remote_shell::RemoteShell;
use crate::support::number;
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::{Host, LibvirtLab, migtrace_command, shared_libvirt_lab};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(150);
const MS: u64 = 1_000_000;

pub(super) fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/study").canonicalize().unwrap()
}

/// The guest's disk, on both hosts.
const DISK: &str = "/var/lib/libvirt/images/guest.qcow2";

/// The example plan, once for each cell, with the lab's names.
fn plan(lab: &LibvirtLab, shell: &RemoteShell<'_>) -> String {
    let text = fs::read_to_string(docs().join("plans/libvirt.toml")).unwrap();
    let (before, after) = text.split_once("[variables]\n").unwrap();
    let (_, after) = after.split_once("\n\n").unwrap();
    let [from, to] = [lab.guest_host(), lab.other_host()];
    let uri = |host: &Host| format!("qemu+tcp://{}/system", host.ipv4());
    // The guest dirties more than that: pre-copy does not end by itself.
    let variables = [
        ("RSH", shell.path().display().to_string()),
        ("GUEST", lab.guest().name.clone()),
        ("GUEST_ADDRESS", lab.guest().ipv4.to_string()),
        ("SOURCE", from.role().to_owned()),
        ("DESTINATION", to.role().to_owned()),
        ("SOURCE_URI", uri(from)),
        ("DESTINATION_URI", uri(to)),
        ("STORAGE", "block".to_owned()),
        ("DISK", DISK.to_owned()),
        ("BANDWIDTH_MIB", "32".to_owned()),
    ];
    let variables: String = variables.iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
    let text = format!("{before}[variables]\n{variables}\n{after}meter_interface = {:?}\n", Host::UPLINK);
    text.replace("../drivers", docs().join("drivers").to_str().unwrap())
        .replace("repetitions = 3", "repetitions = 1")
        .replace("attempts = 2", "attempts = 1")
        .replace("after = \"5m\"", "after = \"8s\"")
        .replace("[\"--domjobinfo\"]", &format!("[\"--domjobinfo\", \"--virsh\", {:?}]", lab.virsh_program()))
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Checks one run: its record is that of its cell, and the method of 2014 fits what the record says.
fn assert_run(folder: &Path) {
    let (run, record) = (read(&folder.join("run.json")), read(&folder.join("record.json")));
    assert_eq!(run["outcome"]["is"], "completed", "{run:#}");
    let mode = if run["cell"]["mode"] == "post-copy" { "postcopy" } else { "precopy" };
    assert_eq!(
        (&record["migration"]["outcome"], &record["migration"]["mode"]),
        (&"completed".into(), &mode.into())
    );
    assert_consistent(&record);
    assert_eq!(record["vm"]["uuid"], run["variables"]["GUEST_UUID"]);
    for host in ["local", "src", "dst"] {
        assert!(folder.join(format!("events/{host}.jsonl")).is_file(), "{host}");
    }
    // virsh begins before QEMU does and ends after it.
    assert!(number(&run["migrate_ns"]) >= number(&record["total_time"]["value_ns"]), "{run:#}");
    // The guest was suspended, and only where it had to be.
    let [took, after] = ["migrate_ns", "converged_after_ns"].map(|field| run[field].as_u64());
    let waited = after.is_some_and(|after| 8000 * MS <= after && Some(after) < took);
    assert!(if mode == "precopy" { waited } else { after.is_none() }, "{run:#}");

    let method = &run["old_method"];
    let sent = number(&method["pings"]["sent"]);
    let lasted = number(&run["run_ns"]).div_ceil(200 * MS);
    assert!(sent * 200 * MS >= number(&run["migrate_ns"]) && sent <= lasted, "{run:#}");
    // The kernel's own counters of the uplink: they have what migtrace has counted there, and a little more.
    let (meter, wire) = (&method["meter"], &record["traffic"]["total"]);
    assert_eq!(meter["interfaces"], serde_json::json!([Host::UPLINK]));
    for way in ["tx", "rx"] {
        let (metered, counted) = (number(&meter[format!("{way}_bytes")]), number(&wire[way]["wire_bytes"]));
        let most = counted + counted / 20 + (1 << 20);
        assert!((counted..most).contains(&metered), "{way}: {metered} metered, {counted} counted");
    }
    assert_eq!(run["not_measured"], serde_json::json!([]), "{run:#}");
}

#[test]
fn the_example_plan_for_libvirt_measures_both_cells_and_leaves_the_guest_where_it_was() {
    let lab = shared_libvirt_lab().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let shell = RemoteShell::write(&lab, folder.path());
    // Other tests leave the disk at the destination.
    shell.run(lab.other_host(), &format!("rm -f {DISK}"));
    let (path, output) = (folder.path().join("plan.toml"), folder.path().join("study"));
    fs::write(&path, plan(&lab, &shell)).unwrap();

    let arguments = ["study", "run", path.to_str().unwrap(), "--output", output.to_str().unwrap()];
    let mut command = migtrace_command::command(&arguments).unwrap();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = lab.observer().spawn(&mut command).unwrap().output(PATIENCE).unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(0), "{said}");
    assert!(said.ends_with("2 of 2 runs completed, 0 failed\n"), "{said}");

    let mut runs: Vec<_> =
        fs::read_dir(output.join("runs")).unwrap().map(|run| run.unwrap().path()).collect();
    runs.sort();
    let names: Vec<_> =
        runs.iter().map(|run| run.file_name().unwrap().to_str().unwrap()[4..].to_owned()).collect();
    assert!(names == ["pre-copy-1", "post-copy-1"] || names == ["post-copy-1", "pre-copy-1"], "{names:?}");
    runs.iter().for_each(|run| assert_run(run));
    assert_eq!(lab.virsh(&["domstate", &lab.guest().name]).unwrap(), "running");
    lab.ping_guest().unwrap();
    let left = shell.run(lab.other_host(), "virsh list --all --name; ls /var/lib/libvirt/images");
    assert_eq!(left.trim(), "");
}
