use super::*;

const A: Mac = Mac([0x52, 0x54, 0, 0, 0, 0xa]);
const B: Mac = Mac([0x52, 0x54, 0, 0, 0, 0xb]);

fn qemu(pid: u32, name: &str) -> Qemu {
    Qemu {
        pid,
        uid: None,
        name: Some(name.into()),
        uuid: None,
        vcpus: None,
        memory_bytes: None,
        accelerator: None,
        version: None,
        taps: vec![format!("tap{pid}")],
        macs: Vec::new(),
        incoming: false,
    }
}

fn with_mac(pid: u32, name: &str, mac: Mac) -> Qemu {
    Qemu { macs: vec![mac.to_string()], ..qemu(pid, name) }
}

fn probed(selection: Selection) -> ProbedVm {
    ProbedVm::new([192, 0, 2, 50].into(), selection)
}

fn nothing_selected() -> ProbedVm {
    probed(Selection::default())
}

fn named(vm: &str) -> ProbedVm {
    probed(Selection::new(Some(vm.into()), None))
}

fn at(qemus: &[Qemu], mac: Option<Mac>) -> Surroundings<'_> {
    Surroundings { qemus: qemus.iter().collect(), mac, port: None }
}

fn behind<'a>(qemus: &'a [Qemu], mac: Mac, port: &str) -> Surroundings<'a> {
    Surroundings { port: Some(port.into()), ..at(qemus, Some(mac)) }
}

fn by_mac(pid: u32) -> Fact {
    Fact::EchoOwner { pid, method: EchoOwnerMethod::Mac }
}

fn selected(pid: u32) -> Fact {
    Fact::EchoOwner { pid, method: EchoOwnerMethod::Selected }
}

fn note(fact: &Fact) -> &NotMeasured {
    let Fact::NotMeasured(note) = fact else { panic!("{fact:?}") };
    note
}

#[test]
fn the_mac_on_a_command_line_ties_the_address_once() {
    let here = [with_mac(1, "web", A), with_mac(2, "db", B)];
    let mut probed = nothing_selected();
    assert_eq!(probed.update(&at(&here, None)), []);
    assert_eq!(probed.doubt(&at(&here, None)), Some(Untied::NoMac), "the address is still to be found");
    assert_eq!(probed.update(&at(&here, Some(B))), [by_mac(2)]);
    assert_eq!(probed.doubt(&at(&here, None)), None, "the guest may be silent");
    assert_eq!(probed.update(&at(&here, Some(B))), []);
}

#[test]
fn every_qemu_of_the_vm_is_reported_even_one_that_comes_later_or_has_a_pid_of_an_earlier_one() {
    let mut here = vec![with_mac(1, "web", A), with_mac(2, "db", B)];
    let mut probed = nothing_selected();
    assert_eq!(probed.update(&at(&here, Some(A))), [by_mac(1)]);
    // The destination, on the same host; and while the guest is silent.
    here.push(Qemu { incoming: true, ..with_mac(3, "web", A) });
    assert_eq!(probed.update(&at(&here, None)), [by_mac(3)]);
    here.remove(0);
    assert_eq!(probed.update(&at(&here, Some(A))), []);
    here.push(with_mac(1, "web", A));
    assert_eq!(probed.update(&at(&here, Some(A))), [by_mac(1)]);
}

#[test]
fn a_port_ties_only_a_mac_that_is_on_no_command_line() {
    let here = [with_mac(1, "web", A), qemu(2, "db")];
    assert_eq!(nothing_selected().update(&behind(&here, B, "tap2")), [by_mac(2)]);
    // A guest that sends frames from the MAC of another.
    assert_eq!(nothing_selected().update(&behind(&here, A, "tap2")), [by_mac(1)]);
    let elsewhere = behind(&here, B, "uplink");
    assert_eq!(nothing_selected().update(&elsewhere), []);
    assert_eq!(nothing_selected().doubt(&elsewhere), Some(Untied::Nobody { mac: B.to_string() }));
}

#[test]
fn a_mac_of_several_vms_does_not_tie_the_address() {
    let here = [with_mac(1, "web", A), with_mac(2, "db", A)];
    let look = behind(&here, A, "tap1");
    assert_eq!(nothing_selected().update(&look), []);
    assert_eq!(nothing_selected().doubt(&look), Some(Untied::Several { mac: A.to_string() }));
    // Then the selection decides.
    let mut probed = named("db");
    assert_eq!((probed.update(&look), probed.doubt(&look)), (vec![selected(2)], None));
}

#[test]
fn a_single_vm_needs_no_proof() {
    for here in [&[][..], &[qemu(1, "web")], &[qemu(1, "web"), qemu(3, "web")]] {
        for look in [at(here, None), behind(here, A, "uplink")] {
            let mut probed = nothing_selected();
            assert_eq!((probed.update(&look), probed.doubt(&look)), (vec![], None));
        }
    }
}

#[test]
fn a_named_vm_that_is_still_to_come_is_waited_for() {
    let mut here = vec![qemu(2, "db"), qemu(3, "mail")];
    let mut probed = named("web");
    assert_eq!((probed.update(&at(&here, Some(A))), probed.doubt(&at(&here, Some(A)))), (vec![], None));
    here.push(qemu(4, "web"));
    assert_eq!(probed.update(&at(&here, Some(A))), [selected(4)]);
    here.push(qemu(5, "web"));
    assert_eq!(probed.update(&at(&here, Some(A))), [selected(5)]);
}

#[test]
fn a_named_process_stands_for_its_vm() {
    let here = [qemu(1, "web"), qemu(2, "db"), qemu(3, "web")];
    let mut probed = probed(Selection::new(None, Some(3)));
    assert_eq!(probed.update(&at(&here, None)), [selected(1), selected(3)]);
    let here = [with_mac(1, "web", A), with_mac(3, "web", A)];
    assert_eq!(probed.update(&at(&here, Some(A))), [], "the network agrees");
}

#[test]
fn a_name_that_several_vms_have_names_none_of_them() {
    let uuid = |uuid: &str, qemu: Qemu| Qemu { uuid: Some(uuid.into()), ..qemu };
    let here = [uuid("1", qemu(1, "web")), uuid("2", qemu(2, "web")), qemu(3, "db")];
    let mut probed = named("web");
    assert_eq!(probed.update(&at(&here, None)), []);
    assert_eq!(probed.doubt(&at(&here, None)), Some(Untied::NoMac));
}

#[test]
fn where_the_network_contradicts_the_selection_only_the_vm_with_the_mac_is_reported() {
    let here = [with_mac(1, "web", A), with_mac(2, "db", B)];
    let mut probed = named("web");
    let news = probed.update(&at(&here, Some(B)));
    assert_eq!(news[1..], [by_mac(2)]);
    assert_eq!(
        note(&news[0]).why,
        "192.0.2.50 has the MAC 52:54:00:00:00:0b, which belongs to another VM: db"
    );
    assert_eq!(probed.update(&at(&here, Some(B))), [], "once");

    // The selected VM was reported before the network showed another.
    let mut probed = named("web");
    assert_eq!(probed.update(&at(&here, None)), [selected(1)]);
    let news = probed.update(&at(&here, Some(B)));
    assert_eq!(
        (note(&news[0]).what.as_str(), &news[1..]),
        ("the answers of the selected VM", &[by_mac(2)][..])
    );
}

#[test]
fn a_mac_that_changes_is_reported_once_and_does_not_tie_the_address_again() {
    let here = [with_mac(1, "web", A), with_mac(2, "db", B)];
    let mut probed = nothing_selected();
    assert_eq!(probed.update(&at(&here, Some(A))), [by_mac(1)]);
    let news = probed.update(&at(&here, Some(B)));
    assert_eq!(news.len(), 1);
    assert!(note(&news[0]).why.contains("changed from 52:54:00:00:00:0a to 52:54:00:00:00:0b"), "{news:?}");
    for mac in [Some(B), Some(A), Some(B), None] {
        assert_eq!(probed.update(&at(&here, mac)), []);
    }
}
