//! `migtrace serve`: records for another host, which has started it with `record --peer`.

use anyhow::{Context as _, Result};
use migtrace::event::EndReason;
use migtrace::peer::{Caller, Request};

use super::check_needed;
use super::libvirt_figures::{LibvirtFigures, News};
use super::setup::{self, Begun};
use crate::cli::ServeArgs;
use crate::commands::progress::Progress;
use crate::commands::signals::Signals;
use crate::commands::{Exit, runtime_that_catches};

pub(in crate::commands) fn run(options: &ServeArgs) -> Result<Exit> {
    check_needed(options.probe.probe.is_some())?;
    let (runtime, signals) = runtime_that_catches(Signals::catch_for_caller)?;
    let served = runtime.block_on(serve(options, signals));
    // A thread may still wait for standard input, or for a caller that does not read.
    runtime.shutdown_background();
    served.map(|()| Exit::Done)
}

async fn serve(options: &ServeArgs, mut signals: Signals) -> Result<()> {
    let mut libvirt = LibvirtFigures::new(&options.libvirt)?;
    let mut begun = setup::begin(&options.scope, Some(&options.probe)).await?;
    let progress = Progress::new();
    setup::describe(&begun, &progress);
    let Begun { recorder, .. } = &mut begun;
    recorder.follow();
    let mut caller = Caller::new(tokio::io::stdin(), tokio::io::stdout());
    let mut is_over = false;
    let reason = loop {
        if is_over && !libvirt.is_awaited() {
            break EndReason::MigrationEnded;
        }
        tokio::select! {
            event = recorder.next(), if !is_over => match event? {
                Some(event) => {
                    libvirt.observe(&event, recorder);
                    caller.send(&event)?;
                }
                None => {
                    is_over = true;
                    libvirt.conclude(recorder);
                }
            },
            news = libvirt.next() => match news {
                News::Trouble(why) => progress.say(&why),
                News::Answer(fact) => recorder.note(*fact)?,
            },
            request = caller.request() => match request {
                Request::Conclude => recorder.conclude(),
                _ => break EndReason::Interrupted,
            },
            () = signals.any() => break EndReason::Interrupted,
        }
    };
    libvirt.give_up(recorder)?;
    recorder.end_probe().await?;
    let (events, _) = begun.recorder.finish(reason)?;
    events.iter().try_for_each(|event| caller.send(event))?;
    caller.close().await.context("the last events")
}
