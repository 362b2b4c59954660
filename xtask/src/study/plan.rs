//! The plan of the study, made from its text in this folder.

use anyhow::{Result, bail};
use migtrace_lab::most_dirty_mib;

use super::Options;
use super::flavours::{Flavour, Storage};

const TEMPLATE: &str = include_str!("lab.toml");

/// How fast a loaded guest rewrites its memory: about a third of what the link carries.
const DIRTY_MIB_PER_S: u64 = 40;
/// How much of its memory a loaded guest fills, if it needs no more of it for itself.
const LOADED_PERCENT: u64 = 75;
const MIB: f64 = (1 << 20) as f64;

/// A guest as it is run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scaled {
    flavour: Flavour,
    memory_mib: u64,
    loaded_mib: u64,
    disk_mib: u64,
    disk_data_mib: u64,
}

impl Scaled {
    fn new(flavour: Flavour, scale: f64) -> Result<Self> {
        let size = flavour.size();
        let scaled = |number: f64| (number * scale).round() as u64;
        let memory_mib = scaled(size.memory_mib as f64);
        let most_mib = most_dirty_mib(memory_mib);
        if most_mib == 0 {
            bail!(
                "flavour {} would have {memory_mib} MiB of memory, too little to boot: use a larger --scale, or leave it out \
                 with --only",
                flavour.name()
            );
        }
        Ok(Self {
            flavour,
            memory_mib,
            loaded_mib: (memory_mib * LOADED_PERCENT / 100).min(most_mib),
            disk_mib: scaled(size.disk_gib as f64 * 1024.0),
            disk_data_mib: scaled(f64::from(flavour.unloaded_data_mb()) * 1e6 / MIB),
        })
    }

    /// Its line in the plan.
    fn value(&self) -> String {
        let Self { flavour, memory_mib, loaded_mib, disk_mib, disk_data_mib } = self;
        let (name, vcpus) = (flavour.name(), flavour.size().vcpus);
        format!(
            "  {{ name = \"{name}\", set = {{ VCPUS = {vcpus}, MEMORY_MIB = {memory_mib}, LOADED_MIB = {loaded_mib}, \
             DISK_MIB = {disk_mib}, DISK_DATA_MIB = {disk_data_mib} }} }},"
        )
    }

    /// The same for a reader.
    fn description(&self) -> String {
        let Self { flavour, memory_mib, loaded_mib, disk_mib, disk_data_mib } = self;
        format!(
            "{}: {} vCPU, {memory_mib} MiB of memory ({loaded_mib} MiB when loaded), a disk of {disk_mib} MiB with \
             {disk_data_mib} MiB of data.",
            flavour.name(),
            flavour.size().vcpus
        )
    }
}

/// The plan for these options.
///
/// # Errors
/// When a guest would be too small to boot.
pub(super) fn plan(options: &Options) -> Result<String> {
    let scaled: Vec<_> =
        options.flavours().map(|flavour| Scaled::new(flavour, options.scale)).collect::<Result<_>>()?;
    let lines = |line: fn(&Scaled) -> String| scaled.iter().map(line).collect::<Vec<_>>();
    let storage: Vec<_> = options.storage.iter().map(|storage| format!("\"{}\"", storage.name())).collect();
    let published: Vec<_> =
        options.flavours().flat_map(|flavour| published(flavour, &options.storage)).collect();
    let replaced = [
        ("@SCALE@", options.scale.to_string()),
        ("@ABOUT_FLAVOURS@", lines(Scaled::description).join("\n")),
        ("@DIRTY_RATE@", DIRTY_MIB_PER_S.to_string()),
        ("@FLAVOURS@", lines(Scaled::value).join("\n")),
        ("@STORAGE@", storage.join(", ")),
        ("@QEMU@", options.qemu.name().to_owned()),
        ("@REPETITIONS@", options.repetitions.to_string()),
        ("@PUBLISHED@", published.join("\n")),
    ];
    // The comment at its beginning is about the words.
    let text = TEMPLATE.split_once("\n\n").map_or(TEMPLATE, |(_, plan)| plan);
    Ok(replaced.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value)))
}

/// How much memory the largest of the guests fills on one host, in MiB.
///
/// # Errors
/// As [`plan`].
pub(super) fn most_memory_mib(options: &Options) -> Result<u64> {
    let filled = options.flavours().map(|flavour| Scaled::new(flavour, options.scale));
    let filled: Vec<_> = filled.map(|scaled| Ok(scaled?.loaded_mib)).collect::<Result<_>>()?;
    Ok(filled.into_iter().max().unwrap_or_default())
}

/// The lines of the plan with what was measured in 2014.
fn published(flavour: Flavour, storage: &[Storage]) -> Vec<String> {
    let measured = flavour.measured().into_iter().filter(|figures| storage.contains(&figures.storage));
    let lines = measured.map(|figures| {
        let data = figures.data_mb.map(|data| format!(", data_mb = {data}")).unwrap_or_default();
        format!(
            "  {{ flavour = \"{}\", load = \"{}\", storage = \"{}\", time_s = {:?}, downtime_s = {:?}{data} }},",
            flavour.name(),
            figures.load,
            figures.storage.name(),
            figures.time_s,
            figures.downtime_s
        )
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Cli::parse_from([&["study"], arguments].concat()).options
    }

    #[test]
    fn a_guest_is_scaled_in_memory_and_disk_but_not_in_vcpus() {
        let wanted = Scaled {
            flavour: Flavour::Xl,
            memory_mib: 4096,
            loaded_mib: 3072,
            disk_mib: 30720,
            disk_data_mib: 763,
        };
        assert_eq!(Scaled::new(Flavour::Xl, 0.25).unwrap(), wanted);
        assert!(wanted.value().contains("VCPUS = 8, MEMORY_MIB = 4096"), "{}", wanted.value());
    }

    #[test]
    fn a_guest_that_needs_most_of_its_memory_for_itself_fills_less() {
        let small = Scaled::new(Flavour::T, 0.25).unwrap();
        assert_eq!(small.memory_mib, 128);
        assert!((32..96).contains(&small.loaded_mib), "{small:?}");
        let error = Scaled::new(Flavour::T, 0.1).unwrap_err().to_string();
        assert!(error.contains("51 MiB") && error.contains("--only"), "{error}");
    }

    #[test]
    fn the_guests_are_those_that_contributors_read_about() {
        let text = std::fs::read_to_string(crate::paths::root().join("docs/CONTRIBUTING.md")).unwrap();
        let scale = options(&[]).scale;
        for flavour in Flavour::ALL {
            let Scaled { memory_mib, loaded_mib, disk_mib, disk_data_mib, .. } =
                Scaled::new(flavour, scale).unwrap();
            let (name, vcpus) = (flavour.name(), flavour.size().vcpus);
            let row = format!(
                "| {name} | {vcpus} | {memory_mib} | {loaded_mib} | {disk_mib} | {disk_data_mib} |\n"
            );
            assert!(text.contains(&row), "no line {row}");
        }
    }

    #[test]
    fn a_plan_has_what_the_options_ask_for_and_no_word_is_left() {
        let plan = plan(&options(&["--only", "t,xl", "--storage", "shared", "--repetitions", "7"])).unwrap();
        assert!(!plan.contains('@'), "{plan}");
        assert!(plan.contains("repetitions = 7") && plan.contains("values = [\"shared\"]"), "{plan}");
        let names = |name: &str| plan.contains(&format!("{{ name = \"{name}\""));
        assert_eq!(["t", "s", "m", "l", "xl"].map(names), [true, false, false, false, true]);
        // Of the sequel with shared storage only.
        assert!(plan.contains("time_s = 15.3") && !plan.contains("data_mb"), "{plan}");
    }
}
