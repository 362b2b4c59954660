//! The order of the runs, and the plans that come with migtrace.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use migtrace::study::order;
use migtrace::study::plan::Plan;

fn order_of(runs: &str) -> Vec<(Option<u32>, String)> {
    let plan = format!(
        "title = \"\"\n[[axis]]\nname = \"a\"\nvalues = [\"1\", \"2\", \"3\"]\n[[axis]]\nname = \"b\"\n\
         values = [\"x\", \"y\"]\n[[except]]\na = \"3\"\nb = \"y\"\n[runs]\n{runs}\n[driver]\nmigrate = \"true\"\n"
    );
    let plan = Plan::parse(&plan).unwrap();
    let runs = order::runs(&plan);
    assert!(runs.iter().zip(1..).all(|(run, number)| run.number == number));
    runs.iter().map(|run| (run.repetition, plan.names_of(&run.cell).collect())).collect()
}

fn cells_of(runs: &[(Option<u32>, String)], block: usize) -> Vec<&str> {
    runs[5 * block..5 * (block + 1)].iter().map(|(_, cell)| cell.as_str()).collect()
}

#[test]
fn each_repetition_has_all_cells_in_an_order_of_its_own() {
    let plain = order_of("shuffle = false\nwarm_up = 1\nrepetitions = 2");
    assert_eq!(plain.len(), 15);
    let repetitions: Vec<_> = plain.iter().map(|(repetition, _)| *repetition).collect();
    assert_eq!(repetitions, [[None; 5], [Some(1); 5], [Some(2); 5]].concat());
    for block in 0..3 {
        assert_eq!(cells_of(&plain, block), ["1x", "1y", "2x", "2y", "3x"]);
    }
    let first = order_of("repetitions = 8\nseed = 1");
    let blocks: BTreeSet<_> = (0..8).map(|block| cells_of(&first, block)).collect();
    assert!(blocks.len() > 4, "{blocks:?}");
    for mut block in blocks {
        block.sort_unstable();
        assert_eq!(block, ["1x", "1y", "2x", "2y", "3x"]);
    }
    assert_eq!(order_of("repetitions = 8\nseed = 1"), first);
    assert_ne!(order_of("repetitions = 8\nseed = 2"), first);
}

fn plans() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/study/plans");
    let mut plans: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    plans.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    plans.sort();
    assert!(plans.len() >= 9, "{plans:?}");
    plans
}

/// Checks that the driver makes a domain of it.
fn check_template(template: &str) {
    let words =
        [("@GUEST@", "study"), ("@VCPUS@", "2"), ("@MEMORY_MIB@", "4096"), ("@DISK@", "/study.qcow2")];
    let domain = words.iter().fold(template.to_owned(), |domain, (word, value)| {
        assert!(domain.contains(word), "{word} is missing");
        domain.replace(word, value)
    });
    let domain = roxmltree::Document::parse(&domain).unwrap();
    let has = |name: &str, text: &str| {
        domain.descendants().any(|node| node.has_tag_name(name) && node.text() == Some(text))
    };
    assert!(has("name", "study") && has("vcpu", "2") && has("memory", "4096"));
    let mut sources = domain.descendants().filter_map(|node| node.attribute("file"));
    assert!(sources.any(|file| file == "/study.qcow2"));
}

#[test]
fn every_plan_that_comes_with_migtrace_can_be_run() {
    for path in plans() {
        let plan = Plan::parse(&fs::read_to_string(&path).unwrap());
        let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace"));
        let output = command.args(["study", "run", "--dry-run", "--output", "/no/such/folder"]).arg(&path);
        let output = output.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", path.display());
        let text = String::from_utf8(output.stdout).unwrap();
        let runs = order::runs(&plan);
        assert_eq!(text.matches("\nRun ").count(), runs.len());
        for run in runs {
            let (folder, title) = (run.folder(&plan, 1), run.title(&plan));
            assert!(text.contains(&format!("Run {} of", run.number)) && text.contains(&title), "{title}");
            assert!(text.contains(&format!("STUDY_DIRECTORY=/no/such/folder/runs/{folder}\n")), "{folder}");
        }
        // What it names is there, in the folder in which its commands run.
        let folder = path.parent().unwrap();
        if let Some(template) = plan.variables.get("DOMAIN_XML") {
            check_template(&fs::read_to_string(folder.join(template)).unwrap());
        }
        let driver = plan.driver;
        for line in
            [driver.prepare, Some(driver.migrate), driver.converge, driver.clean_up].into_iter().flatten()
        {
            let script = line.split(' ').nth(1).unwrap();
            assert!(folder.join(script).is_file(), "{}: {line}", path.display());
        }
    }
    assert!(!Path::new("/no/such").exists());
}

#[test]
fn the_original_and_its_sequels_differ_in_their_axes_only() {
    let mut commons = BTreeSet::new();
    for path in plans() {
        let text = fs::read_to_string(&path).unwrap();
        if let Some((_, common)) = text.split_once("# The lines from here to the end are the same") {
            commons.insert(common.to_owned());
        } else {
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(["libvirt", "openstack"].contains(&name), "{name}");
        }
    }
    assert_eq!(commons.len(), 1);
}

#[test]
fn the_published_figures_are_those_of_2014() {
    let path = plans().into_iter().find(|path| path.ends_with("original.toml")).unwrap();
    let plan = Plan::parse(&fs::read_to_string(path).unwrap()).unwrap();
    let cells = plan.published.unwrap().cells;
    let of = |load: &str, figure: fn(&migtrace::study::plan::PublishedCell) -> Option<f64>| -> Vec<f64> {
        let all = ["t", "s", "m", "l", "xl"].map(|flavour| {
            let cell = cells.iter().find(|cell| cell.at["load"] == load && cell.at["flavour"] == flavour);
            figure(cell.unwrap()).unwrap()
        });
        all.to_vec()
    };
    assert_eq!(of("unloaded", |cell| cell.time_s), [9.4, 20.5, 25.4, 24.1, 37.5]);
    assert_eq!(of("loaded", |cell| cell.time_s), [9.6, 29.9, 30.1, 84.4, 152.3]);
    assert_eq!(of("unloaded", |cell| cell.downtime_s), [3.0, 5.4, 6.8, 13.7, 21.5]);
    assert_eq!(of("loaded", |cell| cell.downtime_s), [4.2, 18.6, 17.9, 62.8, 115.0]);
    assert_eq!(of("unloaded", |cell| cell.data_mb), [468.0, 760.0, 1030.0, 1900.0, 3200.0]);
    assert_eq!(of("loaded", |cell| cell.data_mb), [468.0, 760.0, 1030.0, 8000.0, 14700.0]);
}
