//! What the development machine's kernel cannot show: kprobes, KVM guests, clsact without TCX, VLANs, tunnels, loss.
//!
//! `cargo xtask vm` boots Debian's kernels and runs these tests there; elsewhere they pass without doing anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use lab::{Host, Lab, Migration, Outcome, Process, Side};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Set inside the VM.
const VM_VARIABLE: &str = "MIGTRACE_VM";
/// The command under test; without, it is the one that cargo has built.
const BINARY_VARIABLE: &str = "MIGTRACE_BIN";
/// An emulated CPU takes its time to load eBPF programs.
const PATIENCE: Duration = Duration::from_secs(120);

const ETHERNET_HEADER: u64 = 14;
const VLAN_TAG: u64 = 4;
/// Outer Ethernet, IPv4 and UDP headers, and that of VXLAN, or of Geneve without options.
const TUNNEL_HEADERS: u64 = 14 + 20 + 8 + 8;

/// Whether this is a test VM; says so when it is not.
fn in_vm() -> bool {
    let inside = std::env::var_os(VM_VARIABLE).is_some();
    if !inside {
        eprintln!("skipped: this test needs a kernel of its own; `cargo xtask vm` runs it");
    }
    inside
}

fn migtrace() -> Command {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/migtrace");
    Command::new(std::env::var_os(BINARY_VARIABLE).map_or_else(built, PathBuf::from))
}

/// TCX links came with Linux 6.6 (commit e420bed02507).
fn has_tcx() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 6)
}

/// A `migtrace record` that runs on a host.
struct Recording {
    process: Process,
    directory: tempfile::TempDir,
    /// What it says on standard error.
    said: mpsc::Receiver<String>,
}

/// What a recording wrote.
struct Recorded {
    events: Vec<Value>,
    record: Option<Value>,
}

impl Recording {
    /// Starts it and waits until everything is attached.
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = migtrace();
        command.arg("record").args(arguments);
        command.arg("--output").arg(directory.path().join("record.json"));
        command.arg("--events").arg(directory.path().join("events.jsonl"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command).unwrap();
        let stderr = process.child().stderr.take().unwrap();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.ends_with("ready")) {
            let line = said.recv_timeout(PATIENCE);
            lines.push(line.unwrap_or_else(|error| panic!("not ready ({error}): {lines:#?}")));
        }
        Self { process, directory, said }
    }

    /// Waits until it has seen the end of a migration.
    fn finish(mut self) -> Recorded {
        let code = self.process.wait(PATIENCE).unwrap().code();
        assert_eq!(code, Some(0), "{:#?}", self.said.iter().collect::<Vec<_>>());
        self.read()
    }

    /// Interrupts it. Without a migration there is no record, but there are the events.
    fn interrupt(mut self) -> Recorded {
        self.process.signal(Signal::SIGINT).unwrap();
        self.process.wait(PATIENCE).unwrap();
        self.read()
    }

    fn read(&self) -> Recorded {
        let path = |name| self.directory.path().join(name);
        let events = fs::read_to_string(path("events.jsonl")).unwrap();
        let events = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let record = fs::read_to_string(path("record.json")).ok();
        Recorded { events, record: record.map(|text| serde_json::from_str(&text).unwrap()) }
    }
}

impl Recorded {
    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }

    /// The last counters of the only flow to or from `port`, checked for what must hold of every flow.
    fn flow(&self, port: u16) -> &Value {
        let is_ours = |event: &&Value| {
            [&event["flow"]["local"], &event["flow"]["remote"]]
                .iter()
                .any(|end| end.as_str().unwrap().ends_with(&format!(":{port}")))
        };
        let seen: Vec<_> = self.of_kind("flow_seen").filter(is_ours).collect();
        assert_eq!(seen.len(), 1, "{:#?}", self.events);
        let last = self.of_kind("flow_counters").filter(is_ours).last().unwrap();
        assert_eq!(last["flow"], seen[0]["flow"]);
        assert_eq!(last["elsewhere_skbs"].as_u64().unwrap_or(0), 0, "{last:#}");
        assert_eq!(last["closed"], true, "{last:#}");
        last
    }

    /// The interface at which that flow was counted.
    fn interface(&self, port: u16) -> &Value {
        let flow = &self.flow(port)["flow"];
        &self.of_kind("flow_seen").find(|event| event["flow"] == *flow).unwrap()["interface"]
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Packets and their bytes from IP on, as the kernel's packet filter counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Truth {
    packets: u64,
    ip_bytes: u64,
}

impl Truth {
    /// What these packets cost on the wire with `headers` bytes in front of each.
    fn assert_is(self, counted: &Value, headers: u64) {
        let counted = (number(&counted["segments"]), number(&counted["wire_bytes"]));
        assert_eq!(counted, (self.packets, self.ip_bytes + self.packets * headers));
    }
}

/// Counts, independently of eBPF, the real frames of the connections to a port, where they pass a host.
struct Counter {
    host: Host,
    family: &'static str,
}

impl Counter {
    /// At the host that the connections end at.
    fn at_receiver(host: &Host, ports: &[u16]) -> Self {
        Self::install(host, "inet", ["input", "output"], ports)
    }

    /// At a switch that the connections pass.
    fn at_switch(host: &Host, ports: &[u16]) -> Self {
        Self::install(host, "bridge", ["forward", "forward"], ports)
    }

    fn install(host: &Host, family: &'static str, hooks: [&str; 2], ports: &[u16]) -> Self {
        let mut rules = format!("add table {family} truth\n");
        for ((chain, hook), side) in ["to", "from"].iter().zip(hooks).zip(["dport", "sport"]) {
            rules += &format!("add chain {family} truth {chain} {{ type filter hook {hook} priority 0; }}\n");
            for port in ports {
                rules += &format!("add rule {family} truth {chain} tcp {side} {port} counter\n");
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), rules).unwrap();
        host.tool("nft", &["-f", file.path().to_str().unwrap()]).unwrap();
        Self { host: host.clone(), family }
    }

    /// What went to `port`, and what came back from it.
    fn read(&self, port: u16) -> [Truth; 2] {
        [("to", "dport"), ("from", "sport")].map(|(chain, side)| {
            let rules = self.host.tool("nft", &["list", "chain", self.family, "truth", chain]).unwrap();
            let rule = rules.lines().find(|line| line.contains(&format!("{side} {port} ")));
            let rule = rule.unwrap_or_else(|| panic!("no rule of {port}: {rules}"));
            let mut numbers = rule.split_whitespace().filter_map(|word| word.parse().ok()).skip(1);
            Truth { packets: numbers.next().unwrap(), ip_bytes: numbers.next().unwrap() }
        })
    }
}

/// A cable of its own between the lab's two hosts, `wire0` at both ends.
///
/// TCP may hand down segments larger than the MTU; they are cut at the cable, so that the frames that arrive are real.
struct Cable<'a> {
    source: &'a Host,
    destination: &'a Host,
}

impl<'a> Cable<'a> {
    const NAME: &'static str = "wire0";

    fn lay(lab: &'a Lab) -> Self {
        let cable = Self { source: lab.source(), destination: lab.destination() };
        let netns = cable.destination.netns().name();
        cable
            .source
            .tool(
                "ip",
                &["link", "add", Self::NAME, "type", "veth", "peer", "name", Self::NAME, "netns", netns],
            )
            .unwrap();
        for (host, address) in cable.ends("192.0.2") {
            host.set_offloads(Self::NAME, &["tso", "gso", "gro"], false).unwrap();
            Self::address(host, Self::NAME, &address);
        }
        cable
    }

    /// A device of `kind` on both ends of the cable, with an address in `network`.
    fn device(&self, name: &str, kind: &[&str], network: &str) {
        for (host, address) in self.ends(network) {
            let other = if host.role() == self.source.role() { "192.0.2.2" } else { "192.0.2.1" };
            let kind: Vec<&str> =
                kind.iter().map(|word| if *word == "OTHER" { other } else { word }).collect();
            host.tool("ip", &[&["link", "add"], &kind[..]].concat()).unwrap();
            Self::address(host, name, &address);
        }
        self.destination.set_offloads(name, &["gro"], false).unwrap();
    }

    fn ends(&self, network: &str) -> [(&'a Host, String); 2] {
        [(self.source, format!("{network}.1/24")), (self.destination, format!("{network}.2/24"))]
    }

    fn address(host: &Host, device: &str, address: &str) {
        host.tool("ip", &["address", "add", address, "dev", device]).unwrap();
        host.tool("ip", &["link", "set", device, "up"]).unwrap();
    }
}

fn without_guests() -> Lab {
    Lab::builder().without_guests().start().unwrap()
}

/// Sends `bytes` over one TCP connection to `address`; both ends are closed when it returns.
fn send(source: &Host, destination: &Host, address: IpAddr, port: u16, bytes: usize) {
    let to = SocketAddr::new(address, port);
    let listener = destination.enter(|| TcpListener::bind(to)).unwrap().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let mut stream = source.enter(|| TcpStream::connect(to)).unwrap().unwrap();
    let chunk = vec![0x55; 1 << 16];
    for at in (0..bytes).step_by(chunk.len()) {
        stream.write_all(&chunk[..chunk.len().min(bytes - at)]).unwrap();
    }
    drop(stream);
    assert_eq!(receiver.join().unwrap(), bytes as u64);
    // The last acknowledgements are on their way.
    std::thread::sleep(Duration::from_millis(500));
}

fn payload_without_retransmissions(flow: &Value) -> u64 {
    number(&flow["counters"]["tx"]["payload_bytes"]) - number(&flow["retransmitted_payload_bytes"])
}

#[test]
fn doctor_finds_every_probe_at_its_best_hook() {
    if !in_vm() {
        return;
    }
    let output = migtrace().args(["doctor", "--format", "json"]).output().unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let probe = |name: &str| {
        let probes = findings["probes"].as_array().unwrap();
        probes.iter().find(|probe| probe["name"] == name).unwrap_or_else(|| panic!("no {name}: {findings:#}"))
    };
    for (name, hook) in [
        ("qmp", "kprobe:__sys_sendmsg"),
        ("socket", "kretprobe:__sys_accept4"),
        ("retransmit", "raw_tracepoint:tcp_retransmit_skb"),
        ("exec", "raw_tracepoint:sched_process_exec"),
        ("exit", "raw_tracepoint:sched_process_exit"),
    ] {
        let found = json!([probe(name)["status"], probe(name)["hook"]]);
        assert_eq!(found, json!(["ok", hook]), "{findings:#}");
    }
    let (hook, status, code) = if has_tcx() { ("tcx", "ok", 0) } else { ("clsact", "fallback", 1) };
    assert_eq!(
        json!([probe("wire")["status"], probe("wire")["hook"]]),
        json!([status, hook]),
        "{findings:#}"
    );
    assert_eq!(findings["lacking"], json!([]));
    assert_eq!(output.status.code(), Some(code));
}

#[test]
fn a_migration_of_a_kvm_guest_is_traced_on_both_hosts() {
    if !in_vm() {
        return;
    }
    const PORT: u16 = 49152;
    let builder = Lab::builder().accelerator("kvm").memory_mib(128).dirty(24, 8);
    let mut lab = builder.sender_offloads(false).receiver_gro(false).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let migration = Migration { ram_port: PORT, ..Migration::like_libvirt() };
    lab.prepare(&migration).unwrap();
    let truth = Counter::at_switch(lab.switch(), &[PORT]);
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]));
    let migrated = lab.migrate(&migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
    lab.ping_guest().unwrap();
    let [source, destination] = recordings.map(Recording::finish);

    let [there, back] = truth.read(PORT);
    for (recorded, side) in [(&source, Side::Source), (&destination, Side::Destination)] {
        let record = recorded.record.as_ref().unwrap();
        assert_eq!(record["migration"]["outcome"], "completed", "{record:#}");
        assert_eq!(record["vm"]["name"], lab.guest().name.as_str());
        assert_eq!(record["qemu"]["accelerator"], "kvm");
        assert_eq!(record["lost"], json!({ "ring_buffer": 0, "flows": 0, "probes": 0 }));

        let mut owners = recorded.of_kind("flow_owner");
        let owner = owners.next().unwrap_or_else(|| panic!("no owner: {:#?}", recorded.events));
        assert_eq!(owner["method"], "socket", "{side:?}: {owner}");
        assert!(owners.next().is_none());
        let qmp: Vec<&Value> = recorded.of_kind("qmp").collect();
        assert!(qmp.iter().all(|event| event["counters"].is_object()), "{qmp:#?}");
        let states: Vec<&str> = qmp.iter().filter_map(|event| event["data"]["status"].as_str()).collect();
        assert_eq!(states, migrated.states(side), "{side:?}");

        // On either host tx is from the source to the destination.
        let total = &record["traffic"]["total"];
        there.assert_is(&total["tx"], ETHERNET_HEADER);
        back.assert_is(&total["rx"], ETHERNET_HEADER);
        let phases = record["phases"].as_array().unwrap();
        for (direction, counter) in [("tx", "wire_bytes"), ("tx", "payload_bytes"), ("rx", "wire_bytes")] {
            let sum: u64 = phases.iter().map(|phase| number(&phase["traffic"][direction][counter])).sum();
            assert_eq!(sum, number(&total[direction][counter]), "{side:?} {direction} {counter}: {record:#}");
        }
    }

    let record = source.record.as_ref().unwrap();
    let names: Vec<&str> =
        record["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    let mut distinct = names.clone();
    distinct.dedup();
    assert_eq!(distinct, ["setup", "active", "stop", "pre-switchover", "device"], "{record:#}");
    let qemu_claims = number(&migrated.source["ram"]["transferred"]);
    let payload = number(&record["traffic"]["total"]["tx"]["payload_bytes"]);
    assert!(payload >= qemu_claims, "{payload} < {qemu_claims}");
}

#[test]
fn what_a_vlan_carries_is_counted_once_and_with_its_tag_below_it() {
    if !in_vm() {
        return;
    }
    const PORT: u16 = 49160;
    const BYTES: usize = 8 << 20;
    let lab = without_guests();
    let cable = Cable::lay(&lab);
    let vlan = "wire0.100";
    cable.device(vlan, &["link", Cable::NAME, "name", vlan, "type", "vlan", "id", "100"], "198.51.100");
    let truth = Counter::at_receiver(lab.destination(), &[PORT]);
    let above = Recording::start(lab.source(), &[]);
    let below = Recording::start(lab.destination(), &["--interface", Cable::NAME]);
    send(lab.source(), lab.destination(), Ipv4Addr::new(198, 51, 100, 2).into(), PORT, BYTES);
    let (above, below) = (above.interrupt(), below.interrupt());
    let [there, back] = truth.read(PORT);

    // Both the VLAN and what carries it have an address, so both are counted at.
    let counted_at = above.events[0]["interfaces"].as_array().unwrap();
    for name in [Cable::NAME, vlan] {
        assert!(counted_at.iter().any(|interface| interface["name"] == name), "{counted_at:?}");
    }
    assert_eq!(above.interface(PORT), vlan);
    let flow = above.flow(PORT);
    there.assert_is(&flow["counters"]["tx"], ETHERNET_HEADER);
    back.assert_is(&flow["counters"]["rx"], ETHERNET_HEADER);
    assert_eq!(payload_without_retransmissions(flow), BYTES as u64);

    assert_eq!(below.interface(PORT), Cable::NAME);
    let flow = below.flow(PORT);
    there.assert_is(&flow["counters"]["rx"], ETHERNET_HEADER + VLAN_TAG);
    back.assert_is(&flow["counters"]["tx"], ETHERNET_HEADER + VLAN_TAG);
}

#[test]
fn a_tunnel_is_counted_below_with_all_its_headers() {
    if !in_vm() {
        return;
    }
    const VXLAN_PORT: u16 = 49161;
    const GENEVE_PORT: u16 = 49162;
    const BYTES: usize = 4 << 20;
    let lab = without_guests();
    let cable = Cable::lay(&lab);
    let vxlan =
        ["name", "vx0", "type", "vxlan", "id", "7", "remote", "OTHER", "dstport", "4789", "dev", Cable::NAME];
    cable.device("vx0", &vxlan, "198.51.100");
    cable.device("gn0", &["name", "gn0", "type", "geneve", "id", "7", "remote", "OTHER"], "203.0.113");
    let truth = Counter::at_receiver(lab.destination(), &[VXLAN_PORT, GENEVE_PORT]);
    let arguments = ["--interface", Cable::NAME, "--decapsulate", "vxlan,geneve"];
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &arguments));
    let tunnels =
        [(VXLAN_PORT, Ipv4Addr::new(198, 51, 100, 2)), (GENEVE_PORT, Ipv4Addr::new(203, 0, 113, 2))];
    for (port, address) in tunnels {
        send(lab.source(), lab.destination(), address.into(), port, BYTES);
    }
    let [source, destination] = recordings.map(Recording::interrupt);
    for (port, _) in tunnels {
        let [there, back] = truth.read(port);
        let sent = source.flow(port);
        there.assert_is(&sent["counters"]["tx"], ETHERNET_HEADER + TUNNEL_HEADERS);
        back.assert_is(&sent["counters"]["rx"], ETHERNET_HEADER + TUNNEL_HEADERS);
        assert_eq!(payload_without_retransmissions(sent), BYTES as u64);
        let received = destination.flow(port);
        there.assert_is(&received["counters"]["rx"], ETHERNET_HEADER + TUNNEL_HEADERS);
        back.assert_is(&received["counters"]["tx"], ETHERNET_HEADER + TUNNEL_HEADERS);
    }
}

#[test]
fn what_is_sent_again_after_a_loss_is_told_apart_to_the_byte() {
    if !in_vm() {
        return;
    }
    const PORT: u16 = 49163;
    const BYTES: usize = 4 << 20;
    let lab = without_guests();
    let cable = Cable::lay(&lab);
    lab.source().tool("tc", &["qdisc", "add", "dev", Cable::NAME, "root", "netem", "loss", "2%"]).unwrap();
    let before = lab.source().enter(retransmitted_segments).unwrap();
    let recording = Recording::start(lab.source(), &["--interface", Cable::NAME]);
    send(cable.source, cable.destination, Ipv4Addr::new(192, 0, 2, 2).into(), PORT, BYTES);
    let recorded = recording.interrupt();
    let kernel_claims = lab.source().enter(retransmitted_segments).unwrap() - before;
    let flow = recorded.flow(PORT);
    assert!(kernel_claims > 0);
    assert_eq!(number(&flow["retransmitted_segments"]), kernel_claims);
    assert_eq!(payload_without_retransmissions(flow), BYTES as u64);
}

/// The kernel's RetransSegs of the calling thread's network namespace.
fn retransmitted_segments() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next().unwrap().split_whitespace();
    let values = lines.next().unwrap().split_whitespace();
    names.zip(values).find(|(name, _)| *name == "RetransSegs").unwrap().1.parse().unwrap()
}

#[test]
fn what_a_killed_run_leaves_is_removed_and_nothing_else() {
    if !in_vm() {
        return;
    }
    const PORT: u16 = 49164;
    const BYTES: usize = 1 << 20;
    let lab = without_guests();
    let host = lab.source();
    host.tool("tc", &["qdisc", "add", "dev", Host::BRIDGE, "clsact"]).unwrap();
    for side in ["ingress", "egress"] {
        let foreign = ["filter", "add", "dev", Host::BRIDGE, side, "prio", "7", "matchall", "action", "pass"];
        host.tool("tc", &foreign).unwrap();
    }
    let filters = |side: &str| host.tool("tc", &["filter", "show", "dev", Host::BRIDGE, side]).unwrap();
    let ours = |side: &str| filters(side).matches("migtrace_").count();
    let arguments = ["--interface", Host::BRIDGE, "--attach", "clsact"];
    let count_a_transfer = |recording: Recording| {
        send(host, lab.destination(), lab.destination().ipv4().into(), PORT, BYTES);
        assert_eq!(payload_without_retransmissions(recording.interrupt().flow(PORT)), BYTES as u64);
    };

    Recording::start(host, &arguments).process.signal(Signal::SIGKILL).unwrap();
    assert_eq!((ours("ingress"), ours("egress")), (1, 1), "{}{}", filters("ingress"), filters("egress"));
    let output = host.run(migtrace().arg("cleanup")).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    for filter in ["migtrace_ingress", "migtrace_egress"] {
        assert!(text.contains(&format!("removed the filter {filter} from {}", Host::BRIDGE)), "{text}");
    }
    assert_eq!((ours("ingress"), ours("egress")), (0, 0));
    for side in ["ingress", "egress"] {
        assert!(filters(side).contains("matchall"), "{}", filters(side));
    }
    count_a_transfer(Recording::start(host, &arguments));

    // Without a clean-up, the next run replaces what the killed one left: no packet is counted twice.
    Recording::start(host, &arguments).process.signal(Signal::SIGKILL).unwrap();
    count_a_transfer(Recording::start(host, &arguments));
    assert_eq!((ours("ingress"), ours("egress")), (0, 0), "{}{}", filters("ingress"), filters("egress"));
}
