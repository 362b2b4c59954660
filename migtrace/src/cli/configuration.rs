//! Options from a file: a TOML table whose keys are the names of the options.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use clap::builder::StyledStr;
use clap::error::ErrorKind;
use clap::{ArgAction, Command, Error};
use migtrace::terminal::clean;
use toml::{Table, Value};

/// The option that names the file.
const OPTION: &str = "--config";

/// Puts what the file says that `--config FILE` names among the arguments of `subcommand`, one of `command`'s. What is given on
/// the command line as well is not taken from the file.
///
/// # Errors
/// The file cannot be read, or has a key or a value that the subcommand does not have.
pub(super) fn expand(
    command: impl FnOnce() -> Command,
    subcommand: &str,
    arguments: Vec<OsString>,
) -> Result<Vec<OsString>, Error> {
    let [_, first, given @ ..] = &arguments[..] else { return Ok(arguments) };
    let Some(path) = named_file(given).filter(|_| first == subcommand) else { return Ok(arguments) };
    let table = read(&path).map_err(|why| refusal(&path, &why))?;
    let mut command = command();
    let definition = command.find_subcommand(subcommand).cloned().unwrap_or_default();
    let mut options = Vec::new();
    for (key, value) in &table {
        let words = words(&definition, key, value).map_err(|why| refusal(&path, &why))?;
        if !is_given(given, key) {
            options.extend(words);
        }
    }
    // Alone, so that a message about it says where it comes from.
    let alone = [command.get_name().into(), OsString::from(subcommand)].into_iter().chain(options.clone());
    if let Err(error) = command.try_get_matches_from_mut(alone) {
        let why = first_paragraph(&error.render());
        return Err(refusal(&path, &why));
    }
    Ok([&arguments[..2], &options, given].concat())
}

/// The last one counts, as with other options.
fn named_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut named = None;
    for (index, argument) in arguments.iter().enumerate() {
        if argument == OPTION {
            named = arguments.get(index + 1).map(PathBuf::from).or(named);
        } else if let Some(path) = argument.to_str().and_then(|it| it.strip_prefix(OPTION)?.strip_prefix('='))
        {
            named = Some(path.into());
        }
    }
    named
}

fn read(path: &Path) -> Result<Table, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.parse().map_err(|error: toml::de::Error| error.to_string().trim_end().to_owned())
}

/// The option `--KEY VALUE` as words of a command line.
fn words(definition: &Command, key: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let is_it = |argument: &&clap::Arg| argument.get_long() == Some(key) && format!("--{key}") != OPTION;
    let Some(argument) = definition.get_arguments().find(is_it) else {
        let name = definition.get_name();
        return Err(format!(
            "`{key}` is not an option of `migtrace {name}`; `migtrace {name} --help` lists them"
        ));
    };
    let word = |text: String| OsString::from(format!("--{key}={text}"));
    match (argument.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![format!("--{key}").into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err(format!("`{key}` is true or false")),
        (ArgAction::Append, Value::Array(values)) => {
            values.iter().map(|value| Ok(word(scalar(key, value)?))).collect()
        }
        (_, value) => Ok(vec![word(scalar(key, value)?)]),
    }
}

fn scalar(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(_) => Err(format!("`{key}` takes a value, not true or false")),
        Value::Array(_) | Value::Table(_) | Value::Datetime(_) => {
            Err(format!("`{key}` takes one value: a string or a number"))
        }
    }
}

/// Whether an option is given on the command line.
fn is_given(arguments: &[OsString], key: &str) -> bool {
    let option = format!("--{key}");
    arguments.iter().filter_map(|argument: &OsString| OsStr::to_str(argument)).any(|argument| {
        argument.strip_prefix(&option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

fn refusal(path: &Path, why: &str) -> Error {
    let why = why.lines().map(|line| clean(line).into_owned()).collect::<Vec<_>>().join("\n");
    Error::raw(ErrorKind::ValueValidation, format!("{}: {why}\n", clean(&path.display().to_string())))
}

/// What clap says, without its `error: ` and without the usage.
fn first_paragraph(message: &StyledStr) -> String {
    let text = message.to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    text.strip_prefix("error: ").unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// What the arguments of `probe` become with a file of this content.
    fn expanded(content: &str, arguments: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("it.toml");
        fs::write(&file, content).unwrap();
        let head = ["migtrace", "probe", OPTION, file.to_str().unwrap()];
        let arguments = head.iter().chain(arguments).map(OsString::from).collect();
        let expanded = expand(command, "probe", arguments);
        let words = |all: Vec<OsString>| {
            let own = all.into_iter().filter(|word| word != OPTION && word != file.as_os_str());
            own.skip(2).map(|word| word.into_string().unwrap()).collect()
        };
        expanded.map(words).map_err(|error| error.to_string().replace(file.to_str().unwrap(), "FILE"))
    }

    /// `probe` without its target, which would be missing from the file.
    fn command() -> Command {
        Cli::command()
            .mut_subcommand("probe", |probe| probe.mut_arg("target", |target| target.required(false)))
    }

    #[test]
    fn keys_are_options_and_the_command_line_wins() {
        let content = "interval = \"2ms\"\nipv6 = true\npassive = false\nsize = 64\n";
        assert_eq!(expanded(content, &[]).unwrap(), ["--interval=2ms", "--ipv6", "--size=64"]);
        let given = ["--size", "16", "--interval=1ms"];
        assert_eq!(expanded(content, &given).unwrap(), ["--ipv6", "--size", "16", "--interval=1ms"]);
    }

    #[test]
    fn a_mistake_is_reported_with_the_file() {
        let cases = [
            ("intervall = 1", "FILE: `intervall` is not an option of `migtrace probe`"),
            ("config = \"other\"", "FILE: `config` is not an option"),
            ("interval = \"soon\"", "FILE: invalid value 'soon' for '--interval <TIME>'"),
            ("interval = true", "FILE: `interval` takes a value, not true or false"),
            ("interval = [\"1ms\"]", "FILE: `interval` takes one value"),
            ("ipv6 = \"yes\"", "FILE: `ipv6` is true or false"),
            ("interval", "FILE: TOML parse error at line 1"),
        ];
        for (content, wanted) in cases {
            let error = expanded(content, &[]).unwrap_err();
            assert!(error.contains(wanted), "{content}: {error}");
        }
    }

    #[test]
    fn without_the_option_or_with_another_command_nothing_changes() {
        for line in [
            "migtrace record --config no-such-file",
            "migtrace probe target",
            "migtrace report probe --config no-such-file",
        ] {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            assert_eq!(expand(command, "probe", arguments.clone()).unwrap(), arguments);
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_reported() {
        let arguments = ["migtrace", "probe", "--config=no-such-file"].map(OsString::from).to_vec();
        let error = expand(command, "probe", arguments).unwrap_err().to_string();
        assert!(error.starts_with("error: no-such-file: No such file or directory"), "{error}");
    }
}
