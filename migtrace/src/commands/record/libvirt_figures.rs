//! libvirt's own figures, through virsh (`--domjobinfo`).
//!
//! libvirt keeps the statistics of a domain's last job, which may have been another migration. So it is asked twice: when a QEMU
//! is seen, and after its migration has ended. Only an answer that is new by then is of this migration.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use migtrace::event::{Event, Fact};
use migtrace::host::clock;
use migtrace::host::virsh::{CompletedJob, Operation, Virsh, VirshError};
use migtrace::record::{Mode, Outcome, Role};
use migtrace::recorder::Recorder;
use migtrace::timeline::Ended;
use migtrace::units::MonotonicNs;
use migtrace::vocabulary::{LIBVIRT_FIGURES, NotMeasured};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::cli::LibvirtArgs;
use crate::commands::explain;

/// How long to wait after the end of a migration until libvirt has ended its job.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long virsh is left alone after it has not answered: a host may have very many domains.
const REST: Duration = Duration::from_secs(60);
/// How long to wait before it is asked again.
const POLL: Duration = Duration::from_millis(200);
/// How many QEMUs that have gone are remembered. That one was migrated away may be found out after it has gone.
const GONE_MAX: usize = 64;

/// Asks libvirt for its own figures, if that was requested.
pub(super) struct LibvirtFigures(Option<Asking>);

struct Asking {
    virsh: Virsh,
    orders: mpsc::UnboundedSender<Order>,
    news: mpsc::Receiver<News>,
    stage: Stage,
    /// Dropped with this, which kills virsh.
    _asker: JoinSet<()>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    /// The migration has not ended.
    Watching,
    /// libvirt's answer is waited for.
    Waiting,
    /// It is there, or nothing was to be asked.
    Over,
}

/// What the asker is to do.
enum Order {
    /// This QEMU was seen.
    Seen { pid: u32, domain: Uuid },
    /// It has gone, perhaps after its migration.
    Gone { pid: u32 },
    /// The migration has ended.
    Ended(Ended),
}

/// What the asker has found.
pub(super) enum News {
    /// libvirt cannot be asked.
    Trouble(String),
    /// The answer, or why there is none.
    Answer(Box<Fact>),
}

impl LibvirtFigures {
    /// Checks what was requested.
    pub(super) fn new(options: &LibvirtArgs) -> Result<Self> {
        let Some(virsh) = virsh(options)? else { return Ok(Self(None)) };
        let (orders, to_do) = mpsc::unbounded_channel();
        let (found, news) = mpsc::channel(4);
        let mut asker = JoinSet::new();
        asker.spawn(Asker::new(virsh.clone(), found).work(to_do));
        Ok(Self(Some(Asking { virsh, orders, news, stage: Stage::Watching, _asker: asker })))
    }

    /// Checks that virsh can be run here.
    pub(super) async fn check(&self) -> Result<()> {
        match &self.0 {
            Some(asking) => Ok(asking.virsh.check().await?),
            None => Ok(()),
        }
    }

    /// Takes notice of QEMUs that come and go.
    pub(super) fn observe(&mut self, event: &Event, recorder: &Recorder) {
        let Some(asking) = self.0.as_mut().filter(|asking| asking.stage == Stage::Watching) else { return };
        match &event.fact {
            Fact::QemuSeen(qemu) if recorder.selects(qemu) => {
                // Whatever stands there becomes an argument of a program.
                let domain = qemu.uuid.as_deref().and_then(|uuid| Uuid::parse_str(uuid).ok());
                if let Some(domain) = domain {
                    asking.order(Order::Seen { pid: qemu.pid, domain });
                }
            }
            Fact::QemuGone { pid } => asking.order(Order::Gone { pid: *pid }),
            _ => {}
        }
    }

    /// Nothing more of the migration is awaited here. If one has ended on this host, libvirt is asked.
    pub(super) fn conclude(&mut self, recorder: &Recorder) {
        let Some(asking) = self.0.as_mut().filter(|asking| asking.stage == Stage::Watching) else { return };
        asking.stage = Stage::Over;
        if let Some(end) = recorder.ended().filter(|end| end.pid.is_some()) {
            asking.stage = Stage::Waiting;
            asking.order(Order::Ended(end.clone()));
        }
    }

    /// Whether libvirt's answer is waited for.
    pub(super) fn is_awaited(&self) -> bool {
        self.0.as_ref().is_some_and(|asking| asking.stage == Stage::Waiting)
    }

    /// What is new. Never ends if there is nothing to come. Cancel-safe.
    pub(super) async fn next(&mut self) -> News {
        let Some(asking) = &mut self.0 else { return std::future::pending().await };
        let Some(news) = asking.news.recv().await else { return std::future::pending().await };
        if matches!(news, News::Answer(_)) {
            asking.stage = Stage::Over;
        }
        news
    }

    /// The recording ends without the answer: if a migration was seen on this host, that becomes a fact.
    pub(super) fn give_up(self, recorder: &mut Recorder) -> Result<()> {
        let Some(asking) = self.0 else { return Ok(()) };
        let is_missing = match asking.stage {
            Stage::Watching => {
                recorder.is_under_way() || recorder.ended().is_some_and(|end| end.pid.is_some())
            }
            Stage::Waiting => true,
            Stage::Over => false,
        };
        if is_missing {
            recorder.note(missing("the recording ended before libvirt's job did".to_owned()))?;
        }
        Ok(())
    }
}

/// How libvirt is asked, if that was requested.
fn virsh(options: &LibvirtArgs) -> Result<Option<Virsh>> {
    if !options.domjobinfo {
        return Ok(None);
    }
    let words = shell_words::split(&options.virsh);
    let words = words.with_context(|| format!("--virsh {} is not a command", options.virsh))?;
    Ok(Some(Virsh::new(words).context("--virsh is not a command")?))
}

impl Asking {
    fn order(&self, order: Order) {
        // It only ends after its answer.
        let _ = self.orders.send(order);
    }
}

/// Runs virsh, one after the other.
struct Asker {
    virsh: Virsh,
    /// What libvirt has said of the domains of these QEMUs when they were seen.
    before: BTreeMap<u32, Before>,
    /// The latest of these that have gone.
    gone: VecDeque<u32>,
    /// A person has heard that libvirt cannot be asked.
    said: bool,
    /// virsh has not answered, and until when it is not asked about other domains.
    silent: Option<(String, Instant)>,
    news: mpsc::Sender<News>,
}

/// What libvirt has said of a domain before.
struct Before {
    domain: Uuid,
    /// Its last job, or why it could not say.
    job: Result<Option<CompletedJob>, String>,
    /// When it had said so.
    at: MonotonicNs,
}

impl Asker {
    const fn new(virsh: Virsh, news: mpsc::Sender<News>) -> Self {
        Self { virsh, before: BTreeMap::new(), gone: VecDeque::new(), said: false, silent: None, news }
    }

    async fn work(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Seen { pid, domain } => self.ask_before(pid, domain).await,
                Order::Gone { pid } => self.note_gone(pid),
                Order::Ended(end) => {
                    let pid = end.pid.unwrap_or_default();
                    let answer = match self.figures(&end).await {
                        Ok(figures) => Fact::Domjobinfo { pid, figures },
                        Err(why) => missing(why),
                    };
                    // Nobody may wait for it any more.
                    let _ = self.news.send(News::Answer(Box::new(answer))).await;
                    return;
                }
            }
        }
    }

    async fn ask_before(&mut self, pid: u32, domain: Uuid) {
        // A QEMU may be described again, and by then its migration may be over. One that has gone does not come back: this is
        // another with its number.
        let gone = self.gone.iter().position(|gone| *gone == pid);
        if let Some(index) = gone {
            self.gone.remove(index);
        } else if self.before.get(&pid).is_some_and(|before| before.domain == domain) {
            return;
        }
        let job = match &self.silent {
            Some((why, until)) if Instant::now() < *until => Err(why.clone()),
            _ => self.virsh.completed_job(domain).await.map_err(|error| {
                let is_silent = matches!(error, VirshError::Silent { .. });
                let why = explain(&error.into());
                self.silent = is_silent.then(|| (why.clone(), Instant::now() + REST));
                why
            }),
        };
        if let Err(why) = &job
            && !std::mem::replace(&mut self.said, true)
        {
            let _ = self.news.send(News::Trouble(format!("{LIBVIRT_FIGURES}: {why}"))).await;
        }
        // A clock that cannot be read shows no order.
        let at = clock::now().unwrap_or(MonotonicNs::MAX);
        self.before.insert(pid, Before { domain, job, at });
    }

    fn note_gone(&mut self, pid: u32) {
        if !self.before.contains_key(&pid) {
            return;
        }
        if self.gone.len() == GONE_MAX
            && let Some(oldest) = self.gone.pop_front()
        {
            self.before.remove(&oldest);
        }
        self.gone.push_back(pid);
    }

    /// libvirt's figures of the migration that has ended, or why there are none.
    async fn figures(&self, end: &Ended) -> Result<BTreeMap<String, u64>, String> {
        if matches!(end.outcome, Outcome::Failed | Outcome::Cancelled) {
            return Err("libvirt keeps none of a migration that did not complete".to_owned());
        }
        let Some(before) = end.pid.and_then(|pid| self.before.get(&pid)) else {
            return Err("this QEMU has no UUID by which libvirt could know it".to_owned());
        };
        let earlier = before.job.as_ref().map_err(Clone::clone)?;
        if before.at >= end.at {
            return Err(
                "virsh had not answered before the migration ended, so that statistics of an earlier one \
                        could not be told from those of this one"
                    .to_owned(),
            );
        }
        let deadline = Instant::now() + PATIENCE;
        let is_gone = end.pid.is_some_and(|pid| self.gone.contains(&pid));
        if end.role == Role::Source && !is_gone {
            // Until then they lack what libvirt hears from the destination.
            wait_for_its_end(end.pid, deadline).await?;
        }
        loop {
            let answer = tokio::time::timeout_at(deadline, self.virsh.completed_job(before.domain)).await;
            let job = answer.map_err(|_| "virsh has not answered in time".to_owned())?;
            let job = job.map_err(|error| explain(&error.into()))?;
            if let Some(job) = job.filter(|job| is_of(end, job) && earlier.as_ref() != Some(job)) {
                return Ok(job.figures);
            }
            if end.role == Role::Destination && end.mode == Mode::Postcopy {
                return Err("at the destination libvirt forgets them after a post-copy migration; the source's libvirt \
                            has them"
                    .to_owned());
            }
            if Instant::now() + POLL >= deadline {
                return Err(format!(
                    "libvirt had none of this migration within {} s of its end; whoever reads them without \
                     --keep-completed destroys them",
                    PATIENCE.as_secs()
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Whether a job can be the migration.
fn is_of(end: &Ended, job: &CompletedJob) -> bool {
    let wanted = if end.role == Role::Source { Operation::Outgoing } else { Operation::Incoming };
    job.operation() == Some(wanted)
}

/// Waits until libvirt has ended the source's QEMU.
async fn wait_for_its_end(pid: Option<u32>, deadline: Instant) -> Result<(), String> {
    // The command line is empty once it has ended, even if nobody has waited for it.
    let runs = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    while pid.is_some_and(runs) {
        if Instant::now() >= deadline {
            return Err(format!(
                "libvirt has not ended its job within {} s of the migration's end",
                PATIENCE.as_secs()
            ));
        }
        tokio::time::sleep(POLL / 4).await;
    }
    Ok(())
}

fn missing(why: String) -> Fact {
    Fact::NotMeasured(NotMeasured { what: LIBVIRT_FIGURES.into(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: Uuid = Uuid::from_u128(0x5f3c_1f0e_8a51_4a0f_9d6c_0c2b_6f1f_2d11);

    #[tokio::test]
    async fn another_qemu_with_the_number_of_one_that_has_gone_is_asked_about_anew() {
        let asked = tempfile::NamedTempFile::new().unwrap();
        let script = format!("echo $2 >>{}; echo Job type: 0", asked.path().display());
        let virsh = Virsh::new(["sh", "-c", &script, "virsh"].map(str::to_owned).into()).unwrap();
        let mut asker = Asker::new(virsh, mpsc::channel(4).0);
        let times = || fs::read_to_string(asked.path()).unwrap().lines().count();
        asker.ask_before(7, DOMAIN).await;
        asker.ask_before(7, DOMAIN).await;
        assert_eq!(times(), 1);
        asker.note_gone(7);
        assert!(asker.before.contains_key(&7), "its migration may be found to have ended later");
        asker.ask_before(7, DOMAIN).await;
        assert_eq!(times(), 2);
        // It has not gone.
        asker.ask_before(7, DOMAIN).await;
        assert_eq!(times(), 2);
    }

    #[tokio::test]
    async fn only_the_latest_that_have_gone_are_remembered() {
        let virsh = Virsh::new(vec!["false".to_owned()]).unwrap();
        let mut asker = Asker::new(virsh, mpsc::channel(4).0);
        asker.note_gone(1);
        assert!(asker.gone.is_empty(), "nothing was known of it");
        for pid in 0..100 {
            asker.ask_before(pid, DOMAIN).await;
            asker.note_gone(pid);
        }
        assert!(asker.gone.iter().copied().eq(36..100) && asker.before.keys().copied().eq(36..100));
    }
}
