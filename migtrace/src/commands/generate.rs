//! `migtrace generate`: writes the manual pages and the completions of shells, for packages.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Exit;
use crate::cli::{Cli, GenerateArgs};

/// The name under which shells complete it, whatever it was called by.
const NAME: &str = "migtrace";

pub(super) fn run(GenerateArgs { directory }: &GenerateArgs) -> Result<Exit> {
    write_all(directory).with_context(|| format!("cannot write to {}", directory.display()))?;
    Ok(Exit::Done)
}

fn write_all(directory: &Path) -> std::io::Result<()> {
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), NAME, directory)?;
    }
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use migtrace::files::names;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_completions() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path()).unwrap();
        let made = names(folder.path()).unwrap();
        let visible = Cli::command();
        let commands = visible.get_subcommands().filter(|command| !command.is_hide_set());
        for command in commands {
            let page = format!("migtrace-{}.1", command.get_name());
            assert!(made.contains(&page), "{page} is not among {made:?}");
        }
        for file in ["_migtrace", "migtrace.bash", "migtrace.fish", "migtrace.1"] {
            assert!(made.iter().any(|name| name == file), "{file} is not among {made:?}");
        }
        assert!(!made.iter().any(|name| name.contains("generate") || name.contains("serve")), "{made:?}");
    }
}
