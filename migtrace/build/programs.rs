//! The eBPF programs, compressed: `kernel::object` includes `OUT_DIR/migtrace-programs.gz`.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use migtrace_toolchain::{OVERRIDE, Toolchain, find_program};

/// The file that the programs are in, which is what their package calls its binary.
const PROGRAMS: &str = "migtrace-programs";
/// What the library includes.
const COMPRESSED: &str = "migtrace-programs.gz";

/// Builds them, into `OUT_DIR`.
///
/// # Errors
/// What is missing, or does not build.
pub(super) fn build() -> Result<(), String> {
    if is_for_clippy() {
        // It checks the code that includes the programs, whatever is in them. `cargo xtask test` checks theirs.
        // Only this file matters: else cargo would run it, and check the library, again after every change of a test.
        println!("cargo::rerun-if-changed=build");
        let out_dir = env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?;
        return fs::write(Path::new(&out_dir).join(COMPRESSED), []).map_err(|error| error.to_string());
    }
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    // aya-build adds the folder of the programs. Their dependencies and their profile are in these two files.
    println!("cargo::rerun-if-changed=../Cargo.toml");
    println!("cargo::rerun-if-changed=../Cargo.lock");

    let lacking = |what: String| format!("cannot build the eBPF programs: {what}. Run `cargo xtask setup`");
    let toolchain =
        Toolchain::find().map_err(|why| lacking(format!("no toolchain for the eBPF target ({why})")))?;
    let linker = find_program("bpf-linker").ok_or_else(|| lacking("bpf-linker is not installed".into()))?;
    println!("cargo::rerun-if-changed={}", linker.display());
    prepare_environment(&toolchain, &linker)?;

    let features: &[_] =
        if env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() { &["kernel-log"] } else { &[] };
    let package = aya_build::Package {
        name: "migtrace-ebpf",
        root_dir: "../migtrace-ebpf",
        features,
        ..Default::default()
    };
    // Without rustup, aya-build uses the cargo in PATH whatever the name.
    let name = aya_build::Toolchain::Custom(toolchain.name.as_deref().unwrap_or("PATH"));
    aya_build::build_ebpf([package], name).map_err(|error| {
        // A directive to cargo is one line.
        for line in format!("{error:#}").lines() {
            println!("cargo::warning={line}");
        }
        format!(
            "the eBPF programs do not build with {toolchain}; the warnings give the reason. \
             If they are about bitcode or the linker, run `cargo xtask setup`"
        )
    })?;
    let out_dir = env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?;
    pack(Path::new(&out_dir)).map_err(|error| format!("cannot pack the eBPF programs: {error}"))
}

/// Makes the file that the library includes.
fn pack(out_dir: &Path) -> Result<(), Box<dyn Error>> {
    let programs = strip(&fs::read(out_dir.join(PROGRAMS))?)?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&programs)?;
    Ok(fs::write(out_dir.join(COMPRESSED), encoder.finish()?)?)
}

/// Removes what only a debugger reads, most of the file. The kernel gets its types and lines from BTF, which stays.
fn strip(content: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut object = object::build::elf::Builder::read(content)?;
    for section in &mut object.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    object.delete_orphans();
    // LLVM puts the names of the sections among those of the symbols; this writer does not.
    let names = object.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = object::build::elf::SectionData::SectionString;
    object.set_section_sizes();
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(stripped)
}

/// Whether only lints want the package. What is built for them has folders of its own.
fn is_for_clippy() -> bool {
    let wrapper = env::var_os("RUSTC_WORKSPACE_WRAPPER");
    wrapper.is_some_and(|wrapper| Path::new(&wrapper).file_stem() == Some(OsStr::new("clippy-driver")))
}

/// Sets what aya-build, and the cargo that it starts, read from the environment.
fn prepare_environment(toolchain: &Toolchain, linker: &Path) -> Result<(), String> {
    let mut settings = vec![
        // aya-build repeats every line of that cargo as a warning of this package: only real ones are wanted.
        ("CARGO_TERM_QUIET", "true".into()),
    ];
    if toolchain.needs_bootstrap {
        settings.push(("RUSTC_BOOTSTRAP", "1".into()));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let rustup = toolchain.name.as_ref().and_then(|_| find_program("rustup"));
    let found = [Some(linker), rustup.as_deref()].into_iter().flatten();
    let directories = env::split_paths(&path).chain(found.filter_map(Path::parent).map(Into::into));
    settings.push(("PATH", env::join_paths(directories).map_err(|error| format!("PATH: {error}"))?));
    for (key, value) in settings {
        // SAFETY: the build script has started no thread, so nothing else reads the environment.
        unsafe { env::set_var(key, value) };
    }
    Ok(())
}
