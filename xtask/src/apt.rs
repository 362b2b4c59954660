//! Installs Debian packages.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use migtrace_toolchain::find_program;

use crate::progress;

/// The lock that apt-get holds while it updates the package lists.
const LISTS_LOCK: &str = "/var/lib/apt/lists/lock";
/// How long another program may hold a lock of apt's, and how often that is checked.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);
const LOCK_POLL: Duration = Duration::from_secs(1);

/// Whether packages can be installed with apt-get here (by root).
pub(crate) fn is_available() -> bool {
    find_program("apt-get").is_some()
}

/// Installs `packages`. Updates the package lists only if they are missing or out of date.
///
/// # Errors
/// When this machine's sources lack a package, when another package would have to be removed for good, or when apt-get
/// fails.
pub(crate) fn install(packages: &[String]) -> Result<()> {
    Apt::default().install(packages)
}

/// Updates the package lists.
///
/// # Errors
/// When apt-get fails.
pub(crate) fn update() -> Result<()> {
    Apt::default().update()
}

/// Whether the package lists of this machine offer `package`.
pub(crate) fn offers(package: &str) -> bool {
    Apt::default().offers(package)
}

/// How a person installs them.
pub(crate) fn by_hand(packages: &[String]) -> String {
    format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "))
}

/// This machine's apt.
#[derive(Default)]
struct Apt {
    /// A configuration that overrides the machine's own. The tests make a machine in a folder with it.
    configuration: Option<PathBuf>,
}

/// A package that is installed and that apt-get would remove.
#[derive(Debug, PartialEq, Eq)]
struct Removal {
    name: String,
    version: String,
}

impl Apt {
    fn install(&self, packages: &[String]) -> Result<()> {
        if self.unknown(packages).is_empty() {
            if self.try_install(packages).is_ok() {
                return Ok(());
            }
            // Usually the lists are older than the mirror, and the version that they name is gone.
            self.update()?;
        } else {
            // It fails if any source cannot be reached, which may be one that does not matter here.
            let updated = self.update();
            let unknown = self.unknown(packages);
            if !unknown.is_empty() {
                updated?;
                bail!(
                    "the package sources of this machine have no {} (they are in Debian 12's main and security \
                     archives)",
                    unknown.join(", ")
                );
            }
        }
        self.try_install(packages)
    }

    fn update(&self) -> Result<()> {
        wait_while_locked(Path::new(LISTS_LOCK))?;
        progress::run("Updating the package lists", "apt-get-update", self.command("apt-get").arg("update"))
    }

    fn try_install(&self, packages: &[String]) -> Result<()> {
        let what = format!("Installing {}", packages.join(" "));
        let packages = self.keep_the_rest(packages)?;
        progress::run(&what, "apt-get-install", &mut self.install_command(&packages))
    }

    /// Adds the installed packages whose version prevents the installation, each in a version that does not.
    ///
    /// A machine may have a package of a later release whose source it no longer has. apt-get does not downgrade it by
    /// itself: it would remove the package.
    fn keep_the_rest(&self, packages: &[String]) -> Result<Vec<String>> {
        let mut replaced: Vec<(Removal, String)> = Vec::new();
        loop {
            let others = replaced.iter().map(|(removal, other)| format!("{}={other}", removal.name));
            let wanted: Vec<_> = packages.iter().cloned().chain(others).collect();
            let Some(removals) = self.removals(&wanted)? else {
                return match replaced.first() {
                    Some((removal, _)) => Err(refusal(packages, removal)),
                    // It is impossible for another reason, which apt-get explains better.
                    None => Ok(wanted),
                };
            };
            if removals.is_empty() {
                for (Removal { name, version }, other) in &replaced {
                    eprintln!("{name} {version} prevents the installation: replacing it by version {other}");
                }
                return Ok(wanted);
            }
            for removal in removals {
                let is_new = replaced.iter().all(|(known, _)| known.name != removal.name);
                match self.other_version(&removal.name) {
                    Some(other) if is_new => replaced.push((removal, other)),
                    _ => return Err(refusal(packages, &removal)),
                }
            }
        }
    }

    /// What apt-get would remove to install `packages`; `None` if it cannot install them whatever it removes.
    fn removals(&self, packages: &[String]) -> Result<Option<Vec<Removal>>> {
        let mut command = self.command("apt-get");
        command.args(["install", "--simulate", "--no-install-recommends", "--allow-downgrades"]);
        let simulated = command.args(packages).stderr(Stdio::null()).output();
        let simulated = simulated.context("cannot run apt-get")?;
        let possible = simulated.status.success();
        Ok(possible.then(|| removed(&String::from_utf8_lossy(&simulated.stdout))))
    }

    /// The version of an installed package that the sources offer instead.
    fn other_version(&self, package: &str) -> Option<String> {
        other_version(&self.policy(package)?)
    }

    fn install_command(&self, packages: &[String]) -> Command {
        let mut command = self.command("apt-get");
        // --no-remove: Debian's compiler conflicts with its other compilers and with its rustup, which the person may
        // need. apt-get downgrades only packages that are named with a version.
        command.args(["install", "--yes", "--no-install-recommends", "--no-remove", "--allow-downgrades"]);
        command.args(packages);
        command
    }

    /// Those of `packages` that the package lists do not offer. Without lists, these are all.
    fn unknown<'a>(&self, packages: &'a [String]) -> Vec<&'a str> {
        packages.iter().map(String::as_str).filter(|package| !self.offers(package)).collect()
    }

    fn offers(&self, package: &str) -> bool {
        self.policy(package).is_some_and(|policy| has_candidate(&policy))
    }

    /// What apt knows of the versions of a package.
    fn policy(&self, package: &str) -> Option<String> {
        let output = self.command("apt-cache").args(["policy", package]).stderr(Stdio::null()).output();
        Some(String::from_utf8_lossy(&output.ok()?.stdout).into_owned())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Another program may be installing: wait for it rather than fail.
        let timeout = format!("DPkg::Lock::Timeout={}", LOCK_PATIENCE.as_secs());
        command.args(["-q", "-o", &timeout]);
        // Its output is parsed.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").stdin(Stdio::null());
        if let Some(configuration) = &self.configuration {
            command.env("APT_CONFIG", configuration);
        }
        command
    }
}

fn refusal(packages: &[String], Removal { name, version }: &Removal) -> anyhow::Error {
    anyhow!(
        "installing {} would remove {name} {version}, and the package sources of this machine have no version of it \
         that fits. If you do not need it, remove it (`apt-get remove {name}`), and run this again",
        packages.join(" ")
    )
}

/// Waits until no other program updates the package lists, as a machine does soon after it boots. apt-get waits only
/// for the lock of the packages.
fn wait_while_locked(lock: &Path) -> Result<()> {
    let started = Instant::now();
    while is_locked(lock) {
        if started.elapsed() >= LOCK_PATIENCE {
            bail!("another program has held {} for {} s", lock.display(), LOCK_PATIENCE.as_secs());
        }
        if started.elapsed() < LOCK_POLL {
            eprintln!("Another program is updating the package lists: waiting for it ...");
        }
        thread::sleep(LOCK_POLL);
    }
    Ok(())
}

/// Whether a process holds a lock on the file, by the list of the kernel: trying the lock would take it.
fn is_locked(path: &Path) -> bool {
    let Ok(meta) = path.metadata() else { return false };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = meta.ino().to_string();
    // 1: POSIX  ADVISORY  WRITE 4242 fe:00:131 0 EOF
    locks
        .lines()
        .any(|line| line.split_whitespace().nth(5).and_then(|file| file.rsplit(':').next()) == Some(&*inode))
}

/// Reads what a simulated `apt-get install` would remove: lines like `Remv qemu-utils [1:10.0.2+ds-2]`.
fn removed(simulation: &str) -> Vec<Removal> {
    let removal = |line: &str| {
        let mut words = line.strip_prefix("Remv ")?.split_whitespace();
        let (name, version) = (words.next()?, words.next().unwrap_or_default());
        Some(Removal { name: name.into(), version: version.trim_matches(['[', ']']).into() })
    };
    simulation.lines().filter_map(removal).collect()
}

/// Whether `apt-cache policy` names a version that can be installed.
fn has_candidate(policy: &str) -> bool {
    let mut candidates = policy.lines().filter_map(|line| line.trim().strip_prefix("Candidate:"));
    candidates.any(|candidate| candidate.trim() != "(none)")
}

/// Reads from `apt-cache policy` the version to install instead: the highest priority, and among equals the newest.
fn other_version(policy: &str) -> Option<String> {
    let table = policy.lines().skip_while(|line| line.trim() != "Version table:").skip(1);
    // A version and its priority are indented by five columns; the installed one has `***` there; sources are deeper.
    let versions = table.filter_map(|line| {
        let line = line.strip_prefix("     ").filter(|rest| !rest.starts_with(' '))?;
        let (version, priority) = line.split_once(' ')?;
        let priority: i32 = priority.trim().parse().ok()?;
        // The administrator forbids versions below 0.
        (priority >= 0).then_some((priority, version))
    });
    // The table goes from newest to oldest, so the first of equals is the newest.
    let best = versions.reduce(|best, other| if other.0 > best.0 { other } else { best })?;
    Some(best.1.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER_RELEASE: &str = "qemu-utils:
  Installed: 1:10.0.2+ds-2+deb13u1~bpo12+1
  Candidate: 1:10.0.2+ds-2+deb13u1~bpo12+1
  Version table:
 *** 1:10.0.2+ds-2+deb13u1~bpo12+1 100
        100 /var/lib/dpkg/status
     1:7.2+dfsg-7+deb12u18+b3 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
     1:7.2+dfsg-7+deb12u15 500
        500 http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
";

    #[test]
    fn the_version_in_place_of_the_installed_one_is_the_newest_of_the_sources() {
        assert_eq!(other_version(LATER_RELEASE).as_deref(), Some("1:7.2+dfsg-7+deb12u18+b3"));
    }

    #[test]
    fn a_version_of_lower_priority_or_a_forbidden_one_is_not_taken() {
        let pinned = LATER_RELEASE.replace("u18+b3 500", "u18+b3 50");
        assert_eq!(other_version(&pinned).as_deref(), Some("1:7.2+dfsg-7+deb12u15"));
        let forbidden = LATER_RELEASE.replace(" 500\n", " -1\n");
        assert_eq!(other_version(&forbidden), None);
    }

    #[test]
    fn a_package_that_only_this_machine_has_has_no_other_version() {
        let end = LATER_RELEASE.find("     1:7.2").unwrap();
        assert_eq!(other_version(&LATER_RELEASE[..end]), None);
        assert_eq!(other_version(""), None);
    }

    #[test]
    fn removals_are_read_from_a_simulation() {
        let simulation = "The following packages will be REMOVED:\n  qemu-utils rustc\n\
                          Remv qemu-utils [1:10.0.2+ds-2]\nRemv rustc [1.63.0+dfsg1-2] [cargo:amd64 ]\n\
                          Inst qemu-system-common (1:7.2 Debian:12.15/oldstable [amd64])\n";
        let removal = |name: &str, version: &str| Removal { name: name.into(), version: version.into() };
        let expected = [removal("qemu-utils", "1:10.0.2+ds-2"), removal("rustc", "1.63.0+dfsg1-2")];
        assert_eq!(removed(simulation), expected);
    }

    #[test]
    fn a_package_without_a_candidate_is_unknown() {
        assert!(has_candidate(LATER_RELEASE));
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n"));
        assert!(!has_candidate(""));
    }

    #[test]
    fn a_lock_is_seen_while_it_is_held() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_locked(file.path()));
        file.as_file().lock().unwrap();
        assert!(is_locked(file.path()));
        file.as_file().unlock().unwrap();
        assert!(!is_locked(file.path()));
        assert!(!is_locked(Path::new("/no/such/file")));
    }

    /// A machine in a folder: what is installed there, and a source of packages.
    fn machine(folder: &Path, installed: &str, offered: &str) -> Apt {
        for directory in ["source", "lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(folder.join(directory)).unwrap();
        }
        let path = |file: &str| folder.join(file).display().to_string();
        fs::write(path("status"), installed).unwrap();
        fs::write(path("source/Packages"), offered).unwrap();
        fs::write(path("sources.list"), format!("deb [trusted=yes] file:{} ./\n", path("source"))).unwrap();
        let settings = [
            ("Dir::State::status", path("status")),
            ("Dir::State::lists", path("lists")),
            ("Dir::Cache", path("cache")),
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", path("parts")),
            ("Dir::Etc::preferencesparts", path("parts")),
            ("APT::Architecture", "amd64".into()),
            // Root's apt reads files as another user, who may not look into the folder.
            ("APT::Sandbox::User", "root".into()),
            ("Debug::NoLocking", "true".into()),
        ];
        let lines = settings.map(|(key, value)| format!("{key} \"{value}\";\n"));
        fs::write(path("apt.conf"), lines.concat()).unwrap();
        Apt { configuration: Some(folder.join("apt.conf")) }
    }

    fn package(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: amd64\n\
             Maintainer: a test\nDescription: none\nFilename: ./{name}_{version}.deb\nSize: 1\n{more}\n"
        )
    }

    fn updated(apt: &Apt) {
        let output = apt.command("apt-get").arg("update").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    const TOO_NEW: &str = "1:10.0.2+ds-2+deb13u1~bpo12+1";
    const BREAKS: &str = "Breaks: qemu-system-common (<< 1:8.1.0+ds-3~)\n";

    #[test]
    fn a_package_of_a_later_release_is_downgraded_not_removed() {
        if !is_available() {
            eprintln!("skipped: no apt-get here");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let offered = package("qemu-system-common", "1:7.2", "") + &package("qemu-utils", "1:7.2", "");
        let apt = machine(folder.path(), &package("qemu-utils", TOO_NEW, BREAKS), &offered);
        let wanted = ["qemu-system-common".to_owned()];
        assert_eq!(apt.unknown(&wanted), ["qemu-system-common"], "there are no lists yet");
        updated(&apt);
        assert_eq!(apt.unknown(&wanted), [""; 0]);
        assert_eq!(apt.keep_the_rest(&wanted).unwrap(), ["qemu-system-common", "qemu-utils=1:7.2"]);

        let all = apt.keep_the_rest(&wanted).unwrap();
        let install = apt.install_command(&all).arg("--simulate").output().unwrap();
        let output = String::from_utf8_lossy(&install.stdout);
        assert!(install.status.success(), "{install:?}");
        assert!(output.contains(&format!("Inst qemu-utils [{TOO_NEW}] (1:7.2")), "{output}");
    }

    #[test]
    fn a_package_without_another_version_that_fits_is_left_to_the_person() {
        if !is_available() {
            eprintln!("skipped: no apt-get here");
            return;
        }
        let wanted = ["qemu-system-common".to_owned()];
        let common = package("qemu-system-common", "1:7.2", "");
        for offered in [common.clone(), common + &package("qemu-utils", "1:7.9", BREAKS)] {
            let folder = tempfile::tempdir().unwrap();
            let apt = machine(folder.path(), &package("qemu-utils", TOO_NEW, BREAKS), &offered);
            updated(&apt);
            let refusal = apt.keep_the_rest(&wanted).unwrap_err().to_string();
            assert!(refusal.contains(&format!("would remove qemu-utils {TOO_NEW}")), "{refusal}");
        }
    }
}
