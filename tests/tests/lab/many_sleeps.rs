//! However often a tracer sleeps and wakes up, it keeps nothing of that.
//!
//! The tracer runs in this process, on a clock that jumps over the seconds of quiet before each sleep. What it attaches, and
//! what wakes it up, is real. What it holds is counted by the kernel.

use crate::support::{MIGRATION_PORT, network};
use migtrace::kernel::{AttachChoice, Settings};
use migtrace::tracer::Tracer;
use migtrace_lab::{BareQemu, Host, descriptors, links, map_entries, process_status};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process;
use std::time::Duration;

/// By then everything has happened once.
const FIRST: usize = 4;
const QUIET: Duration = Duration::from_millis(100);
/// How long to wait for an event before looking whether the tracer sleeps; on the clock that jumps.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Within as many looks a tracer falls asleep or wakes up. A falling asleep takes some five seconds.
const LOOKS: usize = 10_000;
/// In a full table, a connection that nobody owns is over when it is older.
const SILENT: Duration = Duration::from_secs(4);
/// By how much this process' memory may grow: what a sleep kept would be there fifty times.
const GROWTH_KIB: u64 = 512;

/// What the kernel keeps for this process, and for migtrace on a host.
#[derive(Debug, Eq, PartialEq)]
struct Held {
    /// By kind: `tcx`, `perf_event`, `raw_tracepoint`.
    links: BTreeMap<String, usize>,
    /// By the map's name.
    map_entries: BTreeMap<String, usize>,
    descriptors: usize,
    /// By interface, and whether they see what comes or what goes.
    filters: BTreeMap<(String, &'static str), usize>,
}

impl Held {
    fn now(host: &Host) -> Self {
        let pid = process::id();
        let mut filters = BTreeMap::new();
        for interface in interfaces(host) {
            for way in ["ingress", "egress"] {
                let listed = host.tool("tc", &["filter", "show", "dev", &interface, way]).unwrap();
                let ours = listed.lines().filter(|line| line.contains("migtrace_")).count();
                filters.insert((interface.clone(), way), ours);
            }
        }
        Self {
            links: links(pid).unwrap(),
            map_entries: map_entries(pid).unwrap(),
            descriptors: descriptors(pid).unwrap(),
            filters,
        }
    }

    /// Its vCPU is known once it leaves KVM.
    fn forget_vcpus(&mut self) {
        for map in ["VCPUS", "VCPU_CLAIMS"] {
            assert!(self.map_entries.insert(map.to_owned(), 0).unwrap() <= 1, "the guest has one vCPU");
        }
    }

    /// At how many places a program is attached.
    fn attached(&self) -> usize {
        self.links.values().sum::<usize>() + self.filters.values().sum::<usize>()
    }
}

fn interfaces(host: &Host) -> Vec<String> {
    let listed = host.tool("ip", &["-brief", "link"]).unwrap();
    let name = |line: &str| line.split(['@', ' ']).next().map(str::to_owned);
    listed.lines().filter_map(name).collect()
}

/// Lets the tracer go on until it sleeps, or is awake.
async fn until(tracer: &mut Tracer, is_asleep: bool) {
    for _ in 0..LOOKS {
        if tracer.is_asleep() == is_asleep {
            return;
        }
        if let Ok(event) = tokio::time::timeout(LOOK_EVERY, tracer.next()).await {
            event.unwrap();
        }
    }
    panic!("it is not {}", if is_asleep { "asleep" } else { "awake" });
}

/// Does what makes a tracer on `host` wake up: here somebody listens, or connects to the other host.
fn disturb(host: &Host, other: &Host, by_listening: bool) {
    let address = |host: &Host| SocketAddr::new(host.ipv4().into(), MIGRATION_PORT);
    if by_listening {
        drop(TcpListener::bind(address(host)).unwrap());
    } else {
        TcpStream::connect(address(other)).unwrap_err();
    }
}

async fn sleep_often(host: &Host, other: &Host, attach: AttachChoice, times: usize) {
    let settings = Settings::default().attach(attach);
    let mut tracer = Tracer::builder().settings(settings).sleep_after(QUIET).start().unwrap();
    assert_eq!(tracer.qemus().count(), 1);
    // All that is compared is after a sleep that has ended in the same way.
    assert!(FIRST.is_multiple_of(2) && times.is_multiple_of(4));
    let mut first = None;
    for number in 1..=times {
        until(&mut tracer, true).await;
        let asleep = [FIRST, times / 2, times].contains(&number).then(|| Held::now(host));
        disturb(host, other, number % 2 == 0);
        until(&mut tracer, false).await;
        let Some(asleep) = asleep else { continue };
        assert_eq!(asleep.map_entries["VCPUS"], 0, "what was known of vCPUs is not true any more");
        let mut awake = Held::now(host);
        awake.forget_vcpus();
        assert!(asleep.attached() < awake.attached(), "{asleep:#?} {awake:#?}");
        let [own_kib, threads] =
            ["RssAnon", "Threads"].map(|field| process_status(process::id(), field).unwrap());
        let Some((first_asleep, first_awake, first_kib, first_threads)) = &first else {
            first = Some((asleep, awake, own_kib, threads));
            continue;
        };
        assert_eq!(&asleep, first_asleep, "asleep for the {number}th time");
        assert_eq!(&awake, first_awake, "awake after the {number}th sleep");
        let grown_kib = own_kib.saturating_sub(*first_kib);
        assert!(grown_kib < GROWTH_KIB, "{grown_kib} KiB more than {first_kib} KiB");
        // A thread that has read a file for tokio ends when it is not needed for a while.
        assert!(threads <= *first_threads, "{threads} threads, and {first_threads} at first");
    }
}

/// Runs something with a tracer in it on the source, on a clock that jumps.
fn with_clock<T>(host: &Host, work: impl AsyncFnOnce() -> T + Send) -> T
where
    T: Send,
{
    host.enter(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(work())
    })
    .unwrap()
}

/// Lets a tracer sleep this often, and checks that it keeps nothing of that, and that nothing is left after its end.
fn assert_nothing_stays(attach: AttachChoice, times: usize) {
    let lab = network();
    let _guest = BareQemu::tiny(lab.source(), "sleeper").unwrap();
    let (host, other) = (lab.source(), lab.destination());
    with_clock(host, async || sleep_often(host, other, attach, times).await);
    let after = Held::now(lab.source());
    assert!(after.attached() == 0 && after.map_entries.is_empty(), "{after:#?}");
}

#[test]
fn many_sleeps_leave_nothing_behind() {
    assert_nothing_stays(AttachChoice::Auto, 52);
}

#[test]
fn sleeps_leave_no_filter_behind() {
    assert_nothing_stays(AttachChoice::Clsact, 8);
}

#[test]
fn a_connection_without_room_in_the_flow_table_keeps_no_tracer_awake() {
    let lab = network();
    let (host, other) = (lab.source(), lab.destination());
    let address = SocketAddr::new(other.ipv4().into(), MIGRATION_PORT);
    let listener = other.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    with_clock(host, async || {
        let settings = Settings::default().flow_capacity(1);
        let mut tracer = Tracer::builder().settings(settings).sleep_after(QUIET).start().unwrap();
        until(&mut tracer, true).await;
        let connections = [(); 3].map(|()| TcpStream::connect(address).unwrap());
        until(&mut tracer, false).await;
        // That resets them: nothing of them stays in the kernel.
        drop((listener, connections));
        // The age of the one that was counted is told by the kernel's clock, which does not jump.
        std::thread::sleep(SILENT);
        until(&mut tracer, true).await;
    });
}
