//! Restyles clips with all contenders in turn, and keeps what the tables need.

use std::collections::BTreeMap;
use std::time::Instant;

use refrain_media::Picture;
use refrain_metrics::styles::Style;
use refrain_metrics::{flicker, mean, median, percentile, psnr, psnr_capped};
use refrain_pipeline::RestylePipeline;
use serde::Serialize;

use crate::stream::{Session, Settings};

/// One way of restyling.
pub(super) struct Contender {
    pub(super) name: String,
    pub(super) settings: Settings,
}

/// A row of the table of contenders.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) seconds_median: f64,
    pub(super) seconds_p95: f64,
    /// Mean seconds a frame of the first contender over those of this one.
    pub(super) speedup: f64,
    pub(super) frames_per_second: f64,
    pub(super) computed_share: f64,
    /// Mean and least PSNR to the first contender's frames; at most 100.
    pub(super) psnr: f64,
    pub(super) psnr_min: f64,
    /// Mean PSNR to the exact style.
    pub(super) target_psnr: f64,
}

/// A row of the table of styles: the first contender, over all clips.
#[derive(Debug, Serialize)]
pub(super) struct Fidelity {
    pub(super) style: &'static str,
    /// PSNR of the untouched input to the exact style, and of the restyled frames; means over the clips.
    pub(super) input_psnr: f64,
    pub(super) psnr: f64,
    /// Least gain of a clip.
    pub(super) gain_min: f64,
    /// Flicker over that of the exact style; the largest of a clip.
    pub(super) flicker_max: f64,
}

#[derive(Default)]
struct Samples {
    seconds: Vec<f64>,
    computed: Vec<f64>,
    psnr: Vec<f64>,
    target: Vec<f64>,
}

/// Means over a clip in one style.
struct ClipFidelity {
    input: f64,
    output: f64,
    flicker: f64,
}

/// All that was measured so far.
pub(super) struct Measured {
    names: Vec<String>,
    samples: Vec<Samples>,
    styles: BTreeMap<usize, Vec<ClipFidelity>>,
}

impl Measured {
    pub(super) fn new(contenders: &[Contender]) -> Self {
        let names: Vec<String> = contenders.iter().map(|contender| contender.name.clone()).collect();
        let samples = names.iter().map(|_| Samples::default()).collect();
        Self { names, samples, styles: BTreeMap::new() }
    }

    /// Restyles one clip in one style with every contender, frame by frame in turn.
    pub(super) fn restyle(
        &mut self,
        pipeline: &RestylePipeline,
        contenders: &[Contender],
        (clip, style): (usize, Style),
        frames: &[Picture],
    ) -> anyhow::Result<()> {
        let begin = |contender: &Contender| {
            Session::begin(&Settings { prompt: style.prompt().to_owned(), ..contender.settings.clone() }, pipeline)
        };
        let mut sessions = contenders.iter().map(begin).collect::<anyhow::Result<Vec<_>>>()?;
        let mut outputs: Vec<Vec<Vec<f32>>> = vec![Vec::new(); sessions.len()];
        for (number, frame) in frames.iter().enumerate() {
            for turn in 0..sessions.len() {
                let index = (turn + number + clip) % sessions.len();
                let (Some(session), Some(output)) = (sessions.get_mut(index), outputs.get_mut(index)) else { continue };
                let began = Instant::now();
                let finished = session.push(frame)?;
                // The first frame also fills caches and pages.
                if number > 0
                    && let Some(samples) = self.samples.get_mut(index)
                {
                    samples.seconds.push(began.elapsed().as_secs_f64());
                }
                output.extend(finished.map(|(_, picture)| picture.to_unit()));
            }
        }
        let targets = exact(style, frames)?;
        for (index, session) in sessions.iter().enumerate() {
            if let Some(samples) = self.samples.get_mut(index) {
                samples.computed.push(session.computed_share());
            }
        }
        self.enter_harm(&outputs, &targets)?;
        if let Some(first) = outputs.first() {
            let place = Style::ALL.iter().position(|known| *known == style).unwrap_or_default();
            self.styles.entry(place).or_default().push(fidelity(frames, first, &targets)?);
        }
        Ok(())
    }

    fn enter_harm(&mut self, outputs: &[Vec<Vec<f32>>], targets: &[Vec<f32>]) -> anyhow::Result<()> {
        let Some(reference) = outputs.first() else { return Ok(()) };
        for (samples, output) in self.samples.iter_mut().zip(outputs) {
            for ((frame, uncached), target) in output.iter().zip(reference).zip(targets) {
                samples.psnr.push(psnr_capped(psnr(uncached, frame)?));
                samples.target.push(psnr_capped(psnr(target, frame)?));
            }
        }
        Ok(())
    }

    pub(super) fn rows(&self) -> anyhow::Result<Vec<Row>> {
        let seconds = |samples: &Samples| mean(&samples.seconds).unwrap_or_default();
        let first = self.samples.first().map(seconds).unwrap_or_default();
        self.names
            .iter()
            .zip(&self.samples)
            .map(|(name, samples)| {
                let own = seconds(samples);
                Ok(Row {
                    name: name.clone(),
                    seconds_median: median(&samples.seconds)?.unwrap_or_default(),
                    seconds_p95: percentile(&samples.seconds, 95.0)?.unwrap_or_default(),
                    speedup: first / own,
                    frames_per_second: 1.0 / own,
                    computed_share: mean(&samples.computed).unwrap_or_default(),
                    psnr: mean(&samples.psnr).unwrap_or_default(),
                    psnr_min: samples.psnr.iter().copied().fold(f64::INFINITY, f64::min),
                    target_psnr: mean(&samples.target).unwrap_or_default(),
                })
            })
            .collect()
    }

    pub(super) fn fidelity(&self) -> anyhow::Result<Vec<Fidelity>> {
        let rows = self.styles.iter().filter_map(|(place, clips)| {
            let style = Style::ALL.get(*place)?;
            let over = |value: fn(&ClipFidelity) -> f64| {
                mean(&clips.iter().map(value).collect::<Vec<_>>()).unwrap_or_default()
            };
            Some(Fidelity {
                style: style.prompt(),
                input_psnr: over(|clip| clip.input),
                psnr: over(|clip| clip.output),
                gain_min: clips.iter().map(|clip| clip.output - clip.input).fold(f64::INFINITY, f64::min),
                flicker_max: clips.iter().map(|clip| clip.flicker).fold(0.0, f64::max),
            })
        });
        Ok(rows.collect())
    }
}

fn exact(style: Style, frames: &[Picture]) -> anyhow::Result<Vec<Vec<f32>>> {
    let apply = |frame: &Picture| {
        style.apply(&frame.to_unit(), frame.width() as usize, frame.height() as usize).map_err(anyhow::Error::from)
    };
    frames.iter().map(apply).collect()
}

/// The frames as a screen shows them. What is restyled comes in 8 bits, whose rounding alone flickers by 0.4 of a step;
/// where the picture hardly moves that counts, and the exact frames must carry it too.
fn in_bytes(frames: &[Vec<f32>]) -> Vec<Vec<f32>> {
    frames.iter().map(|frame| frame.iter().map(|value| (value * 255.0).round() / 255.0).collect()).collect()
}

fn fidelity(frames: &[Picture], outputs: &[Vec<f32>], targets: &[Vec<f32>]) -> anyhow::Result<ClipFidelity> {
    let inputs: Vec<Vec<f32>> = frames.iter().map(Picture::to_unit).collect();
    let to_target = |clip: &[Vec<f32>]| -> anyhow::Result<f64> {
        let pairs = clip.iter().zip(targets).map(|(frame, target)| psnr(target, frame).map(psnr_capped));
        Ok(mean(&pairs.collect::<Result<Vec<_>, _>>()?).unwrap_or_default())
    };
    let of = |clip: &[Vec<f32>]| flicker(clip.iter().map(Vec::as_slice));
    let (made, wanted) = (of(outputs)?, of(&in_bytes(targets))?);
    // Half a step of an 8-bit code: a target that stands still leaves no room for a ratio.
    let least = 0.5 / 255.0;
    Ok(ClipFidelity {
        input: to_target(&inputs)?,
        output: to_target(outputs)?,
        flicker: made.max(least) / wanted.max(least),
    })
}
