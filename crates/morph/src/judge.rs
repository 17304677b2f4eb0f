//! Judging a sequence of frames, with the two baselines that any morph has to beat.

use candle_core::Tensor;
use refrain_metrics::morph::{Glcs, Path, Similarities, glcs, monotonicity};
use refrain_metrics::{psnr, psnr_for_json};
use refrain_pipeline::Pipeline;
use serde::Serialize;

use crate::blend::{lerp, slerp};
use crate::error::{MorphError, Result};
use crate::preview::{preview_positions, unlikeness};
use crate::similarity::{Backbone, similarity};

/// Sharpening of the global term.
pub const GAMMA: f64 = 2.0;

/// What was found of one sequence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// Global-local consistency of the frames between the two pictures.
    pub glcs: Glcs,
    /// Distances `1 - s` between successive pictures, both ends included.
    pub path: Path,
    /// Root mean square differences of successive pictures in 0..1, both ends included.
    pub pixel_path: Path,
    /// PSNR in dB of the first frame to the first picture; null if they are equal.
    pub first_psnr: Option<f64>,
    /// PSNR in dB of the last frame to the last picture.
    pub last_psnr: Option<f64>,
    /// Kendall's tau of the distance to the first picture: 1 if every frame is farther than those before.
    pub leaves_first: f64,
    /// Kendall's tau of the likeness to the last picture.
    pub nears_last: f64,
}

/// Frames `[n, 3, height, width]` in 0..1, both ends included, against the pictures `[1, 3, height, width]` that they are to
/// lead from and to.
///
/// # Errors
/// Fewer than three frames, or pictures of another size.
pub fn judge(backbone: &Backbone<'_>, frames: &Tensor, (first, last): (&Tensor, &Tensor)) -> Result<Judgement> {
    let count = frames.dim(0)?;
    if count < 3 {
        let expected = "at least 3, both ends included".to_owned();
        return Err(MorphError::Setting { what: "frames to judge", expected, value: count.to_string() });
    }
    let between = frames.narrow(0, 1, count - 2)?;
    let features = backbone.features(&Tensor::cat(&[first, &between, last], 0)?)?;
    let (Some(a), Some(b)) = (features.first(), features.last()) else {
        return Err(MorphError::Tensor(candle_core::Error::Msg("no features".to_owned())));
    };
    let all = |end: &Tensor| features.iter().map(|feature| similarity(end, feature)).collect::<Result<Vec<f64>>>();
    let (to_first, to_last) = (all(a)?, all(b)?);
    let inner = |values: &[f64]| values.get(1..count - 1).unwrap_or_default().to_vec();
    let (inner_first, inner_last) = (inner(&to_first), inner(&to_last));
    let ends = Similarities { to_first: &inner_first, to_second: &inner_last, between: similarity(a, b)? };
    let glcs = glcs(&ends, GAMMA).ok_or_else(|| MorphError::Tensor(candle_core::Error::Msg("no frames".to_owned())))?;
    let steps: Vec<f64> =
        features.windows(2).map(|pair| Ok(1.0 - similarity(&pair[0], &pair[1])?)).collect::<Result<_>>()?;
    let rows = frames.flatten_from(1)?.to_vec2::<f32>()?;
    let pixel_steps: Vec<f64> = rows.windows(2).map(|pair| root_mean_square(&pair[0], &pair[1])).collect();
    let fidelity = |row: usize, picture: &Tensor| -> Result<Option<f64>> {
        let picture = picture.flatten_all()?.to_vec1::<f32>()?;
        Ok(rows.get(row).and_then(|row| psnr(&picture, row).ok()).and_then(psnr_for_json))
    };
    let away: Vec<f64> = to_first.iter().map(|value| -value).collect();
    Ok(Judgement {
        glcs,
        path: Path::of(&steps),
        pixel_path: Path::of(&pixel_steps),
        first_psnr: fidelity(0, first)?,
        last_psnr: fidelity(count - 1, last)?,
        leaves_first: monotonicity(&away),
        nears_last: monotonicity(&to_last),
    })
}

fn root_mean_square(first: &[f32], second: &[f32]) -> f64 {
    let squares: f64 = first.iter().zip(second).map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum();
    (squares / first.len().max(1) as f64).sqrt()
}

/// Where the frames of a baseline lie.
#[derive(Clone, Copy)]
pub enum Pace<'a> {
    /// Equal steps of the mixture: the baselines as usually defined.
    Uniform,
    /// Equal steps to a backbone's eye, measured on previews as the morph's own pace is.
    Even(&'a Backbone<'a>),
}

impl Pace<'_> {
    /// `count` frames, ends included, of which `made` makes the one at a share of the way.
    fn frames(self, count: usize, made: impl Fn(f64) -> Result<Tensor>) -> Result<Tensor> {
        let all = |shares: Vec<f64>| -> Result<Tensor> {
            Ok(Tensor::cat(&shares.into_iter().map(&made).collect::<Result<Vec<_>>>()?, 0)?)
        };
        let uniform: Vec<f64> = shares(count).collect();
        match self {
            Self::Uniform => all(uniform),
            Self::Even(backbone) => {
                let previews = all(preview_positions().collect())?;
                let features = backbone.features(&Tensor::cat(&[made(0.0)?, made(1.0)?, previews], 0)?)?;
                let unlike = unlikeness((&features[0], &features[1]), &features[2..])?;
                let inner = unlike.paced(uniform.get(1..count.saturating_sub(1)).unwrap_or_default());
                all([0.0].into_iter().chain(inner.positions).chain([1.0]).collect())
            }
        }
    }
}

/// The baseline *cross-fade*: `count` mixtures of the pixels, ends included.
///
/// # Errors
/// Pictures of different sizes.
pub fn cross_fade((first, last): (&Tensor, &Tensor), count: usize, pace: Pace<'_>) -> Result<Tensor> {
    pace.frames(count, |share| Ok(lerp(first, last, share)?))
}

/// The baseline *latent slerp*: the autoencoder's latents interpolated on the sphere and decoded, with the pictures
/// themselves at the ends.
///
/// # Errors
/// Pictures that the autoencoder cannot take.
pub fn latent_slerp(
    pipeline: &Pipeline,
    (first, last): (&Tensor, &Tensor),
    count: usize,
    pace: Pace<'_>,
) -> Result<Tensor> {
    let autoencoder = pipeline.autoencoder();
    let (a, b) = (autoencoder.encode(first)?, autoencoder.encode(last)?);
    pace.frames(count, |share| {
        if share <= 0.0 {
            Ok(first.clone())
        } else if share >= 1.0 {
            Ok(last.clone())
        } else {
            Ok(autoencoder.decode(&slerp(&a, &b, share)?)?)
        }
    })
}

fn shares(count: usize) -> impl Iterator<Item = f64> {
    (0..count).map(move |index| index as f64 / (count.max(2) - 1) as f64)
}
