//! Even pace: frames moved so that successive ones are equally unlike, found on previews of a few steps.

use candle_core::Tensor;
use refrain_cache::policies::Off;

use crate::error::{MorphError, Result};
use crate::keyframes::Keyframes;
use crate::morpher::{Inverter, Morpher, Settings, Watch};
use crate::pace::{NEAR_END, Place, Unlikeness};
use crate::similarity::{Backbone, similarity};

/// Previews of a segment, at both ends and evenly between: what is made of the keyframes is among them.
const PREVIEWS: usize = 9;
/// Denoising steps of a preview.
const STEPS: usize = 8;

/// Where the previews lie, in 0..1 without the ends themselves.
pub(crate) fn preview_positions() -> impl Iterator<Item = f64> {
    (0..PREVIEWS).map(|index| (index as f64 / (PREVIEWS - 1) as f64).clamp(NEAR_END, 1.0 - NEAR_END))
}

impl Morpher<'_> {
    /// Frames that [`Morpher::evened`] previews for so many segments, and the steps of each.
    pub fn preview_evaluations(&self, segments: usize) -> usize {
        segments * PREVIEWS * STEPS.min(self.settings.denoising_steps)
    }

    /// The places with their alphas moved within each segment, so that `backbone` sees equal steps; keyframes stay. The
    /// ends of each segment are the pictures `[keyframes, 3, height, width]` themselves: the step from a picture to what
    /// the autoencoder makes of it counts too.
    ///
    /// # Errors
    /// O-BELM, whose noise belongs to one number of steps; a step that fails.
    pub fn evened(
        &self,
        (keyframes, pictures): (&Keyframes, &Tensor),
        places: &[Place],
        backbone: &Backbone<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Place>> {
        if self.settings.inverter == Inverter::Belm {
            let expected = "ddim: even pace looks at previews of fewer steps, which O-BELM cannot make".to_owned();
            return Err(MorphError::Setting { what: "inverter", expected, value: "belm".to_owned() });
        }
        let steps = STEPS.min(self.settings.denoising_steps);
        let quick = Self::new(self.pipeline, Settings { denoising_steps: steps, ..self.settings.clone() }, self.size)?;
        let count = keyframes.count().max(1);
        let segments = places.iter().map(|place| place.segment + 1).max().unwrap_or(0);
        let mut moved = places.to_vec();
        for segment in 0..segments {
            let previews: Vec<Place> = preview_positions().map(|alpha| Place { segment, alpha }).collect();
            let made = quick.decode(&quick.render(keyframes, &previews, Box::new(Off), watch)?.latents)?;
            let ends = (pictures.narrow(0, segment % count, 1)?, pictures.narrow(0, (segment + 1) % count, 1)?);
            let unlike = backbone.unlikeness((&ends.0, &ends.1), &made)?;
            let inside = |place: &&mut Place| place.segment == segment && place.keyframe().is_none();
            let wanted: Vec<f64> = moved.iter_mut().filter(inside).map(|place| place.alpha).collect();
            for (place, alpha) in moved.iter_mut().filter(inside).zip(unlike.paced(&wanted)) {
                place.alpha = alpha;
            }
        }
        Ok(moved)
    }
}

impl Backbone<'_> {
    /// Distances `1 - s` between successive pictures, at least 0.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    pub fn steps(&self, pictures: &Tensor) -> Result<Vec<f64>> {
        let features = self.features(pictures)?;
        features.windows(2).map(|pair| distance(&pair[0], &pair[1])).collect()
    }

    /// Distances of all pairs of previews `[n, 3, height, width]` and of each from the keyframes `[1, 3, height, width]`.
    ///
    /// # Errors
    /// As [`Backbone::features`].
    pub(crate) fn unlikeness(&self, (first, last): (&Tensor, &Tensor), previews: &Tensor) -> Result<Unlikeness> {
        let previews = self.features(previews)?;
        let ends = self.features(&Tensor::cat(&[first, last], 0)?)?;
        let mut pairs = vec![vec![0.0; previews.len()]; previews.len()];
        for (i, one) in previews.iter().enumerate() {
            for (j, other) in previews.iter().enumerate().skip(i + 1) {
                pairs[i][j] = distance(one, other)?;
                pairs[j][i] = pairs[i][j];
            }
        }
        let away = |end: &Tensor| previews.iter().map(|preview| distance(end, preview)).collect::<Result<Vec<_>>>();
        let apart = distance(&ends[0], &ends[1])?;
        Ok(Unlikeness { pairs, from_first: away(&ends[0])?, to_last: away(&ends[1])?, apart })
    }
}

fn distance(first: &Tensor, second: &Tensor) -> Result<f64> {
    Ok((1.0 - similarity(first, second)?).max(0.0))
}
