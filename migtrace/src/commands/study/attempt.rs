//! One attempt to migrate: prepare, record, migrate, clean up.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use jiff::Timestamp;
use migtrace::study::directory::RUN_FILE;
use migtrace::study::environment;
use migtrace::study::meter::Counters;
use migtrace::study::order::PlannedRun;
use migtrace::study::plan::{Action, Convergence, Plan, Variables, expand, text_of};
use migtrace::study::run::{OldMethodResult, Run, RunOutcome};
use migtrace::vocabulary::NotMeasured;

use super::group::{Ending, Groups, Running};
use super::old_method::{self, Host, METER_LINE, PING, Pinging};
use super::recording::{self, Recorder};
use super::{folder, leftovers};
use crate::commands::explain;

/// How long `driver.converge` may go on after the migration has ended.
const CONVERGE_REST: Duration = Duration::from_secs(10);
/// What `driver.prepare` may write.
const MOST_VARIABLES_BYTES: u64 = 1 << 20;
/// The end of a log explains a failure.
const END_OF_LOG_BYTES: usize = 4096;

/// What is shown of it while it runs.
pub(super) type Show<'a> = &'a dyn Fn(&str);

/// One attempt at one run.
pub(super) struct Attempt<'a> {
    plan: &'a Plan,
    plan_folder: &'a Path,
    planned: &'a PlannedRun,
    number: u32,
    folder: PathBuf,
    show: Show<'a>,
    environment: Variables,
    groups: Groups,
    recorder: Option<Recorder>,
    pinging: Option<Pinging>,
    /// Where bytes are metered, and what was counted there before.
    metering: Option<(Host, Option<String>, Result<Counters>)>,
    started: Instant,
    start: Timestamp,
    left: Left,
}

/// What it leaves in `run.json`.
#[derive(Default)]
struct Left {
    prepare: Option<Duration>,
    migrate: Option<Duration>,
    converged_after: Option<Duration>,
    converge_failed: Option<String>,
    clean_up_failed: Option<String>,
    variables: Variables,
    old_method: OldMethodResult,
    not_measured: Vec<NotMeasured>,
}

impl<'a> Attempt<'a> {
    /// An attempt in a folder that is there.
    pub(super) fn new(
        plan: &'a Plan,
        plan_folder: &'a Path,
        planned: &'a PlannedRun,
        number: u32,
        folder: PathBuf,
        show: Show<'a>,
    ) -> Self {
        Self {
            plan,
            plan_folder,
            planned,
            number,
            environment: environment::of_run(plan, planned, number, &folder),
            groups: Groups::new(folder.clone()),
            folder,
            show,
            recorder: None,
            pinging: None,
            metering: None,
            started: Instant::now(),
            start: Timestamp::now(),
            left: Left::default(),
        }
    }

    /// Carries it out, cleans up, and writes what it has left. Dropped in between, it needs [`Attempt::break_off`].
    pub(super) async fn carry_out(&mut self) -> Result<Run> {
        let outcome = match self.migrate_and_record().await {
            Ok(()) => RunOutcome::Completed,
            Err(error) => RunOutcome::Failed { why: explain(&error) },
        };
        self.end_children().await;
        self.clean_up().await;
        self.groups.kill_all();
        leftovers::forget(&self.folder);
        self.write(outcome)
    }

    /// Ends what runs, and cleans up.
    pub(super) async fn break_off(&mut self) {
        self.groups.terminate_all().await;
        self.end_children().await;
        self.clean_up().await;
        self.groups.kill_all();
        leftovers::forget(&self.folder);
    }

    /// Why `driver.clean_up` has failed, if it has.
    pub(super) fn clean_up_failed(&self) -> Option<&str> {
        self.left.clean_up_failed.as_deref()
    }

    /// Why `driver.converge` has failed, if it has.
    pub(super) fn converge_failed(&self) -> Option<&str> {
        self.left.converge_failed.as_deref()
    }

    async fn migrate_and_record(&mut self) -> Result<()> {
        self.prepare().await?;
        self.begin_recording().await?;
        self.begin_old_method().await;
        let migrated = self.migrate().await;
        self.end_meter().await;
        (self.show)("waiting for the record");
        if let Some(recorder) = &mut self.recorder {
            recorder.finish(migrated.is_ok()).await;
        }
        self.end_pings().await;
        migrated?;
        match recording::verdict(&self.folder) {
            None => Ok(()),
            Some(why) => bail!("{why}"),
        }
    }

    async fn prepare(&mut self) -> Result<()> {
        let Some(line) = &self.plan.driver.prepare else { return Ok(()) };
        (self.show)("preparing");
        let variables = environment::variables_file(&self.folder);
        File::create(&variables).with_context(|| format!("cannot make {}", variables.display()))?;
        self.left.prepare = Some(self.driver("prepare", line, self.plan.limits.prepare).await?);
        let length = fs::metadata(&variables).context("driver.prepare removed $STUDY_VARIABLES")?.len();
        if length > MOST_VARIABLES_BYTES {
            bail!(
                "driver.prepare wrote {length} bytes of variables; at most {MOST_VARIABLES_BYTES} are read"
            );
        }
        self.take_variables()
    }

    /// Takes over the variables that `driver.prepare` has set.
    pub(super) fn take_variables(&mut self) -> Result<()> {
        let file = environment::variables_file(&self.folder);
        let text = fs::read_to_string(file).context("cannot read $STUDY_VARIABLES")?;
        let variables =
            environment::parse_variables(&text).map_err(|why| anyhow!("$STUDY_VARIABLES, {why}"))?;
        self.environment.extend(variables.clone());
        self.left.variables = variables;
        Ok(())
    }

    /// A text of the plan with its variables.
    fn value(&self, text: &str) -> Result<String> {
        value(&self.environment, text)
    }

    async fn begin_recording(&mut self) -> Result<()> {
        (self.show)("starting to record");
        let words = recording::command_line(self.plan, &self.folder, |text| self.value(text))?;
        let (program, arguments) = words.split_first().context("record.command is empty")?;
        let mut command = Command::new(program);
        self.set_up(command.args(arguments));
        let mut recorder = Recorder::start(&mut self.groups, &mut command, &self.folder)?;
        let ready = recorder.ready().await;
        self.recorder = Some(recorder);
        ready
    }

    /// What it cannot do is listed; the migration is worth recording all the same.
    async fn begin_old_method(&mut self) {
        let begun = match &self.plan.old_method.ping {
            Some(address) => self.begin_pings(address),
            None => Err(anyhow!("the plan names no address (old_method.ping)")),
        };
        if let Err(error) = begun {
            self.not_measured(PING, &error);
        }
        let meter = &self.plan.old_method;
        let host = self.host(meter.meter_host.as_deref());
        let interface = meter.meter_interface.as_ref().map(|name| self.value(name)).transpose();
        let (host, interface) = match (host, interface) {
            (Ok(host), Ok(interface)) => (host, interface.filter(|name| !name.is_empty())),
            (Err(error), _) | (_, Err(error)) => return self.not_measured(old_method::METER, &error),
        };
        let before = self.counters(&host).await;
        self.metering = Some((host, interface, before));
    }

    fn begin_pings(&mut self, address: &str) -> Result<()> {
        let address = self.value(address)?;
        let host = self.host(self.plan.old_method.ping_from.as_deref())?;
        let mut command = host.command(&old_method::ping_line(&address));
        self.set_up(&mut command);
        self.pinging = Some(Pinging::start(&mut self.groups, &mut command, &host, &self.folder)?);
        Ok(())
    }

    async fn counters(&mut self, host: &Host) -> Result<Counters> {
        let mut command = host.command(METER_LINE);
        self.set_up(&mut command);
        old_method::counters(&mut self.groups, &mut command, host).await
    }

    async fn end_meter(&mut self) {
        let Some((host, interface, before)) = self.metering.take() else { return };
        let after = self.counters(&host).await;
        let (meter, not) = old_method::metered((before, after), &host, interface.as_deref());
        self.left.old_method.meter = meter;
        self.left.not_measured.extend(not);
    }

    async fn end_pings(&mut self) {
        let Some(pinging) = &mut self.pinging else { return };
        let pings = pinging.finish().await;
        self.pinging = None;
        match pings {
            Ok(pings) => self.left.old_method.pings = Some(pings),
            Err(error) => self.not_measured(PING, &error),
        }
    }

    fn not_measured(&mut self, what: &str, error: &anyhow::Error) {
        self.left.not_measured.push(NotMeasured { what: what.to_owned(), why: explain(error) });
    }

    fn host(&self, name: Option<&str>) -> Result<Host> {
        host(self.plan, name, |text| self.value(text))
    }

    async fn migrate(&mut self) -> Result<()> {
        (self.show)("migrating");
        let mut migrate = self.start("migrate", &self.plan.driver.migrate)?;
        let limit = self.plan.limits.migrate;
        let begun = Instant::now();
        let ended = match self.due() {
            None => migrate.ended_within(limit).await,
            Some(after) => match migrate.ended_within(after).await {
                Some(ended) => Some(ended),
                None => {
                    self.converge(&mut migrate, begun, limit).await;
                    migrate.ended_within(limit.saturating_sub(begun.elapsed())).await
                }
            },
        };
        let Some((ending, took)) = ended else {
            migrate.terminate().await;
            bail!(
                "driver.migrate did not end within {} and was killed{}",
                text_of(limit),
                self.and_converge()
            );
        };
        self.left.migrate = Some(took);
        let is_aborted = self.plan.convergence.as_ref().is_some_and(|plan| plan.action == Action::Abort);
        match (ending.is_success(), self.left.converged_after.filter(|_| is_aborted)) {
            (true, _) => Ok(()),
            (false, Some(after)) => bail!(
                "the migration did not end within {:.0} s and was aborted, as the plan says",
                after.as_secs_f64()
            ),
            (false, None) => bail!("{}{}", self.failure("migrate", ending), self.and_converge()),
        }
    }

    /// When `driver.converge` is due.
    fn due(&self) -> Option<Duration> {
        self.plan.convergence.as_ref().and_then(|Convergence { after, .. }| *after)
    }

    fn and_converge(&self) -> String {
        self.left.converge_failed.as_ref().map(|why| format!("; {why}")).unwrap_or_default()
    }

    /// Makes a migration end.
    async fn converge(&mut self, migrate: &mut Running, begun: Instant, limit: Duration) {
        let Some(line) = &self.plan.driver.converge else { return };
        (self.show)("making it converge");
        let after = begun.elapsed();
        let ended = match self.start("converge", line) {
            Err(error) => Err(explain(&error)),
            Ok(mut converge) => {
                let over = async {
                    migrate.ended().await;
                    tokio::time::sleep(CONVERGE_REST).await;
                };
                let ended = tokio::select! {
                    (ending, _) = converge.ended() => Some(ending),
                    () = over => None,
                    () = tokio::time::sleep(limit.saturating_sub(after)) => None,
                };
                match ended {
                    Some(ending) if ending.is_success() => Ok(()),
                    Some(ending) => Err(self.failure("converge", ending)),
                    None => {
                        converge.terminate().await;
                        Err("driver.converge did not end and was killed".into())
                    }
                }
            }
        };
        (self.show)("migrating");
        match ended {
            Ok(()) => self.left.converged_after = Some(after),
            Err(why) => self.left.converge_failed = Some(why),
        }
    }

    /// Ends the recording and the pings, if they still run.
    async fn end_children(&mut self) {
        if let Some(mut recorder) = self.recorder.take() {
            recorder.stop().await;
        }
        self.end_pings().await;
    }

    /// Removes what `driver.prepare` has made.
    async fn clean_up(&mut self) {
        let Some(line) = &self.plan.driver.clean_up else { return };
        (self.show)("cleaning up");
        let done = self.driver("clean_up", line, self.plan.limits.clean_up).await;
        self.left.clean_up_failed = done.err().map(|error| explain(&error));
    }

    /// Runs a command of the driver. Returns how long it took.
    async fn driver(&mut self, name: &str, line: &str, limit: Duration) -> Result<Duration> {
        let mut running = self.start(name, line)?;
        match running.ended_within(limit).await {
            Some((ending, took)) if ending.is_success() => Ok(took),
            Some((ending, _)) => bail!("{}", self.failure(name, ending)),
            None => {
                running.terminate().await;
                bail!("driver.{name} did not end within {} and was killed", text_of(limit))
            }
        }
    }

    /// Starts a command of the driver.
    fn start(&mut self, name: &str, line: &str) -> Result<Running> {
        let path = self.log(name);
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write to {}", path.display()))?;
        let mut command = Command::new("/bin/sh");
        self.set_up(command.args(["-c", line]));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let (running, _) = self.groups.start(&mut command).context("cannot run /bin/sh")?;
        Ok(running)
    }

    fn set_up(&self, command: &mut Command) {
        command.current_dir(self.plan_folder).envs(&self.environment);
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.log", name.replace('_', "-")))
    }

    /// What a command of the driver has said last.
    fn failure(&self, name: &str, ending: Ending) -> String {
        let log = fs::read(self.log(name)).unwrap_or_default();
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(END_OF_LOG_BYTES)..]).into_owned();
        let said = end.lines().rev().map(str::trim).find(|line| !line.is_empty());
        format!("driver.{name} failed ({ending}){}", said.map(|said| format!(": {said}")).unwrap_or_default())
    }

    fn write(&self, outcome: RunOutcome) -> Result<Run> {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let left = &self.left;
        let mut run = Run::new(self.planned, self.number, outcome, self.start.to_string());
        run.prepare_ns = left.prepare.map(ns);
        run.migrate_ns = left.migrate.map(ns);
        run.run_ns = ns(self.started.elapsed());
        run.converged_after_ns = left.converged_after.map(ns);
        run.variables.clone_from(&left.variables);
        run.old_method.clone_from(&left.old_method);
        run.not_measured.clone_from(&left.not_measured);
        run.clean_up_failed.clone_from(&left.clean_up_failed);
        folder::write_json(&self.folder.join(RUN_FILE), &run)?;
        Ok(run)
    }
}

/// A text of the plan with its variables.
pub(super) fn value(environment: &Variables, text: &str) -> Result<String> {
    let inherited: Variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let value = |name: &str| environment.get(name).or_else(|| inherited.get(name)).map(String::as_str);
    Ok(expand(text, value)?)
}

/// A host of the old method.
pub(super) fn host(plan: &Plan, name: Option<&str>, value: impl Fn(&str) -> Result<String>) -> Result<Host> {
    let name = name.map(&value).transpose()?.filter(|name| !name.is_empty());
    let shell = plan.record.rsh.as_deref().map(&value).transpose()?;
    let remote_shell = shell_words::split(shell.as_deref().unwrap_or_default()).context("record.rsh")?;
    Ok(Host { name, remote_shell })
}
