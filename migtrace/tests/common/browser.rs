//! A browser without a screen, driven over the pipe of its DevTools protocol.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// Debian's `chromium-headless-shell` and `chromium`, and what others call it.
const NAMES: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

/// The browser's own descriptors for the protocol are 3 and 4: the shell makes them of its standard input and output.
const START: &str = r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null"#;

const QUESTIONS: &str = include_str!("../browser.js");

/// A browser with one page. It has no network.
pub(crate) struct Browser {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    last_id: u64,
    session: Option<String>,
    /// What it has said by itself.
    pub(crate) events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        Self::start_in(without_network(), &[])
    }

    /// A browser that reaches this machine, and nothing else.
    pub(crate) fn start_for_this_machine() -> Self {
        Self::start_in(Command::new("env"), &["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
    }

    fn start_in(mut command: Command, more: &[&str]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        command.args(["sh", "-c", START, found()]).args(more);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--remote-debugging-pipe", "--hide-scrollbars", "--force-device-scale-factor=1"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let answers = BufReader::new(answers);
        let mut browser =
            Self { child, orders, answers, last_id: 0, session: None, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Gives an order, and returns its result.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut order = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        self.orders.write_all(order.to_string().as_bytes()).unwrap();
        self.orders.write_all(b"\0").unwrap();
        loop {
            let said = self.read();
            if said["id"] == json!(self.last_id) {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
            self.events.push(said);
        }
    }

    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.answers.read_until(0, &mut message).unwrap();
        assert_eq!(message.pop(), Some(0), "the browser ended: {:?}", self.child.try_wait());
        serde_json::from_slice(&message).unwrap()
    }

    /// Shows a file, and waits until it is there.
    pub(crate) fn show(&mut self, file: &Path) {
        self.open(&format!("file://{}", file.display()));
    }

    /// Shows what is at an address, and waits until it is there.
    pub(crate) fn open(&mut self, url: &str) {
        self.events.clear();
        self.call("Page.navigate", json!({ "url": url }));
        let is_loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        while !self.events.iter().any(is_loaded) {
            let said = self.read();
            self.events.push(said);
        }
    }

    /// Sets the width of the screen, and its colours: `light` or `dark`.
    pub(crate) fn set_screen(&mut self, width: u32, scheme: &str) {
        let size = json!({ "width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "media": "screen", "features": scheme }));
    }

    /// As on paper.
    pub(crate) fn set_paper(&mut self, width: u32) {
        self.set_screen(width, "dark");
        let scheme = json!([{ "name": "prefers-color-scheme", "value": "dark" }]);
        self.call("Emulation.setEmulatedMedia", json!({ "media": "print", "features": scheme }));
    }

    /// What one of the questions of `browser.js` finds.
    pub(crate) fn ask(&mut self, question: &str) -> Value {
        self.evaluate(&format!("{QUESTIONS}.{question}()"))
    }

    /// The value of a script that is run in the page, or of what it promises.
    pub(crate) fn evaluate(&mut self, script: &str) -> Value {
        let order = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", order);
        assert!(result["exceptionDetails"].is_null(), "{result}");
        result["result"]["value"].clone()
    }

    /// A picture of the upper left of the page, as PNG.
    pub(crate) fn picture(&mut self, width: u32, height: u32) -> Vec<u8> {
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png", "clip": clip }));
        decoded(picture["data"].as_str().unwrap())
    }
}

/// What base64 stands for.
fn decoded(base64: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte: u8| DIGITS.iter().position(|each| *each == byte);
    let digits: Vec<usize> = base64.bytes().map_while(digit).collect();
    let of_group = |group: &[usize]| {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        (0..group.len() - 1).map(move |place| (bits >> (16 - 8 * place)) as u8).collect::<Vec<_>>()
    };
    digits.chunks(4).flat_map(of_group).collect()
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What runs a command without a network. Where this user may make no namespace, the requests of the page are still listed.
fn without_network() -> Command {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"].iter().filter(|_| !nix::unistd::geteuid().is_root()));
        command.arg("--net");
        command
    };
    let is_allowed = unshare().arg("true").status().is_ok_and(|status| status.success());
    if is_allowed { unshare() } else { Command::new("env") }
}

fn found() -> &'static str {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &&str| std::env::split_paths(&paths).any(|folder| folder.join(name).is_file());
    NAMES
        .into_iter()
        .find(has)
        .unwrap_or_else(|| panic!("none of {NAMES:?} in PATH: run `cargo xtask setup`"))
}
