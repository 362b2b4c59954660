//! `cargo xtask setup`: installs what the other commands need and the machine lacks.

use std::fmt::Write as _;
use std::{panic, thread};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::capability::{Action, Capability, Group, Missing, TABLE};

/// Brings everything, and lists what is there.
///
/// # Errors
/// When something is lacking that cannot be installed from here; the message lists it and says how to get it.
pub(crate) fn run() -> Result<()> {
    for (name, found) in bring_groups(&[Group::Build, Group::Lint, Group::Lab])? {
        eprintln!("{name:<20}  {found}");
    }
    Ok(())
}

/// Brings what these groups need. Says nothing if it is all there.
///
/// # Errors
/// As [`run`].
pub(crate) fn ensure(groups: &[Group]) -> Result<()> {
    bring_groups(groups).map(drop)
}

/// Brings what these groups need, and returns what is there of each capability.
fn bring_groups(groups: &[Group]) -> Result<Vec<(&'static str, String)>> {
    let needed: Vec<_> = TABLE.iter().filter(|capability| groups.contains(&capability.group)).collect();
    let states = probe_all(&needed);

    let missing: Vec<_> =
        needed.iter().zip(&states).filter_map(|(c, state)| Some((*c, state.as_ref().err()?))).collect();
    refuse_the_impossible(&missing)?;
    // One transaction for all packages: quicker, and the person sees at once what comes.
    let mut packages: Vec<_> = missing.iter().flat_map(|(_, missing)| package_names(missing)).collect();
    packages.sort();
    packages.dedup();
    if !packages.is_empty() {
        Action::Packages(packages.clone()).perform()?;
    }

    let brought = needed.iter().zip(states).map(|(capability, state)| {
        let found = state.or_else(|_| {
            bring(capability, &packages).with_context(|| format!("cannot set up: {}", capability.name))
        })?;
        Ok((capability.name, found))
    });
    brought.collect()
}

/// Probes in parallel, as nearly all of the time goes into waiting for other programs.
fn probe_all(capabilities: &[&Capability]) -> Vec<Result<String, Missing>> {
    thread::scope(|scope| {
        let probes: Vec<_> = capabilities.iter().map(|capability| scope.spawn(capability.probe)).collect();
        let states = probes.into_iter().map(thread::ScopedJoinHandle::join);
        states.map(|state| state.unwrap_or_else(|panic| panic::resume_unwind(panic))).collect()
    })
}

/// Performs what is left to do for a capability after these packages are there, and returns what is there then.
fn bring(capability: &Capability, installed: &[String]) -> Result<String> {
    // Asked again, as what is missing depends upon what came before.
    let missing = match (capability.probe)() {
        Ok(found) => return Ok(found),
        Err(missing) => missing,
    };
    refuse_the_impossible(&[(capability, &missing)])?;
    for action in &missing.actions {
        let done =
            matches!(action, Action::Packages(names) if names.iter().all(|name| installed.contains(name)));
        if !done {
            action.perform()?;
        }
    }
    (capability.probe)().map_err(|missing| anyhow!("all its steps went well, but: {}", missing.what))
}

fn package_names(missing: &Missing) -> Vec<String> {
    let names = missing.actions.iter().filter_map(|action| match action {
        Action::Packages(names) => Some(names.clone()),
        _ => None,
    });
    names.flatten().collect()
}

/// Lists what only a person can bring.
fn refuse_the_impossible(missing: &[(&Capability, &Missing)]) -> Result<()> {
    let mut list = String::new();
    for (capability, missing) in missing {
        if missing.actions.iter().all(Action::is_possible) {
            continue;
        }
        write!(list, "\n{}: {}", capability.name, missing.what)?;
        for action in &missing.actions {
            write!(list, "\n    {}", action.by_hand())?;
        }
    }
    if list.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks what cannot be installed from here (that takes root, and apt-get):{list}")
}

#[cfg(test)]
mod tests {
    use crate::paths;

    /// `migtrace` builds only with the eBPF toolchain, and it is this program that brings it.
    #[test]
    fn this_program_builds_without_what_it_sets_up() {
        let mut tree = paths::cargo();
        tree.args(["tree", "--locked", "--package", "xtask", "--edges", "normal,build", "--prefix", "none"]);
        let output = tree.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let packages = String::from_utf8(output.stdout).unwrap();
        let needs = |name: &str| packages.lines().any(|line| line.split(' ').next() == Some(name));
        assert!(needs("xtask") && needs("migtrace-lab"), "{packages}");
        assert!(!needs("migtrace") && !needs("migtrace-ebpf"), "{packages}");
    }
}
