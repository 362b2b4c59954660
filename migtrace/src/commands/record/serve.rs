//! `migtrace serve`: records for another host, which has started it with `record --peer`.

use anyhow::{Context as _, Result};
use migtrace::event::EndReason;
use migtrace::peer::{Caller, Request};

use super::setup::{self, Begun};
use super::{check_needed, runtime_that_catches};
use crate::cli::ServeArgs;
use crate::commands::Exit;
use crate::commands::progress::Progress;
use crate::commands::signals::Signals;

pub(in crate::commands) fn run(options: &ServeArgs) -> Result<Exit> {
    check_needed(options.probe.probe.is_some())?;
    let (runtime, signals) = runtime_that_catches(Signals::catch_for_caller)?;
    let served = runtime.block_on(serve(options, signals));
    // A thread may still wait for standard input, or for a caller that does not read.
    runtime.shutdown_background();
    served.map(|()| Exit::Done)
}

async fn serve(options: &ServeArgs, mut signals: Signals) -> Result<()> {
    let mut begun = setup::begin(&options.scope, Some(&options.probe)).await?;
    setup::describe(&begun, &Progress::new());
    let Begun { recorder, .. } = &mut begun;
    recorder.follow();
    let mut caller = Caller::new(tokio::io::stdin(), tokio::io::stdout());
    let reason = loop {
        tokio::select! {
            event = recorder.next() => match event? {
                Some(event) => caller.send(&event)?,
                None => break EndReason::MigrationEnded,
            },
            request = caller.request() => match request {
                Request::Conclude => recorder.conclude(),
                _ => break EndReason::Interrupted,
            },
            () = signals.any() => break EndReason::Interrupted,
        }
    };
    recorder.end_probe().await?;
    let (events, _) = begun.recorder.finish(reason)?;
    events.iter().try_for_each(|event| caller.send(event))?;
    caller.close().await.context("the last events")
}
