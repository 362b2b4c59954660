//! The files of `dist/`: rules that fire when they should, dashboards that ask for what there is, a collector's configuration
//! whose parts fit together.
//!
//! Prometheus' own promtool and ClickHouse itself (chDB) say so; Grafana and the Collector are not there to ask.

#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::clickhouse::{python, records};
use migtrace::export::metrics::{Kind, Metrics, label};
use migtrace_lab::Download;
use serde_json::Value;

/// The words that an expression may have: what all migrations of these tests add up to, by its names in Prometheus.
#[derive(Default)]
struct Known {
    counters: BTreeSet<String>,
    histograms: BTreeSet<String>,
    labels: BTreeSet<String>,
}

impl Known {
    fn new() -> Self {
        let mut metrics = Metrics::new(0);
        for record in records().lines() {
            metrics.add(&serde_json::from_str(record).unwrap(), 0);
        }
        let mut known = Self::default();
        for family in metrics.families() {
            let name = family.definition.prometheus_name();
            match family.definition.kind {
                Kind::Counter => known.counters.insert(format!("{name}_total")),
                Kind::Histogram { .. } => known.histograms.insert(name),
                kind => panic!("no rule has been written for a {kind:?} yet"),
            };
            known.labels.extend(family.points.keys().flatten().map(|(attribute, _)| label(attribute)));
        }
        known
    }

    /// Whether it has this name. What is recorded by a rule has names of its own.
    fn has(&self, name: &str, recorded: &BTreeSet<&str>) -> bool {
        let whole = ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| name.strip_suffix(suffix));
        self.labels.contains(name)
            || self.counters.contains(name)
            || recorded.contains(name)
            || whole.into_iter().any(|name| self.histograms.contains(name))
            || name == "migtrace"
    }
}

fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist")
}

fn read(file: &str) -> String {
    fs::read_to_string(dist().join(file)).unwrap()
}

fn promtool(arguments: &[&str]) {
    let root = Download::Prometheus.fetched().unwrap().expect("run `cargo xtask setup`");
    let mut promtool = Command::new(root.join("usr/bin/promtool"));
    let output = promtool.args(arguments).current_dir(dist().join("prometheus")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
fn the_rules_are_valid_and_alert_when_they_should_and_only_then() {
    promtool(&["check", "rules", "migtrace.rules.yml"]);
    promtool(&["test", "rules", "migtrace.rules.test.yml"]);
    promtool(&["check", "config", "scrape.yml"]);
    let (rules, tests) = (read("prometheus/migtrace.rules.yml"), read("prometheus/migtrace.rules.test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.matches(alert).count() >= 2, "no test of when {alert} fires and when not");
    }
}

/// The words of an expression that are names of ours.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("migtrace"))
}

/// The names that recording rules make.
fn recorded(rules: &str) -> BTreeSet<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect()
}

fn assert_known(expression: &str, known: &Known, recorded: &BTreeSet<&str>) {
    for name in names(expression) {
        assert!(known.has(name, recorded), "{expression}: there is no {name}");
    }
}

#[test]
fn every_rule_asks_for_metrics_that_there_are() {
    let rules = read("prometheus/migtrace.rules.yml");
    let (recorded, known) = (recorded(&rules), Known::new());
    let expressions = rules.lines().filter(|line| {
        let line = line.trim();
        !line.starts_with("- alert:")
            && !line.starts_with('#')
            && !line.starts_with("- name:")
            && !line.starts_with("expr: time()")
    });
    expressions.for_each(|line| assert_known(line, &known, &recorded));
}

fn dashboards() -> [Value; 2] {
    ["fleet", "migration"].map(|name| serde_json::from_str(&read(&format!("grafana/{name}.json"))).unwrap())
}

#[test]
fn every_panel_is_complete_has_its_place_and_a_data_source_that_one_can_choose() {
    for board in dashboards() {
        let title = &board["title"];
        assert!(board["uid"].is_string() && board["schemaVersion"].is_u64(), "{title}");
        let variables = board["templating"]["list"].as_array().unwrap();
        let sources: BTreeSet<String> = variables
            .iter()
            .filter(|variable| variable["type"] == "datasource")
            .map(|variable| format!("${{{}}}", variable["name"].as_str().unwrap()))
            .collect();
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in board["panels"].as_array().unwrap() {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
            assert!(
                panel["title"].is_string()
                    && panel["type"].is_string()
                    && panel["fieldConfig"]["defaults"].is_object(),
                "{panel}"
            );
            assert!(place("x") + place("w") <= 24 && place("w") > 0 && place("h") > 0, "{panel}");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{title}: {} lies over another panel", panel["title"]);
                }
            }
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{panel}");
            for target in targets {
                assert!(sources.contains(target["datasource"]["uid"].as_str().unwrap()), "{target}");
                assert!(target["expr"].is_string() != target["rawSql"].is_string(), "{target}");
            }
        }
    }
}

fn targets(board: &Value) -> impl Iterator<Item = &Value> {
    board["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap())
}

#[test]
fn every_panel_asks_for_metrics_and_columns_that_there_are() {
    let rules = read("prometheus/migtrace.rules.yml");
    let (recorded, known) = (recorded(&rules), Known::new());
    let boards = dashboards();
    let all = || boards.iter().flat_map(targets);
    let expressions: Vec<_> = all().filter_map(|target| target["expr"].as_str()).collect();
    expressions.iter().for_each(|expression| assert_known(expression, &known, &recorded));
    let directory = tempfile::tempdir().unwrap();
    let (file, queries) = (directory.path().join("records.jsonl"), directory.path().join("queries.json"));
    let records = records();
    let first: Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    let id = first["migration"]["id"].as_str().unwrap();
    let asked: Vec<_> = all()
        .filter_map(|target| target["rawSql"].as_str())
        .map(|sql| sql.replace("${migration}", id))
        .collect();
    assert!(!expressions.is_empty() && !asked.is_empty());
    fs::write(&queries, serde_json::to_string(&asked).unwrap()).unwrap();
    fs::write(&file, records).unwrap();
    let output = python("run.py").arg(&file).arg(&queries).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<u64> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(rows.len(), asked.len());
}

/// The keys of a YAML text below one, by indentation; and what they are followed by.
fn below<'y>(yaml: &'y str, path: &[&str]) -> Vec<(&'y str, &'y str)> {
    let mut depth = 0;
    let mut found = Vec::new();
    for line in yaml.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
        let indent = (line.len() - line.trim_start().len()) / 2;
        let Some((key, rest)) = line.trim().split_once(':') else { continue };
        depth = depth.min(indent);
        if depth == path.len() && indent == depth {
            found.push((key, rest.trim()));
        } else if depth < path.len() && indent == depth && key == path[depth] {
            depth += 1;
        }
    }
    found
}

#[test]
fn the_collectors_pipelines_are_made_of_what_is_configured_and_everything_is_used() {
    let yaml = read("otel-collector/config.yaml");
    let mut used = BTreeSet::new();
    for (pipeline, _) in below(&yaml, &["service", "pipelines"]) {
        let parts = below(&yaml, &["service", "pipelines", pipeline]);
        assert_eq!(
            parts.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            ["receivers", "processors", "exporters"]
        );
        for (kind, list) in parts {
            let known: Vec<_> = below(&yaml, &[kind]).into_iter().map(|(name, _)| name).collect();
            for name in list.trim_matches(['[', ']']).split(", ") {
                assert!(known.contains(&name), "{pipeline}: no {kind} {name}, but {known:?}");
                used.insert((kind, name));
            }
        }
        let first = below(&yaml, &["service", "pipelines", pipeline])[1].1;
        assert!(first.starts_with("[memory_limiter"), "{pipeline}: memory is limited too late");
    }
    for kind in ["receivers", "processors", "exporters"] {
        for (name, _) in below(&yaml, &[kind]) {
            assert!(used.contains(&(kind, name)), "{kind} {name} is in no pipeline");
        }
    }
    let extensions = below(&yaml, &["service"]);
    for (name, _) in below(&yaml, &["extensions"]) {
        assert!(extensions[0].1.contains(name), "the extension {name} is not in the service");
    }
}
