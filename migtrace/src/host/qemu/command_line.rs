//! QEMU's command line, read as QEMU reads it (`qemu_init` in softmmu/vl.c, `opts_parse` in util/qemu-option.c).

use crate::host::mac::Mac;

/// Options without a value, of QEMU 5 to 10. Every other one takes the next argument.
const FLAGS: &[&str] = &[
    "S",
    "alt-grab",
    "audio-help",
    "async-teardown",
    "ctrl-grab",
    "curses",
    "daemonize",
    "enable-fips",
    "enable-kvm",
    "enable-sync-profile",
    "full-screen",
    "h",
    "help",
    "mem-prealloc",
    "no-acpi",
    "no-fd-bootchk",
    "no-frame",
    "no-hpet",
    "no-kvm",
    "no-kvm-irqchip",
    "no-kvm-pit",
    "no-kvm-pit-reinjection",
    "no-quit",
    "no-reboot",
    "no-shutdown",
    "no-user-config",
    "nodefaults",
    "nodefconfig",
    "nographic",
    "old-param",
    "only-migratable",
    "portrait",
    "preconfig",
    "s",
    "semihosting",
    "show-cursor",
    "singlestep",
    "snapshot",
    "usb",
    "version",
    "win2k-hack",
    "xen-attach",
    "xen-domid-restrict",
];

/// Options whose value may well begin with a dash; after an option that is not known, a dash begins the next one.
const FREE_TEXT: &[&str] = &["append", "fw_cfg", "global", "set", "smbios"];

/// Options that are read here, and so always followed by their value.
const READ: &[&str] =
    &["name", "uuid", "m", "smp", "accel", "machine", "M", "incoming", "device", "nic", "net"];

/// What the command line says about the VM.
#[derive(Debug, Default, PartialEq)]
pub(super) struct CommandLine {
    pub(super) name: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) vcpus: Option<u32>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) incoming: bool,
    /// The MACs of the network interfaces. Those that QEMU makes up are not known.
    pub(super) macs: Vec<String>,
    /// The accelerators to try, in order.
    accelerators: Vec<String>,
}

impl CommandLine {
    /// Reads a command line; `None` for one that starts no VM: a question (`-version`, `-help`), or the empty machine
    /// with which libvirt asks a binary for its abilities.
    pub(super) fn parse(argv: &[String]) -> Option<Self> {
        let mut line = Self::default();
        let mut smp = Vec::new();
        let mut memory = None;
        let mut smbios_uuid = None;
        let mut machine = Vec::new();
        for (option, value) in options(argv.get(1..)?) {
            match option {
                "name" => assign(&mut line.name, find(&properties(value, "guest"), "guest")),
                "uuid" => assign(&mut line.uuid, Some(value.to_owned())),
                // Proxmox gives the UUID this way only.
                "smbios" => assign(&mut smbios_uuid, find(&properties(value, "file"), "uuid")),
                "m" => assign(&mut memory, find(&properties(value, "size"), "size")),
                "smp" => smp.extend(properties(value, "cpus")),
                "accel" => line.accelerators.extend(find(&properties(value, "accel"), "accel")),
                "enable-kvm" => line.accelerators.push("kvm".to_owned()),
                "machine" | "M" => machine.extend(properties(value, "type")),
                "incoming" => line.incoming = true,
                "device" | "nic" | "net" => line.macs.extend(mac(value).map(|mac| mac.to_string())),
                "h" | "help" | "version" => return None,
                _ => {}
            }
        }
        if find(&machine, "type").as_deref() == Some("none") {
            return None;
        }
        if line.accelerators.is_empty() {
            let list = find(&machine, "accel").unwrap_or_else(|| default_accelerators(argv).to_owned());
            line.accelerators = list.split(':').map(ToOwned::to_owned).collect();
        }
        smp.extend(
            machine
                .iter()
                .filter_map(|(key, value)| Some((key.strip_prefix("smp.")?.to_owned(), value.clone()))),
        );
        line.vcpus = vcpus(&smp);
        line.memory_bytes =
            memory.or_else(|| find(&machine, "memory.size")).and_then(|size| memory_bytes(&size));
        line.uuid = line.uuid.or(smbios_uuid);
        Some(line)
    }

    /// The accelerator in use. `kvm` says whether the process holds a virtual machine of KVM, `None` when that cannot
    /// be seen.
    pub(super) fn accelerator(&self, kvm: Option<bool>) -> Option<String> {
        let first = self.accelerators.first();
        let chosen = match kvm {
            Some(true) => return Some("kvm".to_owned()),
            // KVM was tried and refused, unless it is the only choice: then QEMU is just starting.
            Some(false) => self.accelerators.iter().find(|name| *name != "kvm").or(first),
            None => first,
        };
        chosen.cloned()
    }
}

/// QEMU's own default depends on the name it is called by (`configure_accelerators`).
fn default_accelerators(argv: &[String]) -> &'static str {
    if argv.first().is_some_and(|command| command.ends_with("kvm")) { "kvm:tcg" } else { "tcg" }
}

/// The options and their values (empty for those that have none). One dash is as good as two.
fn options(arguments: &[String]) -> Vec<(&str, &str)> {
    let mut options = Vec::new();
    let mut arguments = arguments.iter().map(String::as_str).peekable();
    while let Some(argument) = arguments.next() {
        // What is no option is a disk image.
        let Some(option) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            continue;
        };
        let takes_any = READ.contains(&option) || FREE_TEXT.contains(&option);
        let value = if FLAGS.contains(&option) {
            None
        } else {
            arguments.next_if(|next| takes_any || !next.starts_with('-') || *next == "-")
        };
        options.push((option, value.unwrap_or_default()));
    }
    options
}

/// `value,key=value,flag` as pairs. The first value may stand without its key, which is then `implied`; a comma
/// within a value is doubled; a key without a value is a switch, turned off by the prefix `no`.
fn properties(text: &str, implied: &str) -> Vec<(String, String)> {
    let mut properties = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let key_end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(key_end);
        if let Some(after) = after.strip_prefix('=') {
            let (value, after) = value(after);
            properties.push((key.to_owned(), value));
            rest = after;
        } else if properties.is_empty() {
            let (value, after) = value(rest);
            properties.push((implied.to_owned(), value));
            rest = after;
        } else {
            let (key, state) = key.strip_prefix("no").map_or((key, "on"), |key| (key, "off"));
            properties.push((key.to_owned(), state.to_owned()));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
    }
    properties
}

/// A value up to the first comma that is not doubled, and what follows that comma.
fn value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        value.push_str(&rest[..comma]);
        rest = &rest[comma + 1..];
        let Some(after) = rest.strip_prefix(',') else { return (value, rest) };
        value.push(',');
        rest = after;
    }
    value.push_str(rest);
    (value, "")
}

/// The last value of a key, which overrides the earlier ones.
fn find(properties: &[(String, String)], key: &str) -> Option<String> {
    properties.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone())
}

/// A value that is not there, or empty, says nothing.
fn assign(target: &mut Option<String>, value: Option<String>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        *target = Some(value);
    }
}

/// The MAC of a network interface: `mac` of `-device` (in JSON too) and `-nic`, `macaddr` of `-net nic`.
fn mac(value: &str) -> Option<Mac> {
    let text = if value.starts_with('{') {
        let device: serde_json::Value = serde_json::from_str(value).ok()?;
        device.get("mac")?.as_str()?.to_owned()
    } else {
        let properties = properties(value, "type");
        find(&properties, "mac").or_else(|| find(&properties, "macaddr"))?
    };
    text.parse().ok()
}

/// The vCPUs present at the start: `cpus`, else `maxcpus`, else the product of the topology (`machine_parse_smp_config`).
/// `None` when a number cannot be read.
fn vcpus(smp: &[(String, String)]) -> Option<u32> {
    let number = |key| find(smp, key).map(|value| value.parse::<u32>().ok());
    if let Some(cpus) = number("cpus").or_else(|| number("maxcpus")) {
        return cpus;
    }
    ["drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"]
        .into_iter()
        .try_fold(1_u32, |product, level| product.checked_mul(number(level).unwrap_or(Some(1))?))
}

/// A size in bytes; without a suffix it is in MiB (`qemu_strtosz_MiB`). `None` when it cannot be read.
fn memory_bytes(text: &str) -> Option<u64> {
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        // A suffix B or E would be a digit; QEMU takes none of them here.
        return u64::from_str_radix(hexadecimal, 16).ok()?.checked_mul(1 << 20);
    }
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" => 10,
        "" | "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    let unit = 1_u64 << shift;
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let (whole, fraction) = digits.split_once('.')?;
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(unit)?.checked_add((fraction * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
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
    fn nothing_said_is_nothing_known_but_one_vcpu() {
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
            assert_eq!(
                vm(option).accelerator(kvm_open).as_deref(),
                Some(accelerator),
                "{option} {kvm_open:?}"
            );
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
    fn an_option_that_ends_too_early() {
        for option in ["-name", "-m", "-smp", "-uuid", "-accel", "-name ,", "-smp ,,", "-"] {
            vm(option);
        }
    }

    #[test]
    fn a_question_to_the_binary_is_no_vm() {
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
}
