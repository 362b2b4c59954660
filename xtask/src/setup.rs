//! `cargo xtask setup`: installs what the other commands need and the machine lacks.

use std::fmt::Write as _;
use std::{panic, thread};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::prerequisites::{Action, Group, Missing, Prerequisite, TABLE};

/// Installs everything but what only packages and `cargo xtask fuzz` need, and lists what is there.
///
/// # Errors
/// When something is missing that cannot be installed from here: lists it with the commands that install it.
pub(crate) fn run() -> Result<()> {
    for (name, found) in install(&[Group::Build, Group::Lint, Group::Test, Group::Lab])? {
        eprintln!("{name:<20}  {found}");
    }
    Ok(())
}

/// Installs what these groups need. Prints nothing if it is all there.
///
/// # Errors
/// As [`run`].
pub(crate) fn ensure(groups: &[Group]) -> Result<()> {
    install(groups).map(drop)
}

/// Installs what these groups need, and returns what was found for each prerequisite.
fn install(groups: &[Group]) -> Result<Vec<(&'static str, String)>> {
    let needed: Vec<_> = TABLE.iter().filter(|prerequisite| groups.contains(&prerequisite.group)).collect();
    let states = find_all(&needed);

    let missing: Vec<_> =
        needed.iter().zip(&states).filter_map(|(p, state)| Some((*p, state.as_ref().err()?))).collect();
    refuse_the_impossible(&missing)?;
    // All packages in one transaction: it is quicker, and shows at once what will be installed.
    let mut packages: Vec<_> = missing.iter().flat_map(|(_, missing)| package_names(missing)).collect();
    packages.sort();
    packages.dedup();
    if !packages.is_empty() {
        Action::Packages(packages.clone()).perform()?;
    }

    let found = needed.iter().zip(states).map(|(prerequisite, state)| {
        let found = state.or_else(|_| {
            complete(prerequisite, &packages).with_context(|| format!("cannot set up: {}", prerequisite.name))
        })?;
        Ok((prerequisite.name, found))
    });
    found.collect()
}

/// Looks for all in parallel, as nearly all of the time is spent waiting for other programs.
fn find_all(prerequisites: &[&Prerequisite]) -> Vec<Result<String, Missing>> {
    thread::scope(|scope| {
        let searches: Vec<_> =
            prerequisites.iter().map(|prerequisite| scope.spawn(prerequisite.find)).collect();
        let states = searches.into_iter().map(thread::ScopedJoinHandle::join);
        states.map(|state| state.unwrap_or_else(|panic| panic::resume_unwind(panic))).collect()
    })
}

/// Does what a prerequisite needs beyond the packages that are installed now, and returns what is found then.
fn complete(prerequisite: &Prerequisite, installed: &[String]) -> Result<String> {
    // Looked for again: what is missing depends on what was installed before.
    let missing = match (prerequisite.find)() {
        Ok(found) => return Ok(found),
        Err(missing) => missing,
    };
    refuse_the_impossible(&[(prerequisite, &missing)])?;
    for action in &missing.actions {
        let done =
            matches!(action, Action::Packages(names) if names.iter().all(|name| installed.contains(name)));
        if !done {
            action.perform()?;
        }
    }
    (prerequisite.find)().map_err(|missing| anyhow!("every step succeeded, and yet: {}", missing.what))
}

fn package_names(missing: &Missing) -> Vec<String> {
    let names = missing.actions.iter().filter_map(|action| match action {
        Action::Packages(names) => Some(names.clone()),
        _ => None,
    });
    names.flatten().collect()
}

/// Lists what only a person can install.
fn refuse_the_impossible(missing: &[(&Prerequisite, &Missing)]) -> Result<()> {
    let mut list = String::new();
    for (prerequisite, missing) in missing {
        if missing.actions.iter().all(Action::is_possible) {
            continue;
        }
        write!(list, "\n{}: {}", prerequisite.name, missing.what)?;
        for action in &missing.actions {
            write!(list, "\n    {}", action.by_hand())?;
        }
    }
    if list.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks what cannot be installed from here (root and apt-get are needed):{list}")
}

#[cfg(test)]
mod tests {
    use crate::paths;

    /// `migtrace` builds only with the eBPF toolchain, and this program installs that.
    #[test]
    fn xtask_builds_without_what_it_sets_up() {
        let mut tree = paths::cargo();
        tree.args(["tree", "--locked", "--package", "xtask", "--edges", "normal,build", "--prefix", "none"]);
        let output = tree.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let packages = String::from_utf8(output.stdout).unwrap();
        let needs = |name: &str| packages.lines().any(|line| line.split(' ').next() == Some(name));
        assert!(["xtask", "migtrace-lab", "migtrace-toolchain"].into_iter().all(needs), "{packages}");
        assert!(!needs("migtrace") && !needs("migtrace-ebpf"), "{packages}");
    }
}
