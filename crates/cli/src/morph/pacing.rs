//! Even pace: frames moved so that successive ones are equally unlike, measured on previews of a few steps.

use refrain_cache::policies::Off;
use refrain_morph::pace::{Place, evened};
use refrain_morph::similarity::{Backbone, similarity};
use refrain_morph::{Inverter, Keyframes, Morpher, Settings, Watch};

use super::of_morph;
use crate::errors::usage;

/// Previews of a segment, both ends included.
const PREVIEWS: usize = 9;
/// Denoising steps of a preview.
const STEPS: usize = 8;

/// The places with their alphas moved; keyframes stay.
///
/// # Errors
/// O-BELM, whose noise belongs to one number of steps (exit 2); whatever the model does.
pub(super) fn even(
    morpher: &Morpher<'_>,
    keyframes: &Keyframes,
    (places, size): (&[Place], (usize, usize)),
    watch: &mut Watch<'_>,
) -> anyhow::Result<Vec<Place>> {
    if morpher.settings().inverter == Inverter::Belm {
        return Err(usage("--schedule even looks at previews of fewer steps, which O-BELM cannot make; use ddim"));
    }
    let steps = STEPS.min(morpher.settings().denoising_steps);
    let settings = Settings { denoising_steps: steps, ..morpher.settings().clone() };
    let quick = Morpher::new(morpher.pipeline(), settings, size).map_err(of_morph)?;
    let backbone = Backbone::new(morpher.pipeline(), size).map_err(of_morph)?;
    let segments = places.iter().map(|place| place.segment + 1).max().unwrap_or(0);
    let mut moved = places.to_vec();
    for segment in 0..segments {
        let previews: Vec<Place> =
            (0..PREVIEWS).map(|index| Place { segment, alpha: index as f64 / (PREVIEWS - 1) as f64 }).collect();
        let made = quick.render(keyframes, &previews, Box::new(Off), watch)?;
        let features = backbone.features(&quick.decode(&made.latents).map_err(of_morph)?).map_err(of_morph)?;
        let mut distances = Vec::with_capacity(PREVIEWS - 1);
        for pair in features.windows(2) {
            distances.push((1.0 - similarity(&pair[0], &pair[1]).map_err(of_morph)?).max(0.0));
        }
        for place in moved.iter_mut().filter(|place| place.segment == segment && place.keyframe().is_none()) {
            // Away from 0 and 1, which are the pictures themselves.
            place.alpha = evened(place.alpha, &distances).clamp(1e-6, 1.0 - 1e-6);
        }
    }
    Ok(moved)
}
