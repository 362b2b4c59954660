//! What is read of a file for node_exporter while a watch replaces it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Reads a file all the time, once it is there.
pub(super) struct Reader {
    is_enough: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Reader {
    pub(super) fn start(file: &Path) -> Self {
        let is_enough = Arc::new(AtomicBool::new(false));
        let (file, stop) = (file.to_owned(), Arc::clone(&is_enough));
        Self { is_enough, thread: thread::spawn(move || read_until(&file, &stop)) }
    }

    /// All that was in it, each content once. What changed was another file each time: nobody can have read a part.
    pub(super) fn stop(self) -> Vec<String> {
        self.is_enough.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn read_until(path: &Path, is_enough: &AtomicBool) -> Vec<String> {
    let mut contents: Vec<String> = Vec::new();
    let mut last_inode = 0;
    while !is_enough.load(Ordering::Relaxed) {
        // The watch may not have written it yet.
        if let Ok(mut file) = File::open(path) {
            let inode = file.metadata().unwrap().ino();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            if contents.last() != Some(&text) {
                assert_ne!(inode, last_inode, "changed in its place, to {text}");
                contents.push(text);
                last_inode = inode;
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
    contents
}
