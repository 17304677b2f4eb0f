//! What looks on while a picture is made.

use std::cell::Cell;
use std::ops::ControlFlow;

use candle_core::Tensor;
use refrain_pipeline::{Pipeline, Progress as StepProgress};

use super::Session;
use crate::events::{Console, Event};
use crate::interrupt;
use crate::preview::Previewer;
use crate::progress::Progress;

/// What looks on while a picture is made: progress, previews, events, Ctrl-C.
pub(super) struct Watcher<'a> {
    console: Console,
    pipeline: &'a Pipeline,
    progress: &'a Progress,
    previewer: Option<Previewer>,
    cached: bool,
    picture: usize,
    seconds: f64,
    /// An observer can only stop a run; why it did waits here.
    pub(super) failure: Cell<Option<anyhow::Error>>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(session: &Session<'a>, picture: usize, progress: &'a Progress) -> Self {
        let request = session.work.preview.clone();
        Self {
            console: session.console,
            pipeline: session.pipeline,
            progress,
            previewer: request.map(|request| Previewer::new(request, &session.console)),
            cached: !session.cache.is_off(),
            picture,
            seconds: 0.0,
            failure: Cell::new(None),
        }
    }

    pub(super) fn step(&mut self, step: &StepProgress<'_>) -> ControlFlow<()> {
        match self.watch(step) {
            Ok(()) if interrupt::requested() => ControlFlow::Break(()),
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failure.set(Some(error));
                ControlFlow::Break(())
            }
        }
    }

    fn watch(&mut self, step: &StepProgress<'_>) -> anyhow::Result<()> {
        let report = step.step;
        let looked_at = self.console.wants_progress() || self.console.is_json();
        let reused = (self.cached && looked_at).then(|| 1.0 - step.cache.report().computed_share);
        self.seconds += report.seconds;
        self.progress.step(report.index + 1, self.seconds, reused);
        self.console.event(&Event::Step {
            picture: self.picture,
            step: report.index + 1,
            steps: report.count,
            timestep: report.timestep,
            sigma: report.sigma,
            seconds: report.seconds,
            reused_share: reused.unwrap_or(0.0),
        })?;
        let Some(previewer) = self.previewer.as_mut().filter(|previewer| previewer.is_due(report.index, report.count))
        else {
            return Ok(());
        };
        let decode = |latents: &Tensor| Ok(self.pipeline.autoencoder().decode(latents)?);
        if let Some(path) = previewer.show(report.denoised, &decode, self.progress)? {
            let path = path.display().to_string();
            self.console.event(&Event::Preview { picture: self.picture, step: report.index + 1, path: &path })?;
        }
        Ok(())
    }
}
