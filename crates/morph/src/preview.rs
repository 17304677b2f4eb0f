//! Even pace: frames moved so that successive ones are equally unlike, found on previews of a few steps.

use candle_core::Tensor;
use refrain_cache::policies::Off;

use crate::error::{MorphError, Result};
use crate::keyframes::Keyframes;
use crate::morpher::{Inverter, Morpher, Settings, Watch};
use crate::pace::{Place, evened};
use crate::similarity::{Backbone, similarity};

/// Previews of a segment, both keyframes included.
const PREVIEWS: usize = 9;
/// Denoising steps of a preview.
const STEPS: usize = 8;

impl Morpher<'_> {
    /// Frames that [`Morpher::evened`] previews for so many segments, and the steps of each.
    pub fn preview_evaluations(&self, segments: usize) -> usize {
        segments * (PREVIEWS - 2) * STEPS.min(self.settings.denoising_steps)
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
            let inner = |index: usize| Place { segment, alpha: index as f64 / (PREVIEWS - 1) as f64 };
            let previews: Vec<Place> = (1..PREVIEWS - 1).map(inner).collect();
            let made = quick.decode(&quick.render(keyframes, &previews, Box::new(Off), watch)?.latents)?;
            let (first, last) =
                (pictures.narrow(0, segment % count, 1)?, pictures.narrow(0, (segment + 1) % count, 1)?);
            let distances = backbone.steps(&Tensor::cat(&[&first, &made, &last], 0)?)?;
            for place in moved.iter_mut().filter(|place| place.segment == segment && place.keyframe().is_none()) {
                // Away from 0 and 1, which are the pictures themselves.
                place.alpha = evened(place.alpha, &distances).clamp(1e-6, 1.0 - 1e-6);
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
        features.windows(2).map(|pair| Ok((1.0 - similarity(&pair[0], &pair[1])?).max(0.0))).collect()
    }
}
