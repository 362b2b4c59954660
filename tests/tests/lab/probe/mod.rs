//! `migtrace probe`, against a guest whose silences are known exactly.

mod silences;

use crate::support::probe_command::ProbeCommand;
use crate::support::{network, one_at_a_time};
use migtrace::probe::{ProbeEndReason, ProbeReport};
use migtrace::record::{Gap, Method};
use migtrace_lab::migtrace_command::{CommandOutput, run};
use migtrace_lab::{CpuStallWatch, Host, PlannedSilence, Responder, SilenceKind, detach_tcx_links};
use silences::{Circumstances, assert_every_silence_is_bounded, is_bounded};
use std::net::IpAddr;
use std::time::Duration;

#[test]
fn every_silence_that_loses_requests_lies_within_the_bounds_of_its_gap() {
    assert_every_silence_is_bounded(SilenceKind::LosesRequests);
}

#[test]
fn every_silence_that_only_delays_replies_lies_within_the_bounds_of_its_gap() {
    assert_every_silence_is_bounded(SilenceKind::DelaysReplies);
}

/// A silence in which all requests are lost, in milliseconds.
const fn losing_silence(after_ms: u64, length_ms: u64) -> PlannedSilence {
    PlannedSilence {
        after: Duration::from_millis(after_ms),
        length: Duration::from_millis(length_ms),
        kind: SilenceKind::LosesRequests,
    }
}

#[test]
fn until_gap_ends_the_probe_with_the_first_gap() {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    // One that a stall of the machine has disturbed is repeated.
    let is_proven = (0..5).any(|_| {
        let options = ["--until-gap", "--min-gap", "100ms"];
        let probe = ProbeCommand::start(lab.observer(), lab.source().ipv4().into(), &options);
        let stall_watch = CpuStallWatch::start().unwrap();
        responder.play(vec![losing_silence(300, 400)]).unwrap();
        let (code, report) = probe.finish();
        assert_eq!((code, report.end), (Some(0), ProbeEndReason::Gap));
        let played = responder.wait_for_plan().unwrap();
        let stalls = stall_watch.finish().unwrap();
        let circumstances = Circumstances { report: &report, played: &played, stalls: &stalls };
        is_bounded(&played.silences[0], SilenceKind::LosesRequests, &circumstances)
    });
    assert!(is_proven, "the machine stalled again and again");
}

#[test]
fn a_target_that_is_silent_at_the_end_is_an_open_gap() {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    let probe = ProbeCommand::start(
        lab.observer(),
        lab.source().ipv4().into(),
        &["--duration", "1s", "--no-preflight"],
    );
    let silence = losing_silence(300, 3000);
    responder.play(vec![silence]).unwrap();
    let (code, report) = probe.finish();
    assert_eq!((code, report.end), (Some(0), ProbeEndReason::Duration));
    let gap = report.streams[0].gaps.last().unwrap();
    assert_eq!((gap.length.high_ns, gap.length.method.as_str()), (None, "open"));
    assert!(gap.length.low_ns > 300_000_000 && gap.lost > 0, "{gap:#?}");
    assert_eq!(report.preflight, None);
    drop(responder);
}

#[test]
fn removed_programs_are_reported_and_attached_again() {
    let _lock = one_at_a_time();
    let lab = network();
    for attach in ["tcx", "clsact"] {
        let options = ["--attach", attach, "--interval", "10ms", "--duration", "4s"];
        let probe = ProbeCommand::start(lab.observer(), lab.source().ipv4().into(), &options);
        if attach == "tcx" {
            assert_eq!(detach_tcx_links(probe.pid()).unwrap(), 2);
        } else {
            lab.observer().tool("tc", &["qdisc", "del", "dev", Host::UPLINK, "clsact"]).unwrap();
        }
        let (code, report) = probe.finish();
        assert_eq!(code, Some(0));
        let what = format!("echo requests and replies at {} for a time", Host::UPLINK);
        let reports = report.not_measured.iter().filter(|entry| entry.what == what);
        assert_eq!(reports.count(), 1, "{attach}: {:?}", report.not_measured);
        let echo = &report.streams[0].echo;
        assert!(echo.sent > 200, "{attach}: most of 400 requests are seen: {echo:?}");
    }
}

#[test]
fn a_silence_shorter_than_the_round_trip_is_reported_as_a_gap_that_may_not_have_happened() {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start_with_delay(lab.source().netns(), Duration::from_millis(40)).unwrap();
    let probe = ProbeCommand::start(lab.observer(), lab.source().ipv4().into(), &["--min-gap", "5ms"]);
    let silence = losing_silence(300, 15);
    responder.play(vec![silence; 8]).unwrap();
    let played = responder.wait_for_plan().unwrap();
    let (code, report) = probe.stop();
    assert_eq!((code, report.end), (Some(0), ProbeEndReason::Interrupted));
    let gaps = &report.streams[0].gaps;
    for silence in &played.silences {
        let since_start = |at_ns: u64| at_ns.cast_signed() - report.start.monotonic_ns.cast_signed();
        let (from_ns, until_ns) =
            (since_start(*silence.start_ns.end()), since_start(*silence.end_ns.start()));
        let holds = |gap: &&Gap| {
            let longest_ns = gap.length.high_ns.unwrap_or(u64::MAX);
            gap.start.low_ns <= from_ns && until_ns <= gap.start.low_ns.saturating_add_unsigned(longest_ns)
        };
        let gap = gaps.iter().find(holds).unwrap_or_else(|| panic!("{from_ns} to {until_ns}: {gaps:#?}"));
        assert!(gap.lost > 0, "{gap:#?}");
    }
    assert!(gaps.iter().any(|gap| gap.length.method == Method::OvertakenRequests), "{gaps:#?}");
}

#[test]
fn every_option_works_over_ipv4_and_ipv6() {
    let _lock = one_at_a_time();
    let lab = network();
    let (ipv4, ipv6) = (lab.source().ipv4().to_string(), lab.source().ipv6().to_string());
    let probe_with = |arguments: &[&str]| {
        let output = run(lab.observer(), &[&["probe", "--format", "json"], arguments].concat()).unwrap();
        let report: ProbeReport =
            serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(output.code, Some(0), "{output:?}");
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
        let report = probe_with(&[&[target.as_str()], arguments, more].concat());
        let echo = &report.streams[0].echo;
        assert_eq!((report.end, echo.sent, echo.answered), (ProbeEndReason::Count, 300, 300), "{report:#?}");
        assert_eq!(echo.target.to_string(), *target);
        assert!(echo.round_trip.unwrap().p50_ns < 5_000_000);
    }
    let left = lab.observer().tool("tc", &["filter", "show", "dev", Host::UPLINK, "ingress"]).unwrap();
    assert!(!left.contains("migtrace"), "{left}");
}

#[test]
fn a_passive_probe_follows_the_requests_of_another_program() {
    let _lock = one_at_a_time();
    let lab = network();
    let target = IpAddr::from(lab.source().ipv4());
    let probe = ProbeCommand::start(lab.observer(), target, &["--passive"]);
    let asked =
        run(lab.observer(), &["probe", &target.to_string(), "--count", "200", "--no-preflight"]).unwrap();
    assert_eq!(asked.code, Some(0), "{asked:?}");
    let (code, report) = probe.stop();
    assert_eq!((code, &report.sending), (Some(0), &None));
    assert_eq!(report.streams.len(), 1, "{report:#?}");
    assert_eq!(report.streams[0].echo.sent, 200);
    assert_eq!(report.streams[0].echo.answered, 200);
}

fn refused(host: &Host, arguments: &[&str]) -> CommandOutput {
    let output = run(host, &[&["probe"], arguments].concat()).unwrap();
    assert_eq!(output.stdout, "", "{output:?}");
    output
}

#[test]
fn a_target_that_cannot_be_probed_is_refused_before_silence_counts_as_downtime() {
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
        let output = refused(host, arguments);
        assert_eq!(output.code, Some(code), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(words), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_rate_limit_is_found_before_its_losses_count_as_downtime() {
    let _lock = one_at_a_time();
    let lab = network();
    let rules = "add table ip limited; \
                 add chain ip limited input { type filter hook input priority 0; }; \
                 add rule ip limited input icmp type echo-request limit rate over 100/second burst 5 packets drop";
    lab.source().tool("nft", &[rules]).unwrap();
    let target = lab.source().ipv4().to_string();
    let output = refused(lab.observer(), &[&target, "--count", "100"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("a rate limit") && output.stderr.contains("--interval "), "{output:?}");
    let suggested = output.stderr.split("--interval ").nth(1).unwrap().split(',').next().unwrap();
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
        command
            .arg(migtrace_lab::migtrace_command::binary().unwrap())
            .args(["probe", &target, "--count", "100"]);
        CommandOutput::from(lab.observer().run(&mut command).unwrap())
    };
    let enough = with("+bpf,+net_admin,+net_raw");
    assert_eq!(enough.code, Some(0), "{enough:?}");
    for (held, missing) in [
        ("+bpf,+net_admin", "CAP_NET_RAW missing"),
        ("+net_admin,+net_raw", "CAP_BPF missing"),
        ("+bpf,+net_raw", "CAP_NET_ADMIN missing"),
    ] {
        let output = with(held);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(missing), "{output:?}");
    }
}

#[test]
fn the_text_report_shows_the_gap_and_its_bounds() {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    let target = lab.source().ipv4();
    let probe =
        ProbeCommand::start_with_format("text", lab.observer(), target.into(), &["--min-gap", "50ms"]);
    let silence = losing_silence(200, 400);
    responder.play(vec![silence]).unwrap();
    responder.wait_for_plan().unwrap();
    let (code, text) = probe.stop_and_read_text();
    assert_eq!(code, Some(0), "{text}");
    let headline = text.lines().next().unwrap();
    assert!(headline.starts_with(&format!("{target}: ")) && headline.contains(" gap"), "{headline}");
    for words in ["ms ± ", "Pre-flight", "Round trip"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // The last request may have arrived so close to the end of the silence that it was answered: then its reply marks the end.
    assert!(["lost requests", "delayed replies"].iter().any(|seen_by| text.contains(seen_by)), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}
