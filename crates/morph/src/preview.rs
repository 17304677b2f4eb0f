//! Even pace: frames moved so that successive ones are equally unlike, found on previews of a few steps; and the injection
//! weight under which frames are as like either keyframe as their places say.

use candle_core::Tensor;
use refrain_cache::policies::Off;

use crate::error::{MorphError, Result};
use crate::keyframes::Keyframes;
use crate::morpher::{Inverter, Morpher, Settings, Watch};
use crate::pace::{NEAR_END, Place, Unlikeness};
use crate::similarity::{Backbone, similarity};

/// Previews of a segment, at both ends and evenly between: what is made of the keyframes is among them.
const PREVIEWS: usize = 9;
/// Of these, every so many suffice to tell the weights apart.
const COARSE: usize = 2;
/// Denoising steps of a preview.
const STEPS: usize = 8;

/// Injection weights that [`Morpher::evened_at_its_best`] tries.
///
/// None keeps what the model makes of the mixture, which may resemble neither picture; the stronger, the more both shine
/// through. Which lies better depends on the pair. On 22 pairs (7 frames, 10 steps) each weight alone came to a GLCS of
/// 94.0, 93.5 and 93.4, this choice to 94.1 and the best of the finished frames to 94.2; by the smoothness of the previews
/// (what even pace makes least) 93.8.
pub const WEIGHTS: [f32; 3] = [0.0, 0.3, 0.6];

/// Where the previews lie, in 0..1 without the ends themselves.
pub(crate) fn preview_positions() -> impl Iterator<Item = f64> {
    (0..PREVIEWS).map(|index| (index as f64 / (PREVIEWS - 1) as f64).clamp(NEAR_END, 1.0 - NEAR_END))
}

/// The previews that tell the weights apart, or the others.
fn half_of_positions(coarse: bool) -> Vec<f64> {
    let chosen = preview_positions().enumerate().filter(|(index, _)| (index % COARSE == 0) == coarse);
    chosen.map(|(_, position)| position).collect()
}

/// What is between the keyframes, and who looks at it.
struct Scene<'a> {
    keyframes: &'a Keyframes,
    /// Features of the pictures themselves: the step from a picture to what the autoencoder makes of it counts too.
    ends: Vec<Tensor>,
    backbone: &'a Backbone<'a>,
}

impl<'a> Scene<'a> {
    fn new(keyframes: &'a Keyframes, pictures: &Tensor, backbone: &'a Backbone<'a>) -> Result<Self> {
        Ok(Self { keyframes, ends: backbone.features(pictures)?, backbone })
    }

    fn unlikeness(&self, segment: usize, seen: &[Seen]) -> Result<Unlikeness> {
        let count = self.ends.len().max(1);
        let previews: Vec<Tensor> = seen.iter().map(|seen| seen.features.clone()).collect();
        unlikeness((&self.ends[segment % count], &self.ends[(segment + 1) % count]), &previews)
    }
}

/// A preview as the backbone sees it.
struct Seen {
    position: f64,
    features: Tensor,
}

impl<'p> Morpher<'p> {
    /// Evaluations of [`Morpher::evened`] for so many segments.
    pub fn preview_evaluations(&self, segments: usize) -> usize {
        segments * PREVIEWS * STEPS.min(self.settings.denoising_steps)
    }

    /// Evaluations of [`Morpher::evened_at_its_best`] for so many segments.
    pub fn choice_evaluations(&self, segments: usize) -> usize {
        let (coarse, rest) = (half_of_positions(true).len(), half_of_positions(false).len());
        segments * (WEIGHTS.len() * coarse + rest) * STEPS.min(self.settings.denoising_steps)
    }

    /// The places with their alphas moved within each segment, so that `backbone` sees equal steps; keyframes stay. The
    /// ends of each segment are the pictures `[keyframes, 3, height, width]` themselves.
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
        let scene = Scene::new(keyframes, pictures, backbone)?;
        let quick = self.quick()?;
        let all: Vec<f64> = preview_positions().collect();
        let mut moved = places.to_vec();
        for segment in 0..segments(places) {
            let seen = quick.look(&scene, segment, &all, watch)?;
            pace(segment, &scene.unlikeness(segment, &seen)?, &mut moved);
        }
        Ok(moved)
    }

    /// Of the morphers that inject with one of [`WEIGHTS`] and are otherwise like this one, that whose frames lie
    /// best, as [`Paced::departure`] tells; and its places, as of [`Morpher::evened`]. The keyframes must have been
    /// inverted with injection.
    ///
    /// # Errors
    /// As [`Morpher::evened`].
    ///
    /// [`Paced::departure`]: crate::pace::Paced::departure
    pub fn evened_at_its_best(
        &self,
        (keyframes, pictures): (&Keyframes, &Tensor),
        places: &[Place],
        backbone: &Backbone<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(Self, Vec<Place>)> {
        let scene = Scene::new(keyframes, pictures, backbone)?;
        let mut best: Option<Glimpse<'p>> = None;
        for weight in WEIGHTS {
            let glimpse = self.glimpse(weight, &scene, places, watch)?;
            if best.as_ref().is_none_or(|known| glimpse.departure < known.departure) {
                best = Some(glimpse);
            }
        }
        let Some(Glimpse { morpher, seen, .. }) = best else {
            let moved = self.evened((keyframes, pictures), places, backbone, watch)?;
            return Ok((self.weighing(self.settings.weight)?, moved));
        };
        let quick = morpher.quick()?;
        let mut moved = places.to_vec();
        for (segment, mut seen) in seen.into_iter().enumerate() {
            seen.extend(quick.look(&scene, segment, &half_of_positions(false), watch)?);
            seen.sort_by(|a, b| a.position.total_cmp(&b.position));
            pace(segment, &scene.unlikeness(segment, &seen)?, &mut moved);
        }
        Ok((morpher, moved))
    }

    /// A first look at the frames that an injection weight gives.
    fn glimpse(&self, weight: f32, scene: &Scene<'_>, places: &[Place], watch: &mut Watch<'_>) -> Result<Glimpse<'p>> {
        let morpher = self.weighing(weight)?;
        let quick = morpher.quick()?;
        let (mut seen, mut departure) = (Vec::new(), 0.0);
        for segment in 0..segments(places) {
            let found = quick.look(scene, segment, &half_of_positions(true), watch)?;
            departure += scene.unlikeness(segment, &found)?.paced(&wanted(segment, places)).departure;
            seen.push(found);
        }
        Ok(Glimpse { morpher, seen, departure })
    }

    /// The same with another injection weight.
    fn weighing(&self, weight: f32) -> Result<Self> {
        Self::new(self.pipeline, Settings { weight, ..self.settings.clone() }, self.size)
    }

    /// The same with the few steps of a preview.
    fn quick(&self) -> Result<Self> {
        if self.settings.inverter == Inverter::Belm {
            let expected = "ddim: even pace looks at previews of fewer steps, which O-BELM cannot make".to_owned();
            return Err(MorphError::Setting { what: "inverter", expected, value: "belm".to_owned() });
        }
        let steps = STEPS.min(self.settings.denoising_steps);
        Self::new(self.pipeline, Settings { denoising_steps: steps, ..self.settings.clone() }, self.size)
    }

    /// The frames at some positions of a segment.
    fn look(&self, scene: &Scene<'_>, segment: usize, positions: &[f64], watch: &mut Watch<'_>) -> Result<Vec<Seen>> {
        let places: Vec<Place> = positions.iter().map(|&alpha| Place { segment, alpha }).collect();
        let made = self.decode(&self.render(scene.keyframes, &places, Box::new(Off), watch)?.latents)?;
        let seen = positions.iter().zip(scene.backbone.features(&made)?);
        Ok(seen.map(|(&position, features)| Seen { position, features }).collect())
    }
}

/// What a first look at an injection weight showed.
struct Glimpse<'p> {
    morpher: Morpher<'p>,
    /// Of each segment.
    seen: Vec<Vec<Seen>>,
    /// Sum over the segments.
    departure: f64,
}

fn segments(places: &[Place]) -> usize {
    places.iter().map(|place| place.segment + 1).max().unwrap_or(0)
}

fn lies_inside(place: &Place, segment: usize) -> bool {
    place.segment == segment && place.keyframe().is_none()
}

/// How far along the frames inside a segment are to be.
fn wanted(segment: usize, places: &[Place]) -> Vec<f64> {
    places.iter().filter(|place| lies_inside(place, segment)).map(|place| place.alpha).collect()
}

/// Moves the frames inside a segment to where their steps are even.
fn pace(segment: usize, unlike: &Unlikeness, places: &mut [Place]) {
    let positions = unlike.paced(&wanted(segment, places)).positions;
    let inside = places.iter_mut().filter(|place| lies_inside(place, segment));
    for (place, alpha) in inside.zip(positions) {
        place.alpha = alpha;
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
}

/// Distances of all pairs of previews and of each from the keyframes, all given by their features.
///
/// # Errors
/// As [`similarity`].
pub(crate) fn unlikeness((first, last): (&Tensor, &Tensor), previews: &[Tensor]) -> Result<Unlikeness> {
    let mut pairs = vec![vec![0.0; previews.len()]; previews.len()];
    for (i, one) in previews.iter().enumerate() {
        for (j, other) in previews.iter().enumerate().skip(i + 1) {
            pairs[i][j] = distance(one, other)?;
            pairs[j][i] = pairs[i][j];
        }
    }
    let away = |end: &Tensor| previews.iter().map(|preview| distance(end, preview)).collect::<Result<Vec<_>>>();
    Ok(Unlikeness { pairs, from_first: away(first)?, to_last: away(last)?, apart: distance(first, last)? })
}

fn distance(first: &Tensor, second: &Tensor) -> Result<f64> {
    Ok((1.0 - similarity(first, second)?).max(0.0))
}
