//! However a recording ends, no program of migtrace's stays attached.

use crate::support::{MIGRATION_PORT, PATIENCE, SLOW_MIB_PER_S, network};
use aya::programs::{SchedClassifier, tc::TcAttachType};
use migtrace_lab::migtrace_command::{self, Recording};
use migtrace_lab::{BareQemu, Host};
use nix::sys::signal::Signal;

/// The programs of the TCX chains at an interface, and migtrace's clsact filters there.
fn attached(host: &Host, interface: &str) -> Vec<String> {
    let chains = host.enter(|| {
        [TcAttachType::Ingress, TcAttachType::Egress]
            .into_iter()
            .flat_map(|direction| SchedClassifier::query_tcx(interface, direction).unwrap().1)
            .filter_map(|program| Some(program.name_as_str()?.to_owned()))
            .collect::<Vec<_>>()
    });
    let mut found = chains.unwrap();
    for direction in ["ingress", "egress"] {
        let filters = host.tool("tc", &["filter", "show", "dev", interface, direction]).unwrap();
        found.extend(filters.lines().filter(|line| line.contains("migtrace_")).map(str::to_owned));
    }
    found
}

#[test]
fn nothing_stays_attached_after_an_interrupt_a_timeout_an_error_or_a_kill() {
    let lab = network();
    let host = lab.source();
    for mode in ["tcx", "clsact"] {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let recording = Recording::start(host, &["--attach", mode]).unwrap();
            assert_eq!(attached(host, Host::BRIDGE).len(), 2, "{mode}");
            recording.signal(signal).unwrap();
            recording.finish(PATIENCE).unwrap();
            assert_eq!(attached(host, Host::BRIDGE), [""; 0], "{mode} {signal}");
        }
        let late = Recording::start(host, &["--attach", mode, "--timeout", "100ms"]).unwrap();
        late.finish(PATIENCE).unwrap();
        assert_eq!(attached(host, Host::BRIDGE), [""; 0], "{mode}");
        // The monitor cannot be opened, which is known only after everything is attached.
        let arguments = ["record", "--attach", mode, "--qmp", "/no/socket"];
        assert_eq!(migtrace_command::run(host, &arguments).unwrap().code, Some(1));
        assert_eq!(attached(host, Host::BRIDGE), [""; 0], "{mode}");
    }

    // Killed, it cannot clean up: the kernel removes TCX links, and the next start or `cleanup` removes filters.
    let recording = Recording::start(host, &["--attach", "tcx"]).unwrap();
    recording.signal(Signal::SIGKILL).unwrap();
    recording.finish(PATIENCE).unwrap();
    assert_eq!(attached(host, Host::BRIDGE), [""; 0]);
    let recording = Recording::start(host, &["--attach", "clsact"]).unwrap();
    recording.signal(Signal::SIGKILL).unwrap();
    recording.finish(PATIENCE).unwrap();
    assert_eq!(attached(host, Host::BRIDGE).len(), 2);
    let next = Recording::start(host, &["--attach", "clsact", "--timeout", "100ms"]).unwrap();
    assert_eq!(attached(host, Host::BRIDGE).len(), 2, "the filters of the killed recording are replaced");
    next.finish(PATIENCE).unwrap();
    assert_eq!(attached(host, Host::BRIDGE), [""; 0]);
}

#[test]
fn nothing_stays_attached_after_a_migration() {
    let lab = network();
    let (mut source, destination) = BareQemu::pair(&lab, "passing", MIGRATION_PORT).unwrap();
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    drop(destination);
    for recording in recordings {
        assert_eq!(recording.finish(PATIENCE).unwrap().code, Some(3));
    }
    for host in [lab.source(), lab.destination()] {
        assert_eq!(attached(host, Host::BRIDGE), [""; 0]);
    }
}
