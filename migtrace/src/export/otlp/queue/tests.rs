use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use super::*;

const SMALL: Limits = Limits { entries: 3, bytes: 100 };

fn requests(queue: &mut Queue) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(entry) = queue.oldest() {
        queue.done(&entry);
        found.push(entry.request);
    }
    found
}

fn open(folder: &tempfile::TempDir) -> Queue {
    Queue::in_directory(folder.path(), SMALL).unwrap()
}

/// The files of requests, in order.
fn files(folder: &tempfile::TempDir) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "otlp")).collect();
    files.sort();
    files
}

#[test]
fn requests_come_out_in_order_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut queue = open(&folder);
    queue.push(b"first".to_vec()).unwrap();
    queue.push(b"second".to_vec()).unwrap();
    let first = queue.oldest().unwrap();
    assert_eq!(first.request, b"first");
    assert_eq!(queue.oldest(), Some(first.clone()));
    queue.done(&first);
    drop(queue);
    let mut queue = open(&folder);
    queue.push(b"third".to_vec()).unwrap();
    assert_eq!(requests(&mut queue), [b"second".to_vec(), b"third".to_vec()]);
    assert!(files(&folder).is_empty());
}

#[test]
fn the_oldest_make_room_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for mut queue in [open(&folder), Queue::in_memory(SMALL)] {
        for number in 0..5_u8 {
            queue.push(vec![number; 10]).unwrap();
        }
        assert_eq!((queue.len(), queue.dropped()), (3, 2));
        queue.push(vec![9; 75]).unwrap();
        assert_eq!((queue.len(), queue.dropped()), (3, 3));
        queue.push(vec![8; 60]).unwrap();
        assert_eq!(requests(&mut queue), [vec![8; 60]]);
        assert_eq!(queue.dropped(), 6);
    }
}

#[test]
fn limits_hold_for_what_an_earlier_process_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut queue = Queue::in_directory(folder.path(), Limits::default()).unwrap();
    (0..6_u8).for_each(|number| queue.push(vec![number; 5]).unwrap());
    drop(queue);
    let mut queue = open(&folder);
    assert_eq!((queue.len(), queue.dropped()), (3, 3));
    assert_eq!(requests(&mut queue), [[3; 5], [4; 5], [5; 5]]);
}

#[test]
fn damaged_requests_are_passed_over_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut queue = open(&folder);
    ["cut off", "changed", "whole"].iter().for_each(|text| queue.push(text.as_bytes().to_vec()).unwrap());
    drop(queue);
    let found = files(&folder);
    let cut = fs::read(&found[0]).unwrap();
    fs::write(&found[0], &cut[..cut.len() - 2]).unwrap();
    let mut changed = fs::read(&found[1]).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&found[1], changed).unwrap();
    let mut queue = open(&folder);
    assert_eq!(requests(&mut queue), [b"whole"]);
    assert_eq!(queue.damaged(), 2);
    assert!(files(&folder).is_empty());
}

#[test]
fn files_of_others_are_neither_sent_nor_touched() {
    let folder = tempfile::tempdir().unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "secret").unwrap();
    let names = ["README", "00000000000000000007.otlp", "1.otlp", "00000000000000000001.otlp.partial"];
    let mut queue = open(&folder);
    queue.push(b"own".to_vec()).unwrap();
    drop(queue);
    fs::write(folder.path().join(names[0]), "text").unwrap();
    symlink(secret.path(), folder.path().join(names[1])).unwrap();
    fs::write(folder.path().join(names[2]), "text").unwrap();
    symlink(secret.path(), folder.path().join(names[3])).unwrap();
    fs::create_dir(folder.path().join("00000000000000000009.otlp")).unwrap();
    let mut queue = open(&folder);
    assert_eq!(queue.len(), 1);
    assert_eq!(requests(&mut queue), [b"own"]);
    assert!(names.iter().all(|name| fs::symlink_metadata(folder.path().join(name)).is_ok()));
    assert_eq!(fs::read_to_string(secret.path()).unwrap(), "secret");
}

#[test]
fn a_link_in_the_place_of_a_request_is_replaced_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "secret").unwrap();
    let mut queue = open(&folder);
    symlink(secret.path(), folder.path().join("00000000000000000001.otlp")).unwrap();
    queue.push(b"own".to_vec()).unwrap();
    assert_eq!(fs::read_to_string(secret.path()).unwrap(), "secret");
    assert_eq!(requests(&mut queue), [b"own"]);
    // A link that nobody has replaced is no request.
    queue.push(b"own".to_vec()).unwrap();
    let path = files(&folder).remove(0);
    fs::remove_file(&path).unwrap();
    symlink(secret.path(), &path).unwrap();
    assert_eq!(queue.oldest(), None);
    assert_eq!((queue.damaged(), queue.len()), (1, 0));
    assert_eq!(fs::read_to_string(secret.path()).unwrap(), "secret");
}

#[test]
fn what_cannot_be_used_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let queue = open(&folder);
    let why = |path: PathBuf| Queue::in_directory(&path, SMALL).unwrap_err().to_string();
    assert!(why(folder.path().to_owned()).ends_with("another migtrace uses it"));
    drop(queue);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    symlink(folder.path(), &link).unwrap();
    assert!(why(link).ends_with("it is not a directory"));
    let file = elsewhere.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(why(file.clone()).ends_with("it is not a directory"), "{}", why(file));
    symlink("/etc/passwd", elsewhere.path().join("lock")).unwrap();
    assert!(why(elsewhere.path().to_owned()).contains("its file `lock` cannot be opened"));
    assert!(why("/proc/nothing".into()).starts_with("cannot keep what is to be sent in /proc/nothing: "));
}

#[test]
fn only_this_user_may_read_what_waits() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("state/queue");
    let mut queue = Queue::in_directory(&path, SMALL).unwrap();
    queue.push(b"own".to_vec()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("00000000000000000001.otlp")), 0o600);
}

#[test]
fn a_request_that_cannot_be_written_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut queue = open(&folder);
    // A directory in the way stands for a file system that refuses.
    fs::create_dir(folder.path().join("00000000000000000001.otlp.partial")).unwrap();
    assert!(queue.push(b"own".to_vec()).is_err());
    assert!(queue.is_empty() && files(&folder).is_empty());
}
