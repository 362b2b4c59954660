use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use uuid::Uuid;

use super::*;

const DOMAIN: Uuid = Uuid::from_u128(0x5f3c_1f0e_8a51_4a0f_9d6c_0c2b_6f1f_2d11);

/// What libvirt 9.0 says of a migration at its source.
const OUTGOING: &str = "Job type: 3\n\noperation: 5\ntime_elapsed: 3773\ndowntime: 253\nsetup_time: 318\n\
                        memory_processed: 147480911\nsuccess: yes\nerrmsg: \n\n";

/// A program in virsh's place.
fn script(directory: &TempDir, lines: &str) -> Virsh {
    let path: PathBuf = directory.path().join("virsh");
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Virsh::new(vec![path.to_str().unwrap().to_owned(), "-c".to_owned(), "qemu:///system".to_owned()]).unwrap()
}

async fn answer(lines: &str) -> Result<Option<CompletedJob>, VirshError> {
    let directory = tempfile::tempdir().unwrap();
    script(&directory, lines).completed_job(DOMAIN).await
}

async fn why_not(lines: &str) -> String {
    answer(lines).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_completed_job_is_read_and_nothing_is_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    let asked = directory.path().join("asked");
    let virsh =
        script(&directory, &format!("echo \"$LC_ALL $*\" >{}; cat <<END\n{OUTGOING}END", asked.display()));
    let job = virsh.completed_job(DOMAIN).await.unwrap().unwrap();
    assert_eq!(job.operation(), Some(Operation::Outgoing));
    let figures: Vec<_> = job.figures.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(
        figures,
        [
            ("downtime", 253),
            ("memory_processed", 147_480_911),
            ("operation", 5),
            ("setup_time", 318),
            ("time_elapsed", 3773)
        ]
    );
    assert_eq!(
        fs::read_to_string(asked).unwrap(),
        "C -c qemu:///system domjobinfo 5f3c1f0e-8a51-4a0f-9d6c-0c2b6f1f2d11 --completed --keep-completed --rawstats\n"
    );
}

#[tokio::test]
async fn no_job_and_one_that_was_not_completed_have_no_figures() {
    for kind in [0, 1, 2, 4, 5] {
        assert_eq!(answer(&format!("echo 'Job type: {kind}'; echo; echo operation: 5")).await.unwrap(), None);
    }
}

#[tokio::test]
async fn the_reason_is_what_virsh_says() {
    let lines =
        "echo 'error: failed to connect to the hypervisor' >&2; echo 'error: No such file' >&2; exit 1";
    assert_eq!(why_not(lines).await, "virsh failed: failed to connect to the hypervisor: No such file");
    assert_eq!(why_not("exit 1").await, "virsh failed");
    assert!(why_not("yes no >&2; exit 1").await.len() < 2048, "it may say very much");
}

#[tokio::test]
async fn what_is_not_statistics_is_none() {
    let other = "virsh answered with something else than statistics: ";
    for (lines, what) in [
        ("true", "nothing"),
        ("echo Usage: virsh", "`Usage: virsh`"),
        ("echo 'Job type:         Completed'", "`Job type:         Completed`"),
        ("echo 'Job type: 3'; echo 'Time elapsed: 5 ms'", "`Time elapsed: 5 ms`"),
        ("echo 'Job type: 3'; seq -f 'figure_%g: 1' 200", "200 figures"),
        ("yes 'time_elapsed: 1'", "more than 16 KiB"),
    ] {
        assert_eq!(why_not(lines).await, format!("{other}{what}"), "{lines}");
    }
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_that_it_has_started() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    let lines = format!("sleep 1000 & echo $! $$ >{}; wait", pids.display());
    let virsh = script(&directory, &lines).with_patience(Duration::from_secs(1));
    let begun = Instant::now();
    assert_eq!(
        virsh.completed_job(DOMAIN).await.unwrap_err().to_string(),
        "virsh has not answered within 1 s"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    let pids = fs::read_to_string(pids).unwrap();
    let runs = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert_eq!(pids.split_whitespace().count(), 2);
    while pids.split_whitespace().any(runs) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{pids}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_command_that_is_not_virsh_is_found_before_it_is_needed() {
    assert!(Virsh::new(Vec::new()).is_none());
    let missing = Virsh::new(vec!["/no/such/virsh".to_owned()]).unwrap();
    let said = missing.check().await.unwrap_err().to_string();
    assert_eq!(said, "cannot run `/no/such/virsh`; --virsh COMMAND says how to run virsh here");
    let directory = tempfile::tempdir().unwrap();
    let said =
        script(&directory, "echo 'sudo: virsh: command not found' >&2; exit 1").check().await.unwrap_err();
    assert!(
        said.to_string()
            .ends_with("failed: sudo: virsh: command not found; --virsh COMMAND says how to run virsh here")
    );
    script(&directory, "test \"$3\" = --version && echo 9.0.0").check().await.unwrap();
}
