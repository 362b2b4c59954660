//! What the development machine's kernel cannot show: kprobes, KVM guests, clsact without TCX, VLANs, tunnels, loss.
//!
//! `cargo xtask vm` boots Debian's kernels and runs these tests there; elsewhere they pass without doing anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

mod pauses;
mod talking;
mod vantage;

use lab::consistency::{assert_replays, phase_names};
use lab::tracing::{self, Recorded, Recording};
use lab::{Host, Lab, Migrated, Migration, Outcome, Side};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Set inside the VM.
const VM_VARIABLE: &str = "MIGTRACE_VM";
/// From the end of what is recorded to the end of the recording.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// TCX links came with Linux 6.6 (commit e420bed02507).
fn has_tcx() -> bool {
    release() >= (6, 6)
}

fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// What `migtrace doctor` says of this kernel.
struct Doctor {
    findings: Value,
    code: Option<i32>,
}

impl Doctor {
    fn ask() -> Self {
        let output = tracing::command(&["doctor", "--format", "json"]).unwrap().output().unwrap();
        Self { findings: serde_json::from_slice(&output.stdout).unwrap(), code: output.status.code() }
    }

    fn instrument(&self, name: &str) -> &Value {
        let instruments = self.findings["instruments"].as_array().unwrap();
        let instrument = instruments.iter().find(|instrument| instrument["name"] == name);
        instrument.unwrap_or_else(|| panic!("no {name}: {:#}", self.findings))
    }

    /// Whether this instrument loses nothing here. If it does, checks that a record says so in the words of `doctor`.
    fn has_all_of(&self, name: &str, record: &Value) -> bool {
        let instrument = self.instrument(name);
        let Some(lost) = instrument["lost"].as_str() else { return true };
        let listed = record["not_measured"].as_array().unwrap();
        let says = |entry: &Value| {
            entry["what"] == instrument["observes"] && entry["why"].as_str().unwrap().starts_with(lost)
        };
        assert!(listed.iter().any(says), "{instrument:#} {listed:#?}");
        false
    }
}

/// Interrupts a recording. Without a QEMU there is no migration, so no record, but there are the events.
fn interrupt(recording: Recording) -> Facts {
    recording.signal(Signal::SIGINT).unwrap();
    Facts::of(&recording.finish(PATIENCE).unwrap())
}

/// Ends a recording so that it cannot clean up.
fn kill(recording: Recording) {
    recording.signal(Signal::SIGKILL).unwrap();
    assert_eq!(recording.finish(PATIENCE).unwrap().code, None);
}

/// The events that a recording wrote.
struct Facts(Vec<Value>);

impl Facts {
    fn of(recorded: &Recorded) -> Self {
        Self(recorded.events().unwrap())
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |event| event["event"] == kind)
    }

    /// What was said first of the only flow to or from `port`.
    fn flow_seen(&self, port: u16) -> &Value {
        let end = format!(":{port}");
        let is_end = |address: &Value| address.as_str().unwrap().ends_with(&end);
        let mut seen = self
            .of_kind("flow_seen")
            .filter(|event| is_end(&event["flow"]["local"]) || is_end(&event["flow"]["remote"]));
        let first = seen.next().unwrap_or_else(|| panic!("no flow of port {port}: {:#?}", self.0));
        assert!(seen.next().is_none(), "two flows of port {port}: {:#?}", self.0);
        first
    }

    /// The last counters of the only flow to or from `port`, all counted at one interface and to its end.
    fn flow(&self, port: u16) -> &Value {
        let flow = &self.flow_seen(port)["flow"];
        let last = self.of_kind("flow_counters").filter(|event| event["flow"] == *flow).last().unwrap();
        assert_eq!(last["elsewhere_skbs"].as_u64().unwrap_or(0), 0, "{last:#}");
        assert_eq!(last["closed"], true, "{last:#}");
        last
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

/// Counts, independently of eBPF, the frames of the connections to some ports at the host that they end at.
struct Counter(Host);

impl Counter {
    fn start(host: &Host, ports: &[u16]) -> Self {
        let mut rules = String::from("add table inet truth\n");
        for (chain, hook, side) in Self::CHAINS {
            rules += &format!("add chain inet truth {chain} {{ type filter hook {hook} priority 0; }}\n");
            for port in ports {
                rules += &format!("add rule inet truth {chain} tcp {side} {port} counter\n");
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), rules).unwrap();
        host.tool("nft", &["-f", file.path().to_str().unwrap()]).unwrap();
        Self(host.clone())
    }

    const CHAINS: [(&str, &str, &str); 2] = [("there", "input", "dport"), ("back", "output", "sport")];

    /// What went to `port`, and what came back from it.
    fn read(&self, port: u16) -> [Truth; 2] {
        Self::CHAINS.map(|(chain, _, side)| {
            let rules = self.0.tool("nft", &["list", "chain", "inet", "truth", chain]).unwrap();
            let wanted = format!("{side} {port} counter packets ");
            let rule = rules.lines().find_map(|line| line.trim().strip_prefix("tcp ")?.strip_prefix(&wanted));
            let rule = rule.unwrap_or_else(|| panic!("no rule of {port}: {rules}"));
            let (packets, ip_bytes) = rule.split_once(" bytes ").unwrap();
            Truth { packets: packets.parse().unwrap(), ip_bytes: ip_bytes.trim().parse().unwrap() }
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
    let doctor = Doctor::ask();
    for (name, status, hook) in [
        ("qmp", "ok", "kprobe:__sys_sendmsg"),
        ("socket", "ok", "kretprobe:__sys_accept4"),
        ("retransmit", "ok", "raw_tracepoint:tcp_retransmit_skb"),
        ("vcpu-exit", "ok", "tracepoint:kvm:kvm_userspace_exit"),
        ("vcpu-run", "ok", "kprobe:kvm_vcpu_ioctl"),
        ("dirty-log", "ok", "kprobe:kvm_vm_ioctl"),
        ("exec", "ok", "raw_tracepoint:sched_process_exec"),
        ("fork", "ok", "raw_tracepoint:sched_process_fork"),
        ("exit", "ok", "raw_tracepoint:sched_process_exit"),
        if has_tcx() { ("wire", "ok", "tcx") } else { ("wire", "fallback", "clsact") },
    ] {
        let hook = if status == "missing" { Value::Null } else { hook.into() };
        let instrument = doctor.instrument(name);
        assert_eq!(
            json!([instrument["status"], instrument["hook"]]),
            json!([status, hook]),
            "{instrument:#}"
        );
        // A fallback that loses nothing says what is worse about it.
        assert!(status == "ok" || !instrument["why"].is_null(), "{instrument:#}");
        assert!(status != "missing" || !instrument["lost"].is_null(), "{instrument:#}");
    }
    assert_eq!(doctor.findings["lacking"], json!([]));
    assert_eq!(doctor.code, Some(if has_tcx() { 0 } else { 5 }));
}

#[test]
fn each_stop_of_a_kvm_guest_lies_between_the_stamps_of_its_driver() {
    if !in_vm() {
        return;
    }
    let lab = without_guests();
    let mut guest = pauses::guest(lab.source(), 2);
    if Doctor::ask().instrument("vcpu-run")["lost"].is_null() {
        pauses::check_precision(lab.source(), &mut guest, 2);
    } else {
        pauses::check_silence(lab.source(), &mut guest);
    }
}

/// QEMU announces one more pass, the last, when the guest has stopped: that is no phase of its own.
fn passes_while_running(migrated: &Migrated) -> usize {
    let at_source = migrated.events.iter().filter(|observed| observed.side == Side::Source);
    let running = at_source.take_while(|observed| observed.event.name != "STOP");
    running.filter(|observed| observed.event.name == "MIGRATION_PASS").count()
}

#[test]
fn a_migration_of_a_kvm_guest_is_traced_on_both_hosts() {
    if !in_vm() {
        return;
    }
    const PORT: u16 = 49152;
    let builder = Lab::builder().accelerator("kvm").memory_mib(128).dirty(4, 1);
    let mut lab = builder.sender_offloads(false).receiver_gro(false).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let migration = Migration { ram_port: PORT, downtime_limit_ms: 1000, ..Migration::like_libvirt() };
    lab.prepare(&migration).unwrap();
    let truth = Counter::start(lab.destination(), &[PORT]);
    let doctor = Doctor::ask();
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    let migrated = lab.migrate(&migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
    lab.ping_guest().unwrap();
    let recorded = recordings.map(|recording| recording.finish(PATIENCE).unwrap());

    let [there, back] = truth.read(PORT);
    for (recorded, side) in recorded.iter().zip([Side::Source, Side::Destination]) {
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        // Its phases' bytes add up to the total.
        let record = assert_replays(recorded);
        assert_eq!(record["migration"]["outcome"], "completed", "{record:#}");
        assert_eq!(record["vm"]["name"], lab.guest().name.as_str());
        assert_eq!(record["qemu"]["accelerator"], "kvm");

        let facts = Facts::of(recorded);
        let owners: Vec<&Value> = facts.of_kind("flow_owner").collect();
        assert_eq!(owners.len(), 1, "{owners:#?}");
        let after_ns = number(&owners[0]["at_ns"]) - number(&facts.flow_seen(PORT)["at_ns"]);
        // The probe needs a first byte; who takes longer to send it than this is found by sock_diag.
        let is_late = side == Side::Source && after_ns > 50_000_000;
        assert!(owners[0]["method"] == "socket" || is_late, "{side:?}: {owners:#?} {after_ns}");
        let summed = doctor.has_all_of("qmp", &record);
        let phases = record["phases"].as_array().unwrap();
        assert!(
            phases.iter().all(|phase| phase["traffic"].is_object() == summed),
            "{side:?}: {record:#} {owners:#?}"
        );
        let qmp: Vec<&Value> = facts.of_kind("qmp").collect();
        assert!(qmp.iter().all(|event| event["counters"].is_object() == summed), "{qmp:#?}");
        let states: Vec<&str> = qmp.iter().filter_map(|event| event["data"]["status"].as_str()).collect();
        // That the destination listens it said before it was recorded.
        let told = migrated.states(side);
        let told = if side == Side::Source { &told[..] } else { &told[1..] };
        assert_eq!(states, told, "{side:?}");

        // On either host tx is from the source to the destination.
        there.assert_is(&record["traffic"]["total"]["tx"], ETHERNET_HEADER);
        back.assert_is(&record["traffic"]["total"]["rx"], ETHERNET_HEADER);
    }

    let record = recorded[0].record().unwrap();
    let mut phases = phase_names(&record);
    let passes = phases.iter().filter(|name| name.starts_with("active ")).count();
    assert_eq!(passes, passes_while_running(&migrated), "{phases:?}");
    phases.retain(|name| !name.starts_with("active "));
    assert_eq!(phases, ["setup", "stop", "pre-switchover", "device", "completed"]);
    let qemu_claims = number(&migrated.source["ram"]["transferred"]);
    let payload = number(&record["traffic"]["total"]["tx"]["payload_bytes"]);
    assert!(payload >= qemu_claims, "{payload} < {qemu_claims}");
}

#[test]
fn the_downtime_of_a_kvm_guest_is_seen_from_four_places() {
    if !in_vm() {
        return;
    }
    let mut lab = Lab::builder().accelerator("kvm").memory_mib(128).dirty(4, 1).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let migration = Migration { downtime_limit_ms: 1000, ..Migration::like_libvirt() };
    // A guest in an emulated KVM has no time to answer more often.
    let seen = vantage::migrate(&mut lab, &migration, "100ms");
    let marks = seen.anatomy.stop_marks;
    if !Doctor::ask().has_all_of("vcpu-run", &seen.source) {
        // QEMU's events stand in.
        assert_eq!(marks, ("stop".to_owned(), "resume".to_owned()));
        return;
    }
    assert_eq!(marks, ("all-vcpus-stopped".to_owned(), "first-vcpu-run".to_owned()));
    assert!(seen.source_marks.iter().any(|name| name == "first-vcpu-stopped"), "{:?}", seen.source_marks);
    assert!(
        seen.destination_marks.iter().any(|name| name == "first-announcement"),
        "{:?}",
        seen.destination_marks
    );
    let stop = &seen.source["downtime"]["stop"];
    assert_eq!(stop["method"], "vcpus-to-first-reply", "{stop:#}");
}

#[test]
fn the_rounds_of_a_migration_without_events_are_known_from_the_log_of_dirtied_pages() {
    if !in_vm() {
        return;
    }
    let mut lab = Lab::builder().accelerator("kvm").memory_mib(128).dirty(4, 1).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let migration = Migration { events: false, downtime_limit_ms: 1000, ..Migration::default() };
    let recording = Recording::start(lab.source(), &[]).unwrap();
    let migrated = lab.migrate(&migration).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    let record = assert_replays(&recorded);
    let phases = record["phases"].as_array().unwrap();
    let passes: Vec<u64> = phases.iter().filter_map(|phase| phase["pass"].as_u64()).collect();
    // The last round begins when the guest has stopped.
    let rounds = number(&migrated.source["ram"]["dirty-sync-count"]) - 1;
    let rounds = if Doctor::ask().has_all_of("dirty-log", &record) { rounds } else { 0 };
    assert_eq!(passes, (1..=rounds).collect::<Vec<_>>(), "{phases:#?}");
    assert_eq!(phases.last().unwrap()["name"], "stop", "{phases:#?}");
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
    let truth = Counter::start(lab.destination(), &[PORT]);
    let above = Recording::start(lab.source(), &[]).unwrap();
    let below = Recording::start(lab.destination(), &["--interface", Cable::NAME]).unwrap();
    send(lab.source(), lab.destination(), Ipv4Addr::new(198, 51, 100, 2).into(), PORT, BYTES);
    let (above, below) = (interrupt(above), interrupt(below));
    let [there, back] = truth.read(PORT);

    // Both the VLAN and what carries it have an address, so both are counted at.
    let counted_at = above.0[0]["interfaces"].as_array().unwrap();
    for name in [Cable::NAME, vlan] {
        assert!(counted_at.iter().any(|interface| interface["name"] == name), "{counted_at:?}");
    }
    assert_eq!(above.flow_seen(PORT)["interface"], vlan);
    let flow = above.flow(PORT);
    there.assert_is(&flow["counters"]["tx"], ETHERNET_HEADER + VLAN_TAG);
    back.assert_is(&flow["counters"]["rx"], ETHERNET_HEADER + VLAN_TAG);
    assert_eq!(payload_without_retransmissions(flow), BYTES as u64);

    assert_eq!(below.flow_seen(PORT)["interface"], Cable::NAME);
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
    let truth = Counter::start(lab.destination(), &[VXLAN_PORT, GENEVE_PORT]);
    let arguments = ["--interface", Cable::NAME, "--decapsulate", "vxlan,geneve"];
    let recordings =
        [lab.source(), lab.destination()].map(|host| Recording::start(host, &arguments).unwrap());
    let tunnels =
        [(VXLAN_PORT, Ipv4Addr::new(198, 51, 100, 2)), (GENEVE_PORT, Ipv4Addr::new(203, 0, 113, 2))];
    for (port, address) in tunnels {
        send(lab.source(), lab.destination(), address.into(), port, BYTES);
    }
    let [source, destination] = recordings.map(interrupt);
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
    // The source's uplink cuts what TCP hands down, so that real frames reach the switch, which loses some of them.
    let lab = Lab::builder().without_guests().sender_offloads(false).start().unwrap();
    let port = lab.destination().role();
    lab.switch().tool("tc", &["qdisc", "add", "dev", port, "root", "netem", "loss", "2%"]).unwrap();
    let before = lab.source().retransmitted_segments().unwrap();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    send(lab.source(), lab.destination(), lab.destination().ipv4().into(), PORT, BYTES);
    let facts = interrupt(recording);
    let kernel_claims = lab.source().retransmitted_segments().unwrap() - before;
    let flow = facts.flow(PORT);
    assert!(kernel_claims > 0);
    assert_eq!(number(&flow["retransmitted_segments"]), kernel_claims);
    assert_eq!(payload_without_retransmissions(flow), BYTES as u64);
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
    let ours = |side: &str| filters(side).lines().filter(|line| line.contains("migtrace_")).count();
    let arguments = ["--interface", Host::BRIDGE, "--attach", "clsact"];
    let count_a_transfer = |recording: Recording| {
        send(host, lab.destination(), lab.destination().ipv4().into(), PORT, BYTES);
        let facts = interrupt(recording);
        assert_eq!(payload_without_retransmissions(facts.flow(PORT)), BYTES as u64);
    };

    kill(Recording::start(host, &arguments).unwrap());
    assert_eq!((ours("ingress"), ours("egress")), (1, 1), "{}{}", filters("ingress"), filters("egress"));
    let said = tracing::run(host, &["cleanup"]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    for filter in ["migtrace_ingress", "migtrace_egress"] {
        assert!(said.stdout.contains(&format!("removed the filter {filter}@")), "{said:?}");
    }
    assert_eq!((ours("ingress"), ours("egress")), (0, 0));
    for side in ["ingress", "egress"] {
        assert!(filters(side).contains("matchall"), "{}", filters(side));
    }
    count_a_transfer(Recording::start(host, &arguments).unwrap());

    // Without a clean-up, the next run replaces what the killed one left: no packet is counted twice.
    kill(Recording::start(host, &arguments).unwrap());
    count_a_transfer(Recording::start(host, &arguments).unwrap());
    assert_eq!((ours("ingress"), ours("egress")), (0, 0), "{}{}", filters("ingress"), filters("egress"));

    // What a living one has stays, and comes back when somebody removes it.
    let living = Recording::start(host, &arguments).unwrap();
    kill(Recording::start(host, &arguments).unwrap());
    assert_eq!((ours("ingress"), ours("egress")), (2, 2));
    assert_eq!(tracing::run(host, &["cleanup"]).unwrap().code, Some(0));
    assert_eq!((ours("ingress"), ours("egress")), (1, 1));
    host.tool("tc", &["qdisc", "del", "dev", Host::BRIDGE, "clsact"]).unwrap();
    living.wait_for_event("tc_removed", PATIENCE).unwrap();
    // A look in the midst of the removal brings one filter back, and the next look the other.
    let both = || (ours("ingress"), ours("egress"));
    let deadline = Instant::now() + PATIENCE;
    while both() != (1, 1) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(both(), (1, 1));
    count_a_transfer(living);
    assert_eq!((ours("ingress"), ours("egress")), (0, 0));
}

#[test]
fn every_shape_of_an_event_is_read() {
    if in_vm() {
        let lab = without_guests();
        talking::every_shape_of_an_event_is_read(lab.source());
    }
}

#[test]
fn a_flood_of_events_is_counted_and_leaves_room_for_the_others() {
    if in_vm() {
        let lab = without_guests();
        talking::a_flood_is_counted_and_leaves_room_for_the_others(lab.source(), 20_000);
    }
}

#[test]
fn events_on_a_connection_of_a_migration_are_none() {
    if in_vm() {
        let lab = without_guests();
        talking::events_on_a_connection_of_a_migration_are_none(lab.source());
    }
}

#[test]
fn lines_of_events_push_no_other_messages_out() {
    if in_vm() {
        talking::lines_push_no_other_messages_out(&without_guests());
    }
}
