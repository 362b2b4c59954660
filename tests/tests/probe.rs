//! `migtrace probe` against a guest whose silences are known exactly.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use lab::tracing::{Said, command, run};
use lab::{Host, Lab, Planned, Process, Responder, Silence, Truth, Witness};
use migtrace::probe::{End, Report, SCHEMA};
use migtrace::record::Gap;
use nix::sys::signal::Signal;
use std::fmt::{self, Display, Formatter};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const INTERVAL_NS: u64 = 1_000_000;
/// What the bounds may be wider than two intervals and the round trip.
const SLACK_NS: u64 = 200_000;

const OUTAGES: u32 = 60;
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(2);

/// For how long before a silence its bounds are learnt: 128 round trips, and some that were left out.
const LEARNT_NS: u64 = 150 * INTERVAL_NS;
/// Right after a standstill of the machine, a silence shorter than this cannot be told from another one.
const DROWNED_NS: u64 = 15 * INTERVAL_NS;

const PATIENCE: Duration = Duration::from_secs(20);

/// Two real-time threads take turns on two CPUs: one at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn network() -> Lab {
    Lab::builder().without_guests().start().unwrap()
}

/// A `migtrace probe` at work.
struct Probing {
    process: Process,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Probing {
    /// Starts one, and waits until it watches.
    fn start(host: &Host, target: IpAddr, arguments: &[&str]) -> Self {
        let mut command = command(&["probe", &target.to_string(), "--format", "json"]).unwrap();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command).unwrap();
        let mut stderr = BufReader::new(process.child().stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("ready: ") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended before it was ready: {said}");
        }
        Self { process, stderr }
    }

    /// Waits for its end.
    fn end(self) -> (Option<i32>, Report) {
        // Its pipe must stay open: it may still have something to say.
        let Self { process, stderr } = self;
        let output = process.output(PATIENCE).unwrap();
        drop(stderr);
        let json = String::from_utf8(output.stdout).unwrap();
        let report: Report = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(report.schema, SCHEMA);
        (output.status.code(), report)
    }

    fn stop(self) -> (Option<i32>, Report) {
        self.process.signal(Signal::SIGINT).unwrap();
        self.end()
    }
}

/// As many lengths as there are outages, each a little longer than the one before, in an order that mixes them; at
/// phases that have nothing to do with the requests'.
fn plan(silence: Silence) -> Vec<Planned> {
    let growth = (LONGEST.as_secs_f64() / SHORTEST.as_secs_f64()).powf(1.0 / f64::from(OUTAGES - 1));
    (0..OUTAGES)
        .map(|number| {
            // 23 and 60 have no common divisor.
            let rank = number * 23 % OUTAGES;
            let length = SHORTEST.mul_f64(growth.powi(rank.cast_signed()));
            // Multiples of an irrational number leave no phase out.
            let phase = (f64::from(number) * 0.618_033_988_75).fract();
            Planned {
                after: Duration::from_millis(150) + Duration::from_millis(1).mul_f64(phase),
                length,
                silence,
            }
        })
        .collect()
}

/// As the report tells times.
fn since_start(at_ns: &RangeInclusive<u64>, report: &Report) -> RangeInclusive<i64> {
    let since = |at_ns: u64| at_ns.cast_signed() - report.start.monotonic_ns.cast_signed();
    since(*at_ns.start())..=since(*at_ns.end())
}

fn overlap<T: Ord>(a: &RangeInclusive<T>, b: &RangeInclusive<T>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// The gaps that a silence may be.
fn gaps_of<'a>(truth: &Truth, report: &'a Report) -> Vec<&'a Gap> {
    let silence = *truth.from_ns.start()..=*truth.until_ns.end();
    let silence = since_start(&silence, report);
    let holds = |gap: &&Gap| {
        let end_ns = gap.start.low_ns.saturating_add_unsigned(gap.length.high_ns.unwrap_or(u64::MAX >> 1));
        overlap(&silence, &(gap.start.low_ns..=end_ns))
    };
    report.streams[0].gaps.iter().filter(holds).collect()
}

/// What is wrong with a gap that should be this silence; none when its bounds hold it.
fn contradiction(truth: &Truth, gap: &Gap, report: &Report) -> Option<String> {
    let shortest_ns = truth.until_ns.start().saturating_sub(*truth.from_ns.end());
    let longest_ns = truth.until_ns.end() - truth.from_ns.start();
    let bounds_ns = gap.length.low_ns..=gap.length.high_ns?;
    let start_ns = gap.start.low_ns..=gap.start.high_ns;
    let from_ns = since_start(&truth.from_ns, report);
    if !overlap(&bounds_ns, &(shortest_ns..=longest_ns)) {
        return Some(format!("it lasted {shortest_ns} to {longest_ns} ns, not {bounds_ns:?}"));
    }
    (!overlap(&start_ns, &from_ns)).then(|| format!("it began at {from_ns:?} ns, not {start_ns:?}"))
}

/// Sixty silences, each a gap whose bounds hold the truth and are as narrow as they should be.
fn proves_every_silence(silence: Silence) {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    let probing = Probing::start(lab.observer(), lab.source().ipv4().into(), &[]);
    let witness = Witness::start().unwrap();
    responder.play(plan(silence)).unwrap();
    let truths = responder.played().unwrap();
    // The last gap is told when a few more replies have come.
    std::thread::sleep(Duration::from_millis(100));
    let (code, report) = probing.stop();
    let standstills = witness.finish().unwrap();
    assert_eq!((code, report.end), (Some(0), End::Interrupted));
    assert_eq!(truths.len(), OUTAGES as usize);

    let mut seen = Seen::default();
    for exact in &truths {
        // The path stands still with the CPU that it is on: then nobody can tell when the silence began or ended.
        let truth = Truth {
            from_ns: standstills.stretch(&exact.from_ns, INTERVAL_NS),
            until_ns: standstills.stretch(&exact.until_ns, INTERVAL_NS),
        };
        let length_ns = exact.until_ns.start() - exact.from_ns.end();
        let gaps = gaps_of(&truth, &report);
        let Some(gap) = gaps.iter().find(|gap| contradiction(&truth, gap, &report).is_none()) else {
            let why: Vec<_> = gaps.iter().map(|gap| (contradiction(&truth, gap, &report), gap)).collect();
            // The bounds are made from the longest of the latest round trips.
            let learnt_from = exact.from_ns.start() - LEARNT_NS..=*exact.until_ns.end();
            let drowned = standstills.within(&learnt_from).count() > 0 && length_ns < DROWNED_NS;
            assert!(
                gaps.is_empty() && drowned,
                "no gap is the silence {truth:?} (to the clock: {exact:?}) of {length_ns} ns: {why:#?}"
            );
            seen.drowned += 1;
            continue;
        };
        let width_ns = gap.length.high_ns.unwrap() - gap.length.low_ns;
        // The sender may have been late: the bounds follow from when the requests really left.
        let intervals_ns = gap.interval_at_start_ns + gap.interval_at_end_ns.unwrap();
        let limit_ns = intervals_ns + gap.round_trip_before_ns + gap.round_trip_after_ns;
        assert!(width_ns <= limit_ns, "{width_ns} ns wide, more than {limit_ns}: {gap:#?}");
        let round_trip_ns = gap.round_trip_before_ns.max(gap.round_trip_after_ns);
        seen.narrow += u64::from(width_ns <= intervals_ns.max(2 * INTERVAL_NS) + round_trip_ns + SLACK_NS);
        match silence {
            Silence::Loses => assert!(gap.lost > 0, "{gap:#?}"),
            Silence::Delays => assert!(gap.lost == 0 && gap.late > 0, "{gap:#?}"),
        }
        seen.widths_ns.push(width_ns);
        seen.errors_ns.push(gap.length.value_ns.abs_diff(length_ns));
    }
    let echo = &report.streams[0].echo;
    println!("{silence:?}: {seen}; CPUs stood still for {:?}; {echo:?}", standstills.total());
    let lost_in_gaps: u64 = report.streams[0].gaps.iter().map(|gap| gap.lost).sum();
    assert!(echo.lost.abs_diff(lost_in_gaps) <= 2 * seen.drowned * DROWNED_NS / INTERVAL_NS, "{report:#?}");
    assert_eq!(echo.duplicate, 0);
    assert!(seen.drowned <= u64::from(OUTAGES) / 10, "{seen}");
    // On an idle machine all are. On a busy one both round trips of some are long.
    assert!(seen.narrow >= u64::from(OUTAGES) / 2, "{seen}");
}

/// What became of the silences.
#[derive(Debug, Default)]
struct Seen {
    widths_ns: Vec<u64>,
    errors_ns: Vec<u64>,
    /// How many have bounds no wider than two intervals, [`SLACK_NS`] and the round trip.
    narrow: u64,
    /// How many were too short to be told from the machine's own standstills.
    drowned: u64,
}

impl Display for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sorted = |values: &[u64]| {
            let mut values = values.to_vec();
            values.sort_unstable();
            (values[values.len() / 2] / 1_000, values[values.len() - 1] / 1_000)
        };
        let ((width, widest), (error, worst)) = (sorted(&self.widths_ns), sorted(&self.errors_ns));
        write!(
            f,
            "{OUTAGES} silences, {} drowned, {} narrow; bounds {width} µs wide (median), {widest} µs at most; error \
             {error} µs (median), {worst} µs at most",
            self.drowned, self.narrow
        )
    }
}

#[test]
fn every_silence_that_loses_requests_lies_within_the_bounds_of_its_gap() {
    proves_every_silence(Silence::Loses);
}

#[test]
fn every_silence_that_only_delays_replies_lies_within_the_bounds_of_its_gap() {
    proves_every_silence(Silence::Delays);
}

#[test]
fn it_ends_with_the_first_gap_when_asked_to() {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    let probing =
        Probing::start(lab.observer(), lab.source().ipv4().into(), &["--until-gap", "--min-gap", "50ms"]);
    let silence = Planned {
        after: Duration::from_millis(300),
        length: Duration::from_millis(200),
        silence: Silence::Loses,
    };
    responder.play(vec![silence]).unwrap();
    let (code, report) = probing.end();
    assert_eq!((code, report.end), (Some(0), End::Gap));
    let truth = responder.played().unwrap().remove(0);
    let gaps = gaps_of(&truth, &report);
    assert_eq!(contradiction(&truth, gaps[0], &report), None, "{gaps:#?}");
}

#[test]
fn a_target_that_is_silent_at_the_end_is_an_open_gap() {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    let probing =
        Probing::start(lab.observer(), lab.source().ipv4().into(), &["--duration", "1s", "--no-preflight"]);
    let silence = Planned {
        after: Duration::from_millis(300),
        length: Duration::from_secs(3),
        silence: Silence::Loses,
    };
    responder.play(vec![silence]).unwrap();
    let (code, report) = probing.end();
    assert_eq!((code, report.end), (Some(0), End::Duration));
    let gap = report.streams[0].gaps.last().unwrap();
    assert_eq!((gap.length.high_ns, gap.length.method.as_str()), (None, "open"));
    assert!(gap.length.low_ns > 500_000_000 && gap.lost > 500, "{gap:#?}");
    assert_eq!(report.preflight, None);
    drop(responder);
}

#[test]
fn ipv6_and_options_are_asked_as_well() {
    let _lock = one_at_a_time();
    let lab = network();
    let (ipv4, ipv6) = (lab.source().ipv4().to_string(), lab.source().ipv6().to_string());
    let probe = |arguments: &[&str]| {
        let said = run(lab.observer(), &[&["probe", "--format", "json"], arguments].concat()).unwrap();
        let report: Report = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(report.streams.len(), 1, "{report:#?}");
        report
    };
    let common = ["--count", "300", "--interval", "1ms"];
    for (target, more) in [
        (&ipv6, &["--size", "56"][..]),
        (&ipv4, &["--attach", "clsact"]),
        (&ipv4, &["--size", "4000"]),
        (&ipv6, &["--size", "4000", "--interface", Host::UPLINK]),
        (&ipv4, &["--interval", "100us"]),
    ] {
        let arguments = if more.contains(&"--interval") { &common[..2] } else { &common[..] };
        let report = probe(&[&[target.as_str()], arguments, more].concat());
        let echo = &report.streams[0].echo;
        assert_eq!((report.end, echo.sent, echo.answered), (End::Count, 300, 300), "{report:#?}");
        assert_eq!(echo.target.to_string(), *target);
        assert!(echo.round_trip.unwrap().p50_ns < 5_000_000);
    }
    let left = lab.observer().tool("tc", &["filter", "show", "dev", Host::UPLINK, "ingress"]).unwrap();
    assert!(!left.contains("migtrace"), "{left}");
}

#[test]
fn requests_of_another_program_are_followed_without_sending_any() {
    let _lock = one_at_a_time();
    let lab = network();
    let target = IpAddr::from(lab.source().ipv4());
    let probing = Probing::start(lab.observer(), target, &["--passive", "--duration", "2s"]);
    let asked =
        run(lab.observer(), &["probe", &target.to_string(), "--count", "200", "--no-preflight"]).unwrap();
    assert_eq!(asked.code, Some(0), "{asked:?}");
    let (code, report) = probing.end();
    assert_eq!((code, &report.sending), (Some(0), &None));
    assert_eq!(report.streams.len(), 1, "{report:#?}");
    assert_eq!(report.streams[0].echo.sent, 200);
    assert_eq!(report.streams[0].echo.answered, 200);
}

fn refused(host: &Host, arguments: &[&str]) -> Said {
    let said = run(host, &[&["probe"], arguments].concat()).unwrap();
    assert_eq!(said.stdout, "", "{said:?}");
    said
}

#[test]
fn what_cannot_be_probed_is_said_before_anything_is_taken_for_downtime() {
    let _lock = one_at_a_time();
    let lab = network();
    let host = lab.observer();
    let own = host.ipv4().to_string();
    let target = lab.source().ipv4().to_string();
    for (arguments, code, words) in [
        (&["10.77.0.99"][..], 1, "ARP"),
        (&["192.0.2.1"], 1, "no route to 192.0.2.1"),
        (&[own.as_str()], 1, "an address of this host itself"),
        (&[target.as_str(), "--interface", "nix"], 1, "no interface `nix`; this network namespace has: lo"),
        (&[target.as_str(), "--interval", "50us"], 2, "the shortest interval is 100us"),
        (&[target.as_str(), "--passive", "--count", "3"], 2, "cannot be used with"),
        (&["no-such-name.invalid"], 1, "cannot find the address of no-such-name.invalid"),
        (&["10.77.0.1", "--ipv6"], 1, "10.77.0.1 has no IPv6 address"),
        (&[target.as_str(), "--output", "/no/such/folder/x"], 1, "cannot write to /no/such/folder/x"),
    ] {
        let said = refused(host, arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(words), "{arguments:?}: {said:?}");
    }
}

#[test]
fn a_rate_limit_is_found_before_it_is_taken_for_downtime() {
    let _lock = one_at_a_time();
    let lab = network();
    let rules = "add table ip limited; \
                 add chain ip limited input { type filter hook input priority 0; }; \
                 add rule ip limited input icmp type echo-request limit rate over 100/second burst 5 packets drop";
    lab.source().tool("nft", &[rules]).unwrap();
    let target = lab.source().ipv4().to_string();
    let said = refused(lab.observer(), &[&target, "--count", "100"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("a rate limit") && said.stderr.contains("--interval "), "{said:?}");
    let suggested = said.stderr.split("--interval ").nth(1).unwrap().split(',').next().unwrap();
    let again = run(lab.observer(), &["probe", &target, "--count", "50", "--interval", suggested]).unwrap();
    assert_eq!(again.code, Some(0), "{suggested}: {again:?}");
}

#[test]
fn three_capabilities_are_enough_and_a_missing_one_is_named() {
    let _lock = one_at_a_time();
    let lab = network();
    let target = lab.source().ipv4().to_string();
    let with = |capabilities: &str| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--inh-caps=-all", &format!("--bounding-set=-all,{capabilities}")]);
        command.arg(lab::tracing::binary().unwrap()).args(["probe", &target, "--count", "100"]);
        Said::from(lab.observer().run(&mut command).unwrap())
    };
    let enough = with("+bpf,+net_admin,+net_raw");
    assert_eq!(enough.code, Some(0), "{enough:?}");
    for (held, missing) in [
        ("+bpf,+net_admin", "CAP_NET_RAW missing"),
        ("+net_admin,+net_raw", "CAP_BPF missing"),
        ("+bpf,+net_raw", "CAP_NET_ADMIN missing"),
    ] {
        let said = with(held);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(missing), "{said:?}");
    }
}

#[test]
fn the_report_for_people_names_the_gap_and_its_bounds() {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    let target = lab.source().ipv4().to_string();
    let silence = Planned {
        after: Duration::from_millis(2_000),
        length: Duration::from_millis(100),
        silence: Silence::Loses,
    };
    responder.play(vec![silence]).unwrap();
    let said = run(lab.observer(), &["probe", &target, "--until-gap", "--min-gap", "50ms"]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    let headline = said.stdout.lines().next().unwrap();
    assert!(headline.starts_with(&format!("{target}: one gap of ")), "{headline}");
    for words in ["ms ± ", "Pre-flight", "Round trip", "lost requests", "1 000 answered"] {
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    }
    assert!(said.stdout.lines().all(|line| line.chars().count() <= 100), "{}", said.stdout);
    drop(responder);
}
