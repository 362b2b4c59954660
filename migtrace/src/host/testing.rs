//! What tests share: namespaces of their own, and the commands that fill them.

use std::io::Write;
use std::process::Command;

/// Runs `body` in a new network namespace with `lo` up, on a thread of its own. When the caller is not root, it does nothing
/// but say so. The namespace vanishes with the thread.
pub(crate) fn in_new_netns(body: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a network namespace of its own needs root");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            ip("link set lo up");
            body();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The calling thread's network namespace, as a path that `ip link set ... netns` takes.
pub(crate) fn this_netns() -> String {
    format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid())
}

/// Runs `ip` with the given words in the calling thread's namespace.
pub(crate) fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().expect("iproute2's ip command");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As [`ip`], in the namespace that [`this_netns`] has named.
pub(crate) fn ip_in(netns: &str, words: &str) {
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net={netns}")).arg("ip").args(words.split_whitespace());
    let output = nsenter.output().expect("util-linux's nsenter command");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs many `ip` commands, one a line, in one process.
pub(crate) fn ip_batch(lines: &str) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(lines.as_bytes()).expect("writing it");
    ip(&format!("-batch {}", file.path().display()));
}

/// Runs a future on this thread alone, so that sockets belong to this thread's namespace.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
