//! `$NAME` in those texts of a plan that no shell reads.

use super::{OldMethod, Plan, Recording};

/// A variable that nothing has set.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`${name}` is set by no axis, not in [variables], and by no line `{name}=...` that driver.prepare writes into \
     $STUDY_VARIABLES"
)]
#[non_exhaustive]
pub struct Unset {
    /// Its name.
    pub name: String,
}

/// Puts in the variables: `$NAME`, `${NAME}` and `${NAME:-otherwise}`; `$$` is a `$`.
///
/// # Errors
/// One that has no value.
pub fn expand<'v>(text: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<String, Unset> {
    match needed(text).into_iter().find(|name| value(name).is_none()) {
        Some(name) => Err(Unset { name }),
        None => Ok(shellexpand::env_with_context_no_errors(text, value).into_owned()),
    }
}

/// Every text that may have variables, with its place in the plan.
pub(super) fn texts(plan: &Plan) -> Vec<(&'static str, &str)> {
    let Recording { command, vm, peers, rsh, probe, probe_from, probe_interval, options } = &plan.record;
    let OldMethod { ping, ping_from, meter_host, meter_interface } = &plan.old_method;
    let single = [
        ("record.command", command),
        ("record.vm", vm),
        ("record.rsh", rsh),
        ("record.probe", probe),
        ("record.probe_from", probe_from),
        ("record.probe_interval", probe_interval),
        ("old_method.ping", ping),
        ("old_method.ping_from", ping_from),
        ("old_method.meter_host", meter_host),
        ("old_method.meter_interface", meter_interface),
    ];
    let single = single.into_iter().filter_map(|(place, text)| Some((place, text.as_deref()?)));
    let several = [("record.peers", peers), ("record.options", options)];
    let several =
        several.into_iter().flat_map(|(place, texts)| texts.iter().map(move |text| (place, text.as_str())));
    single.chain(several).collect()
}

/// The variables that a text needs: those without an alternative of its own.
pub(super) fn needed(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    shellexpand::env_with_context_no_errors(text, |name| -> Option<&str> {
        names.push(name.to_owned());
        None
    });
    names.retain(|name| !text.contains(&format!("${{{name}:-")));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, Unset> {
        expand(text, |name| match name {
            "HOST" => Some("host-b"),
            "EMPTY" => Some(""),
            _ => None,
        })
    }

    #[test]
    fn variables_are_put_in_and_missing_ones_are_named() {
        assert_eq!(expanded("root@$HOST").unwrap(), "root@host-b");
        assert_eq!(expanded("${HOST}:${PORT:-22}$EMPTY").unwrap(), "host-b:22");
        assert_eq!(expanded("no variable, $$5").unwrap(), "no variable, $5");
        assert_eq!(expanded("$HOST $GUEST").unwrap_err().name, "GUEST");
        assert_eq!(expanded("${GUEST}").unwrap_err().name, "GUEST");
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        assert_eq!(expand("$A", |_| Some("$B")).unwrap(), "$B");
    }
}
