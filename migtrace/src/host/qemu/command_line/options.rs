//! The syntax of QEMU's command line, as QEMU reads it (`qemu_init` in softmmu/vl.c, `opts_parse` in util/qemu-option.c).

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

/// Options whose value may begin with a dash. After an unknown option, a dash begins the next option.
const FREE_TEXT: &[&str] = &["append", "fw_cfg", "global", "set", "smbios"];

/// Options that are read here. They are always followed by their value.
const READ: &[&str] =
    &["name", "uuid", "m", "smp", "accel", "machine", "M", "incoming", "device", "nic", "net"];

/// The options and their values (empty for an option without one). One dash means the same as two.
pub(super) fn options(arguments: &[String]) -> Vec<(&str, &str)> {
    let mut options = Vec::new();
    let mut arguments = arguments.iter().map(String::as_str).peekable();
    while let Some(argument) = arguments.next() {
        // Anything else is a disk image.
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

/// `value,key=value,flag` as pairs. The first value may come without its key, which is then `implied`. A comma within a
/// value is doubled. A key without a value is a switch, which the prefix `no` turns off.
pub(super) fn properties(text: &str, implied: &str) -> Vec<(String, String)> {
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

/// The last value of a key: it overrides the earlier ones.
pub(super) fn find(properties: &[(String, String)], key: &str) -> Option<String> {
    properties.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone())
}
