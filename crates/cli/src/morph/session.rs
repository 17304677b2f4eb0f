//! A morph under way: inversion, frames, files.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::Tensor;
use refrain_media::sequence::{FrameSink, SequenceFormat, SinkOptions, create_sink};
use refrain_media::{Picture, save_picture};
use refrain_metrics::psnr;
use refrain_morph::pace::Place;
use refrain_morph::similarity::Backbone;
use refrain_morph::text::Texts;
use refrain_morph::{Evaluation, Keyframes, MorphError, Morpher};
use refrain_pipeline::Pipeline;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::folder::FrameFolder;
use super::options::Pacing;
use super::pictures;
use super::texts;
use super::weight::InjectionWeight;
use super::work::Work;
use crate::errors::{interrupted, resources, usage};
use crate::events::{Console, Event};
use crate::interrupt;
use crate::progress::Progress;

/// The state of a call.
pub(super) struct Session<'a> {
    work: &'a Work,
    pipeline: &'a Pipeline,
    console: Console,
    started: Instant,
}

impl<'a> Session<'a> {
    pub(super) fn begin(work: &'a Work, pipeline: &'a Pipeline, console: Console) -> anyhow::Result<Self> {
        Ok(Self { work, pipeline, console, started: Instant::now() })
    }

    /// Everything, from pictures to files.
    ///
    /// # Errors
    /// Whatever model, disk or user do.
    pub(super) fn run(&self, loaded: &[Picture]) -> anyhow::Result<()> {
        let (keys, size) = self.fit(loaded)?;
        let (prompts, origin) = texts::prompts(self.work, self.pipeline, &keys)?;
        let mut morpher = Morpher::new(self.pipeline, self.work.settings.clone(), size).map_err(of_morph)?;
        let encoded = Texts::encode(self.pipeline, &prompts, self.work.options.anchor.as_deref()).map_err(of_morph)?;
        let encoded = encoded.gated(self.work.anchor_gate);
        self.say_texts(&prompts, origin.name(), &encoded)?;
        let (rung, bytes) = morpher.memory(keys.len()).map_err(of_morph)?;
        self.console.note(&format!("features of the endpoints: {:.1} MiB ({rung})", mebibytes(bytes)));
        let mut output = Output::open(self.work, &self.recipe(&prompts, size)?)?;

        let progress = Progress::counting(&self.console, "", self.evaluations(&morpher, keys.len()), "evaluation");
        let mut done = 0;
        let mut watch = |evaluation: Evaluation| {
            done += evaluation.rows;
            progress.step(done, self.started.elapsed().as_secs_f64(), None);
            if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let inverted = morpher.invert(&pictures::tensor(&keys)?, encoded, &mut watch);
        let inverted = inverted.map_err(|error| self.stopped(error, &mut output))?;
        let reconstruction = self.say_reconstruction(&morpher, &inverted, &progress)?;
        let mut batch = Vec::new();
        let mut places = self.work.places.clone();
        if self.work.pacing == Pacing::Even {
            let backbone = Backbone::new(self.pipeline, size).map_err(of_morph)?;
            let paced = self.paced(morpher, (&inverted, &pictures::tensor(&keys)?), &backbone, &mut watch);
            (morpher, places) = paced.map_err(|error| self.stopped(error, &mut output))?;
            progress.suspended(|| self.console.note(&format!("injection: weight {}", morpher.settings().weight)));
        }
        for (index, place) in places.iter().enumerate() {
            let last = places.get(index + 1).is_none_or(|next| next.segment != place.segment);
            if !output.has(index) {
                batch.push((index, *place));
            }
            if batch.len() >= self.work.settings.batch || (last && !batch.is_empty()) {
                let result = self.batch(&morpher, &inverted, (&keys, &batch), &mut watch, &mut output);
                result.map_err(|error| self.stopped_any(error, &mut output))?;
                batch.clear();
            }
        }
        progress.finish();
        output.finish(self.work)?;
        self.say_done(&output, &inverted, reconstruction, morpher.settings().weight)
    }

    /// The morpher with the injection weight that was asked for or chosen, and the places at an even pace.
    fn paced(
        &self,
        morpher: Morpher<'a>,
        keyframes: (&Keyframes, &Tensor),
        backbone: &Backbone<'_>,
        watch: &mut refrain_morph::Watch<'_>,
    ) -> refrain_morph::Result<(Morpher<'a>, Vec<Place>)> {
        let places = &self.work.places;
        match self.work.options.inject {
            InjectionWeight::Auto => morpher.evened_at_its_best(keyframes, places, backbone, watch),
            InjectionWeight::Fixed(_) => {
                morpher.evened(keyframes, places, backbone, watch).map(|places| (morpher, places))
            }
        }
    }

    /// Keyframes in the size of the frames, and that size (height, width).
    fn fit(&self, loaded: &[Picture]) -> anyhow::Result<(Vec<Picture>, (usize, usize))> {
        let options = &self.work.options;
        let first = loaded.first().ok_or_else(|| usage("no pictures"))?;
        let asked = (options.width, options.height);
        let (width, height) = pictures::size(first, asked, self.pipeline.default_size(), self.pipeline.size_multiple());
        // Refuses a size that the model cannot make before anything is scaled to it.
        self.pipeline.latent_shape(height, width, 0).map_err(|error| usage(error.to_string()))?;
        let mut keys = Vec::with_capacity(loaded.len());
        for (picture, path) in loaded.iter().zip(&options.pictures) {
            let size = (width as u32, height as u32);
            let (key, changed) = pictures::fitted(picture, size, options.fit, self.work.background);
            if changed {
                let how = if options.fit == super::options::Fit::Crop { "cropped" } else { "padded" };
                self.console.note(&format!("{} is {how} to {width}x{height} (--fit)", path.display()));
            }
            keys.push(key);
        }
        Ok((keys, (height, width)))
    }

    fn evaluations(&self, morpher: &Morpher<'_>, keyframes: usize) -> usize {
        let (denoising, inversion) = morpher.evaluations();
        let rendered = self.work.places.iter().filter(|place| !self.is_given(place)).count();
        let segments = self.work.places.last().map_or(0, |place| place.segment + 1);
        let previewed = match self.work.pacing {
            Pacing::Uniform => 0,
            Pacing::Even => match self.work.options.inject {
                InjectionWeight::Auto => morpher.choice_evaluations(segments),
                InjectionWeight::Fixed(_) => morpher.preview_evaluations(segments),
            },
        };
        keyframes * inversion + previewed + rendered * denoising
    }

    /// Whether a frame is one of the pictures themselves.
    fn is_given(&self, place: &Place) -> bool {
        place.keyframe().is_some() && !self.work.options.reconstruct_ends
    }

    /// Makes and writes some frames of one segment.
    fn batch(
        &self,
        morpher: &Morpher<'_>,
        inverted: &Keyframes,
        (keys, batch): (&[Picture], &[(usize, Place)]),
        watch: &mut refrain_morph::Watch<'_>,
        output: &mut Output,
    ) -> anyhow::Result<()> {
        let rendered: Vec<Place> =
            batch.iter().map(|(_, place)| *place).filter(|place| !self.is_given(place)).collect();
        let mut frames = Vec::new().into_iter();
        if !rendered.is_empty() {
            let policy = self.work.cache.policy(morpher.header())?;
            let made = morpher.render(inverted, &rendered, policy, watch)?;
            frames = unstacked(&morpher.decode(&made.latents)?)?.into_iter();
            if output.report.is_none() {
                output.report = Some(made.report);
            }
        }
        for (index, place) in batch {
            let picture = match place.keyframe().filter(|_| self.is_given(place)) {
                Some(key) => keys.get(key % keys.len().max(1)).cloned(),
                None => frames.next(),
            };
            output.put(*index, picture.ok_or_else(|| usage("a frame is missing"))?)?;
        }
        Ok(())
    }

    fn say_texts(&self, prompts: &[String], origin: &str, texts: &Texts) -> anyhow::Result<()> {
        let shown: Vec<String> = prompts.iter().map(|prompt| format!("{prompt:?}")).collect();
        self.console.note(&format!("prompts: {} ({origin})", shown.join(", ")));
        if let Some(reliability) = texts.reliability {
            if texts.anchored() {
                self.console.note(&format!("anchor: similarity to the prompts {reliability:.2}"));
            } else {
                self.console.warn(&format!(
                    "the anchor is not used: its similarity to a prompt is {reliability:.2}, below {:.2} (--anchor-gate)",
                    texts.gate
                ))?;
            }
        }
        Ok(())
    }

    /// How well the inversion brings the pictures back, against the autoencoder's own reconstruction.
    fn say_reconstruction(
        &self,
        morpher: &Morpher<'_>,
        inverted: &Keyframes,
        progress: &Progress,
    ) -> anyhow::Result<Vec<f64>> {
        let wanted = rows(&morpher.decode(&inverted.latents)?)?;
        let found = rows(&morpher.decode(&morpher.reconstruct(inverted)?)?)?;
        let decibels: Vec<f64> =
            wanted.iter().zip(&found).map(|(wanted, found)| psnr(wanted, found)).collect::<Result<_, _>>()?;
        let shown: Vec<String> = decibels.iter().map(|value| format!("{value:.1} dB")).collect();
        progress.suspended(|| {
            self.console.note(&format!("inversion: {} to the autoencoder's own reconstruction", shown.join(", ")));
        });
        Ok(decibels)
    }

    /// All that decides the frames, for `--resume`.
    fn recipe(&self, prompts: &[String], (height, width): (usize, usize)) -> anyhow::Result<serde_json::Value> {
        let (work, options) = (self.work, &self.work.options);
        let settings = &work.settings;
        let hashes: Vec<String> = options
            .pictures
            .iter()
            .map(|path| Ok(format!("{:x}", Sha256::digest(std::fs::read(path)?))))
            .collect::<std::io::Result<_>>()?;
        let places: Vec<(usize, f64)> = work.places.iter().map(|place| (place.segment, place.alpha)).collect();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model_hash": self.pipeline.fingerprint()?,
            "dtype": work.precision.to_string(),
            "pictures": hashes,
            "prompts": prompts,
            "anchor": options.anchor,
            "anchor_gate": work.anchor_gate,
            "width": width,
            "height": height,
            "fit": format!("{:?}", options.fit),
            "background": work.background,
            "frames": places,
            "reconstruct_ends": options.reconstruct_ends,
            "pacing": format!("{:?}", work.pacing),
            "steps": settings.denoising_steps,
            "inversion_steps": settings.inversion_steps,
            "inverter": format!("{:?}", settings.inverter),
            "refinements": settings.refinements,
            "guidance_scale": settings.guidance_scale,
            "weight": options.inject.to_string(),
            "mode": settings.mode,
            "turns": settings.turns,
            "parts": format!("{:?}", settings.parts),
            "cache": work.cache.spelling(),
        }))
    }

    fn say_done(
        &self,
        output: &Output,
        inverted: &Keyframes,
        reconstruction: Vec<f64>,
        weight: f32,
    ) -> anyhow::Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        if let Some(report) = output.report.as_ref().filter(|_| self.work.options.cache_report) {
            self.console.note(report.to_string().trim_end());
        }
        self.console.detail(&format!(
            "features held: {} bytes of {} predicted",
            inverted.bytes(),
            inverted.predicted_bytes
        ));
        let shown = self.work.options.output.display().to_string();
        self.console.result(&format!("{shown} ({} frames, {seconds:.2} s)", output.frames.len()))?;
        if let Some(report) = &output.report {
            let report = json!({
                "cache": report,
                "feature_bytes": inverted.bytes(),
                "feature_bytes_predicted": inverted.predicted_bytes,
                "storage": inverted.rung().name(),
                "inversion_psnr": reconstruction,
                "injection_weight": weight,
            });
            self.console.event(&Event::Report { picture: 0, report })?;
        }
        self.console.event(&Event::Wrote { what: "morph", path: &shown })?;
        self.console.event(&Event::Done { pictures: output.frames.len(), seconds })
    }

    fn stopped_any(&self, error: anyhow::Error, output: &mut Output) -> anyhow::Error {
        match error.downcast::<MorphError>() {
            Ok(error) => self.stopped(error, output),
            Err(error) => error,
        }
    }

    /// The error of a run that ended early; what is finished is kept.
    fn stopped(&self, error: MorphError, output: &mut Output) -> anyhow::Error {
        if !matches!(error, MorphError::Stopped) {
            return of_morph(error);
        }
        let (done, all) = (output.frames.len(), self.work.places.len());
        match output.keep() {
            Ok(()) => interrupted(format!("stopped with {done} of {all} frames done")),
            Err(error) => error,
        }
    }
}

/// Where frames go as they are finished.
struct Output {
    /// Finished frames by number.
    frames: std::collections::BTreeMap<usize, Picture>,
    folder: Option<FrameFolder>,
    sink: Option<Box<dyn FrameSink>>,
    report: Option<refrain_cache::Report>,
}

impl Output {
    fn open(work: &Work, recipe: &serde_json::Value) -> anyhow::Result<Self> {
        let path = &work.options.output;
        let mut output = Self { frames: std::collections::BTreeMap::new(), folder: None, sink: None, report: None };
        if work.format == SequenceFormat::Folder {
            let folder = FrameFolder::open(path, recipe, work.options.resume)?;
            if work.options.resume {
                let found = (0..work.places.len()).filter_map(|index| Some((index, folder.finished(index)?)));
                output.frames = found.collect();
            }
            output.folder = Some(folder);
        } else {
            output.sink = Some(create_sink(path, SinkOptions::at(work.rate))?);
        }
        Ok(output)
    }

    fn has(&self, index: usize) -> bool {
        self.frames.contains_key(&index)
    }

    fn put(&mut self, index: usize, picture: Picture) -> anyhow::Result<()> {
        if let Some(folder) = &self.folder {
            folder.write(index, &picture)?;
        }
        if let Some(sink) = &mut self.sink {
            sink.write_frame(&picture)?;
        }
        self.frames.insert(index, picture);
        Ok(())
    }

    /// Completes a clip with the frames that there are; a folder is complete at any time.
    fn keep(&mut self) -> anyhow::Result<()> {
        match self.sink.take() {
            Some(sink) if !self.frames.is_empty() => Ok(sink.finish()?),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, work: &Work) -> anyhow::Result<()> {
        self.keep()?;
        if let Some(path) = &work.sheet {
            let frames: Vec<&Picture> = self.frames.values().collect();
            save_picture(path, &sheet(&frames))?;
        }
        Ok(())
    }
}

/// All frames on one sheet, in rows.
fn sheet(frames: &[&Picture]) -> Picture {
    const GAP: u32 = 4;
    let (width, height) = frames.first().map_or((1, 1), |frame| (frame.width(), frame.height()));
    let columns = (frames.len() as u32).clamp(1, 8);
    let rows = (frames.len() as u32).div_ceil(columns);
    let mut sheet = Picture::filled(columns * (width + GAP) + GAP, rows * (height + GAP) + GAP, [255; 3]);
    for (index, frame) in (0u32..).zip(frames) {
        let (column, row) = (index % columns, index / columns);
        sheet.paste(frame, GAP + column * (width + GAP), GAP + row * (height + GAP));
    }
    sheet
}

/// Values of each picture of a batch.
pub(super) fn rows(pictures: &Tensor) -> anyhow::Result<Vec<Vec<f32>>> {
    Ok(pictures.flatten_from(1)?.to_vec2::<f32>()?)
}

/// The pictures of a batch `[n, 3, height, width]` in 0..1.
fn unstacked(pictures: &Tensor) -> anyhow::Result<Vec<Picture>> {
    let (_, _, height, width) = pictures.dims4()?;
    rows(pictures)?.iter().map(|row| Ok(Picture::from_planar_unit(width as u32, height as u32, row)?)).collect()
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Errors about settings are errors of the call, those about memory of resources.
pub(crate) fn of_morph(error: MorphError) -> anyhow::Error {
    use refrain_pipeline::PipelineError as P;
    use refrain_samplers::Error as S;
    match &error {
        MorphError::Setting { .. } | MorphError::Schedule(_) | MorphError::Caption(_) => usage(error.to_string()),
        MorphError::Pipeline(P::Size { .. } | P::Request { .. }) => usage(error.to_string()),
        MorphError::Sampler(S::Steps { .. } | S::Unsupported { .. } | S::Range { .. } | S::Schedule { .. }) => {
            usage(error.to_string())
        }
        MorphError::Memory { .. } => resources(error.to_string()),
        _ => anyhow::Error::new(error),
    }
}
