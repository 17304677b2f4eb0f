//! Making one clip: what both ways share (announcement, output, report), and the bidirectional one.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Tensor;
use refrain_cache::{Context, RunHeader};
use refrain_media::Picture;
use refrain_media::sequence::{FrameSink, SinkOptions, create_sink};
use refrain_pipeline::{Progress as StepProgress, VideoPipeline};
use serde_json::json;

use super::work::Work;
use crate::errors::{interrupted, of_request};
use crate::events::{Console, Event};
use crate::gen_image::tensors;
use crate::progress::Progress;
use crate::{interrupt, machine, output};

/// Values of a pixel of a frame that live at once while a piece of the clip is decoded.
const LIVE_IN_DECODER: usize = 4;
/// Values of a token that live at once in the transformer, the wider insides of a feed-forward layer counted in.
const LIVE_IN_TRANSFORMER: usize = 16;

/// The making of one clip.
pub(super) struct Session<'a> {
    pub(super) work: &'a Work,
    pub(super) pipeline: &'a VideoPipeline,
    pub(super) console: Console,
    started: Instant,
    announcement: Cell<Option<String>>,
}

/// Where frames go as they come.
pub(super) struct Output {
    sink: Option<Box<dyn FrameSink>>,
    /// Frames and latents, where tensors are wanted.
    kept: (Vec<Tensor>, Vec<Tensor>),
    pub(super) frames: usize,
}

impl<'a> Session<'a> {
    /// Checks what needs the model.
    ///
    /// # Errors
    /// A request that the model cannot do (exit 2), or more memory than there is (exit 3).
    pub(super) fn begin(
        work: &'a Work,
        pipeline: &'a VideoPipeline,
        console: Console,
        started: Instant,
    ) -> anyhow::Result<Self> {
        // The size is checked before any noise of it is drawn.
        pipeline.schedule(&work.request).map_err(of_request)?;
        pipeline.first_noise(&work.request).map_err(of_request)?;
        let session = Self { work, pipeline, console, started, announcement: Cell::new(None) };
        session.check_memory()?;
        Ok(session)
    }

    /// A rough upper bound: the frames themselves, the transformer's activations and the widest layer of the decoder.
    fn check_memory(&self) -> anyhow::Result<()> {
        let (request, config) = (&self.work.request, &self.pipeline.autoencoder().config);
        let (model, factor) = (self.pipeline.transformer().config(), config.factor().max(1));
        let [_, high, wide] = model.patch;
        let pixels = request.width * request.height;
        let present = match &self.work.causal {
            Some(causal) => causal.kv.length.max(causal.chunk_frames),
            None => config.latent_frames(request.frames),
        };
        let tokens = present * (request.height / factor / high.max(1)) * (request.width / factor / wide.max(1));
        let transformer = tokens * model.width() * LIVE_IN_TRANSFORMER;
        let decoder = pixels * config.time_factor() * config.base_width * LIVE_IN_DECODER;
        let values = transformer.max(decoder) + 3 * pixels * request.frames;
        let what = format!("a clip of {} frames of {}x{}", request.frames, request.width, request.height);
        machine::require_memory((values * size_of::<f32>()) as u64, &what)
    }

    /// The run that a plan belongs to, and the cache; a policy that does not fit is found out before the first step.
    pub(super) fn cache(&self, header: impl FnOnce() -> anyhow::Result<RunHeader>) -> anyhow::Result<Context> {
        let watched = self.work.emit_plan.is_some() || self.work.cache_report;
        if self.work.cache.is_off() && !watched {
            return Ok(Context::off());
        }
        self.work.cache.context(&header()?, self.work.seed, watched)
    }

    /// Says what will be made.
    pub(super) fn announce(&self, sampler: &str, steps: usize) -> anyhow::Result<()> {
        let (work, request) = (self.work, &self.work.request);
        let seed = matches!(request.noise, refrain_pipeline::Noise::Seed { .. }).then_some(work.seed);
        let announcement = format!(
            "{}, {} frames of {}x{}, {sampler} {steps} steps, guidance {}, {}, cache {}, {}",
            work.model.name,
            request.frames,
            request.width,
            request.height,
            request.guidance_scale,
            work.precision,
            work.cache.spelling(),
            seed.map_or_else(|| "noise from a file".to_owned(), |seed| format!("seed {seed}")),
        );
        // Where nobody waits for it, it comes with the clip: a run that fails says one line, its error.
        if self.console.wants_progress() {
            self.console.note(&announcement);
        } else {
            self.announcement.set(Some(announcement));
        }
        self.console.event(&Event::Start {
            version: env!("CARGO_PKG_VERSION"),
            model: &work.model.name,
            model_hash: "",
            pictures: request.frames,
            width: request.width,
            height: request.height,
            steps,
            sampler,
            guidance_scale: f64::from(request.guidance_scale),
            dtype: &work.precision.to_string(),
            seed,
            cache: &work.cache.spelling(),
            load_seconds: self.started.elapsed().as_secs_f64(),
        })
    }

    /// Opens the output, so that a place that cannot be written is found out early.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(super) fn output(&self) -> anyhow::Result<Output> {
        let sink = match self.work.tensors {
            true => None,
            false => Some(create_sink(&self.work.output, SinkOptions::at(self.work.rate))?),
        };
        Ok(Output { sink, kept: (Vec::new(), Vec::new()), frames: 0 })
    }

    /// All frames at once, each seeing all others.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let request = &self.work.request;
        let schedule = self.pipeline.schedule(request).map_err(of_request)?;
        let mut cache = self.cache(|| self.pipeline.run_header(request).map_err(of_request))?;
        let mut output = self.output()?;
        self.announce(&schedule.sampler().to_string(), schedule.count())?;
        let progress = Progress::new(&self.console, "", schedule.count());
        let (failure, mut seconds) = (Cell::new(None), 0.0);
        let made = self.pipeline.generate(request, &mut cache, &mut |step| {
            seconds += step.step.seconds;
            match self.watch(step, &progress, seconds) {
                Ok(()) if interrupt::requested() => ControlFlow::Break(()),
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure.set(Some(error));
                    ControlFlow::Break(())
                }
            }
        });
        failure.take().map_or(Ok(()), Err)?;
        let made = match made {
            Err(error) if error.is_stopped() => return Err(interrupted("stopped before the clip was complete")),
            other => other.map_err(of_request)?,
        };
        progress.finish();
        output.put(&made.latents, &made.frames)?;
        self.finish(output, &cache)
    }

    fn watch(&self, step: &StepProgress<'_>, progress: &Progress, seconds: f64) -> anyhow::Result<()> {
        let (report, cached) = (step.step, !self.work.cache.is_off());
        let reused = cached.then(|| 1.0 - step.cache.report().computed_share);
        progress.step(report.index + 1, seconds, reused);
        self.console.event(&Event::Step {
            picture: 0,
            step: report.index + 1,
            steps: report.count,
            timestep: report.timestep,
            sigma: report.sigma,
            seconds: report.seconds,
            reused_share: reused.unwrap_or(0.0),
        })
    }

    /// Completes the file, and tells what the cache did.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(super) fn finish(&self, output: Output, cache: &Context) -> anyhow::Result<()> {
        let shown = self.work.output.display().to_string();
        let frames = output.frames;
        output.finish(self.work)?;
        if let Some(announcement) = self.announcement.take() {
            self.console.note(&announcement);
        }
        if let Some(path) = &self.work.emit_plan {
            output::write_file(path, &cache.executed_plan().to_bytes()?)?;
            let plan = path.display().to_string();
            self.console.note(&format!("plan: {plan}"));
            self.console.event(&Event::Wrote { what: "plan", path: &plan })?;
        }
        let report = cache.report();
        if self.work.cache_report {
            self.console.note(report.to_string().trim_end());
            self.console.event(&Event::Report { picture: 0, report: serde_json::to_value(&report)? })?;
        } else {
            for warning in &report.warnings {
                self.console.warn(&format!("cache {}: {warning}", self.work.cache.spelling()))?;
            }
        }
        let seconds = self.started.elapsed().as_secs_f64();
        if shown != "-" {
            self.console.result(&format!("{shown} ({frames} frames, {seconds:.2} s)"))?;
        }
        self.console.event(&Event::Wrote { what: "clip", path: &shown })?;
        self.console.event(&Event::Done { pictures: frames, seconds })
    }
}

impl Output {
    /// Takes latents `[1, c, f, h, w]` and the frames `[n, 3, height, width]` that they became.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub(super) fn put(&mut self, latents: &Tensor, frames: &Tensor) -> anyhow::Result<()> {
        let (count, _, height, width) = frames.dims4()?;
        self.frames += count;
        let Some(sink) = &mut self.sink else {
            self.kept.0.push(latents.clone());
            self.kept.1.push(frames.clone());
            return Ok(());
        };
        for values in frames.flatten_from(1)?.to_vec2::<f32>()? {
            sink.write_frame(&Picture::from_planar_unit(u32::try_from(width)?, u32::try_from(height)?, &values)?)?;
        }
        Ok(())
    }

    fn finish(self, work: &Work) -> anyhow::Result<()> {
        if let Some(sink) = self.sink {
            return Ok(sink.finish()?);
        }
        let request = &work.request;
        let recipe = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "model": work.model.name,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "dtype": work.precision.to_string(),
            "cache": work.cache.spelling(),
            "causal": work.causal.is_some(),
        });
        let latents = Tensor::cat(&self.kept.0, 2)?;
        let bytes = tensors::results(&[latents], &[Tensor::cat(&self.kept.1, 0)?], &[recipe])?;
        output::write_file(&work.output, &bytes)
    }
}
