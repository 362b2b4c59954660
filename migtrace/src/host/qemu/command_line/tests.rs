use super::*;

/// A command line of plain words; libvirt's log writes them so, one option a line.
fn parse(text: &str) -> Option<CommandLine> {
    let argv: Vec<String> = text.split_whitespace().map(ToOwned::to_owned).collect();
    CommandLine::parse(&argv)
}

fn vm(text: &str) -> CommandLine {
    parse(&format!("/usr/bin/qemu-system-x86_64 {text}")).expect("a VM")
}

/// libvirt 9.0 on Debian 12, the receiving side; shortened only in its list of PCI ports.
const LIBVIRT: &str = r#"/usr/bin/qemu-system-x86_64
    -name guest=web-01,debug-threads=on -S
    -object {"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/domain-3-web-01/master-key.aes"}
    -machine pc-q35-7.2,usb=off,vmport=off,dump-guest-core=off,memory-backend=pc.ram
    -accel kvm
    -cpu host,migratable=on
    -m 2048
    -object {"qom-type":"memory-backend-ram","id":"pc.ram","size":2147483648}
    -overcommit mem-lock=off
    -smp 4,sockets=4,cores=1,threads=1
    -uuid 0f2b5f3c-97a1-4d29-8e0a-6d2f0d8a8f51
    -no-user-config -nodefaults
    -chardev socket,id=charmonitor,fd=33,server=on,wait=off
    -mon chardev=charmonitor,id=monitor,mode=control
    -rtc base=utc,driftfix=slew
    -global kvm-pit.lost_tick_policy=delay
    -no-hpet -no-shutdown
    -global ICH9-LPC.disable_s3=1 -global ICH9-LPC.disable_s4=1
    -boot strict=on
    -device {"driver":"pcie-root-port","port":16,"chassis":1,"id":"pci.1","bus":"pcie.0","multifunction":true,"addr":"0x2"}
    -blockdev {"driver":"file","filename":"/var/lib/libvirt/images/web-01.qcow2","node-name":"libvirt-1-storage","auto-read-only":true,"discard":"unmap"}
    -netdev {"type":"tap","fd":"35","vhost":true,"vhostfd":"37","id":"hostnet0"}
    -device {"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0","mac":"52:54:00:4b:73:5f","bus":"pci.1","addr":"0x0"}
    -audiodev {"id":"audio1","driver":"none"}
    -incoming defer
    -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
    -msg timestamp=on"#;

/// Proxmox VE 8: no -uuid, the name without its key, the accelerator by the name `kvm`.
const PROXMOX: &str = "/usr/bin/kvm -id 101 -name web1,debug-threads=on -no-shutdown
    -chardev socket,id=qmp,path=/var/run/qemu-server/101.qmp,server=on,wait=off -mon chardev=qmp,mode=control
    -pidfile /var/run/qemu-server/101.pid -daemonize
    -smbios type=1,uuid=2f1e7bc8-6a9e-4a0b-a1c5-6b4b8c5fd0a7
    -smp 2,sockets=1,cores=2,maxcpus=2 -nodefaults -vnc unix:/var/run/qemu-server/101.vnc,password=on
    -cpu qemu64,+aes,enforce,+kvm_pv_eoi -m 4096
    -netdev type=tap,id=net0,ifname=tap101i0,script=/var/lib/qemu-server/pve-bridge,vhost=on
    -device virtio-net-pci,mac=BC:24:11:2F:5A:0C,netdev=net0,bus=pci.0,addr=0x12,id=net0
    -machine type=pc+pve0 -incoming tcp:192.0.2.7:60000 -S";

#[test]
fn a_libvirt_command_line() {
    assert_eq!(
        parse(LIBVIRT).unwrap(),
        CommandLine {
            name: Some("web-01".into()),
            uuid: Some("0f2b5f3c-97a1-4d29-8e0a-6d2f0d8a8f51".into()),
            vcpus: Some(4),
            memory_bytes: Some(2 << 30),
            incoming: true,
            macs: vec!["52:54:00:4b:73:5f".into()],
            accelerators: vec!["kvm".into()],
        }
    );
}

#[test]
fn a_proxmox_command_line() {
    assert_eq!(
        parse(PROXMOX).unwrap(),
        CommandLine {
            name: Some("web1".into()),
            uuid: Some("2f1e7bc8-6a9e-4a0b-a1c5-6b4b8c5fd0a7".into()),
            vcpus: Some(2),
            memory_bytes: Some(4 << 30),
            incoming: true,
            macs: vec!["bc:24:11:2f:5a:0c".into()],
            accelerators: vec!["kvm".into(), "tcg".into()],
        }
    );
}

#[test]
fn without_options_there_is_one_vcpu_and_the_rest_is_unknown() {
    let line = vm("disk.img");
    assert_eq!((line.name, line.uuid, line.memory_bytes, line.incoming), (None, None, None, false));
    assert_eq!(line.vcpus, Some(1));
}

#[test]
fn names() {
    for (option, name) in [
        ("-name web", "web"),
        ("--name web", "web"),
        ("-name guest=web,debug-threads=on", "web"),
        ("-name web,debug-threads=on", "web"),
        ("-name debug-threads=on,guest=web", "web"),
        ("-name a,,b,,,,c,process=x", "a,b,,c"),
        ("-name guest=a,,b", "a,b"),
        ("-name old -name new", "new"),
        ("-name web -name debug-threads=on", "web"),
        ("-name -web", "-web"),
    ] {
        assert_eq!(vm(option).name.as_deref(), Some(name), "{option}");
    }
    assert_eq!(vm("-name debug-threads=on").name, None);
}

#[test]
fn memory_sizes() {
    for (option, bytes) in [
        ("-m 512", 512 << 20),
        ("-m 512M", 512 << 20),
        ("-m 2G", 2 << 30),
        ("-m 2g", 2 << 30),
        ("-m 1.5G", 3 << 29),
        ("-m 1T", 1 << 40),
        ("-m 0x200", 512 << 20),
        ("-m size=1048576k,slots=16,maxmem=4194304k", 1 << 30),
        ("-m size=1024", 1 << 30),
        ("-m 1073741824B", 1 << 30),
        ("-m slots=4,maxmem=8G,size=1G", 1 << 30),
        ("-machine q35,memory.size=3G", 3 << 30),
    ] {
        assert_eq!(vm(option).memory_bytes, Some(bytes), "{option}");
    }
    for option in ["-m lots", "-m 5X", "-m 99999999999E", "-m maxmem=4G", "-m 1.x"] {
        assert_eq!(vm(option).memory_bytes, None, "{option}");
    }
}

#[test]
fn macs() {
    for (option, macs) in [
        ("-device virtio-net-pci,netdev=n0,mac=52:54:00:4b:73:5f", &["52:54:00:4b:73:5f"][..]),
        ("-device e1000,mac=52-54-00-4B-73-5F", &["52:54:00:4b:73:5f"]),
        (r#"-device {"driver":"virtio-net-pci","mac":"52:54:00:4B:73:5F"}"#, &["52:54:00:4b:73:5f"]),
        ("-nic tap,model=virtio,mac=52:54:00:00:00:01", &["52:54:00:00:00:01"]),
        ("-net nic,macaddr=52:54:00:00:00:01 -net user", &["52:54:00:00:00:01"]),
        (
            "-device virtio-net-pci,mac=52:54:00:00:00:01 -nic user,mac=52:54:00:00:00:02",
            &["52:54:00:00:00:01", "52:54:00:00:00:02"],
        ),
        ("-device virtio-net-pci,netdev=n0", &[]),
        ("-device virtio-net-pci,mac=52:54:00", &[]),
        (r#"-device {"driver":"virtio-net-pci","mac":7}"#, &[]),
        (r#"-device {"driver":"virtio-net-pci","mac":"52:54:00:00:00:01""#, &[]),
        ("-netdev tap,id=n0,mac=52:54:00:00:00:01", &[]),
        ("-append mac=52:54:00:00:00:01", &[]),
    ] {
        assert_eq!(vm(option).macs, macs, "{option}");
    }
}

#[test]
fn vcpus_at_the_start() {
    for (option, vcpus) in [
        ("-smp 4", 4),
        ("-smp cpus=4", 4),
        ("-smp 4,sockets=2,cores=4", 4),
        ("-smp 2,maxcpus=8", 2),
        ("-smp maxcpus=8", 8),
        ("-smp sockets=2,cores=2,threads=1", 4),
        ("-smp sockets=2,dies=2,cores=3,threads=2", 24),
        ("-machine q35,smp.cpus=6", 6),
    ] {
        assert_eq!(vm(option).vcpus, Some(vcpus), "{option}");
    }
    for option in ["-smp many", "-smp cores=x", "-smp sockets=65536,cores=65536"] {
        assert_eq!(vm(option).vcpus, None, "{option}");
    }
}

#[test]
fn accelerators() {
    for (option, kvm_open, accelerator) in [
        ("", Some(false), "tcg"),
        ("-accel kvm", Some(true), "kvm"),
        ("-accel kvm", None, "kvm"),
        ("-accel kvm,kernel-irqchip=on", Some(false), "kvm"),
        ("-accel tcg,thread=multi", Some(false), "tcg"),
        ("-accel kvm -accel tcg", Some(false), "tcg"),
        ("-accel kvm -accel tcg", Some(true), "kvm"),
        ("-machine pc,accel=kvm:tcg", Some(false), "tcg"),
        ("-machine pc,accel=kvm:tcg", Some(true), "kvm"),
        ("-M accel=kvm", None, "kvm"),
        ("-enable-kvm", Some(true), "kvm"),
        ("--enable-kvm", None, "kvm"),
        ("-accel qtest", Some(false), "qtest"),
    ] {
        assert_eq!(vm(option).accelerator(kvm_open).as_deref(), Some(accelerator), "{option} {kvm_open:?}");
    }
}

#[test]
fn an_options_value_is_not_taken_for_an_option() {
    let argv = ["qemu-system-x86_64", "-append", "-name trap", "-name", "web", "-device", "{\"a\":1}"];
    let argv: Vec<String> = argv.map(ToOwned::to_owned).to_vec();
    assert_eq!(CommandLine::parse(&argv).unwrap().name.as_deref(), Some("web"));
    let line = vm("-append -name -S -nodefaults -name web -set device.net0.mac=-uuid -serial -");
    assert_eq!((line.name.as_deref(), line.uuid), (Some("web"), None));
}

#[test]
fn a_flag_of_a_newer_qemu_does_not_hide_the_option_behind_it() {
    assert_eq!(vm("-brand-new-flag -name web").name.as_deref(), Some("web"));
}

#[test]
fn an_option_without_its_value_does_no_harm() {
    for option in ["-name", "-m", "-smp", "-uuid", "-accel", "-name ,", "-smp ,,", "-"] {
        vm(option);
    }
}

#[test]
fn a_question_to_the_binary_is_not_a_vm() {
    for text in ["-version", "--version", "-h", "-S -nodefaults -machine none,accel=kvm:tcg -daemonize"] {
        assert_eq!(parse(&format!("qemu-system-x86_64 {text}")), None, "{text}");
    }
    assert_eq!(CommandLine::parse(&[]), None);
}

proptest::proptest! {
    #[test]
    fn any_words_are_read_without_panic(words in proptest::collection::vec("-{0,2}(name|m|smp|accel|M|[a-z=,.é0-9]{0,12})", 0..12)) {
        let _ = CommandLine::parse(&words);
    }

    #[test]
    fn a_value_with_doubled_commas_is_read_back(name in "[a-z,=é]{1,20}") {
        let argv = ["qemu".to_owned(), "-name".to_owned(), format!("guest={}", name.replace(',', ",,"))];
        proptest::prop_assert_eq!(CommandLine::parse(&argv).unwrap().name, Some(name));
    }
}
