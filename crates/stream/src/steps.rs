//! The few noise levels that a distilled model passes.

use crate::error::{Result, StreamError};

/// One evaluation of the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenoisingStep {
    /// What the model is told, in training timesteps (0 to 1000).
    pub timestep: f32,
    /// Noise share of the latents, 0 to 1: latents are (1 - sigma)·clean + sigma·noise.
    pub sigma: f32,
}

/// Denoising steps from noisy to clean, with the flow-matching table that gives a nominal timestep its sigma.
#[derive(Debug, Clone, PartialEq)]
pub struct FewSteps {
    steps: Vec<DenoisingStep>,
    shift: f64,
}

/// Levels of the training table.
const LEVELS: usize = 1000;
/// Nominal timesteps of StreamDiffusionV2's video-to-video models.
const VIDEO_TO_VIDEO: [f32; 4] = [700.0, 500.0, 400.0, 200.0];

impl FewSteps {
    /// Steps at nominal `timesteps`, falling, under a table with time `shift` (8 in StreamDiffusionV2, 5 in Self-Forcing).
    ///
    /// # Errors
    /// [`StreamError::Option`] for no or rising timesteps, or a shift that is not above 0.
    pub fn new(timesteps: &[f32], shift: f64) -> Result<Self> {
        let refuse = |what, found: String, expected: &str| {
            Err(StreamError::Option { what, found, expected: expected.to_owned() })
        };
        if !(shift.is_finite() && shift > 0.0) {
            return refuse("timestep shift", shift.to_string(), "a number above 0");
        }
        let falling = timesteps.windows(2).all(|pair| pair[0] > pair[1]);
        let inside = timesteps.iter().all(|timestep| (0.0..=LEVELS as f32).contains(timestep));
        if timesteps.is_empty() || !falling || !inside {
            return refuse("list of timesteps", format!("{timesteps:?}"), "falling numbers from 1000 to 0");
        }
        let steps = timesteps.iter().map(|&timestep| DenoisingStep { timestep, sigma: sigma(timestep, shift) });
        Ok(Self { steps: steps.collect(), shift })
    }

    /// The first `count` (1 to 4) of StreamDiffusionV2's video-to-video steps.
    ///
    /// # Errors
    /// [`StreamError::Option`].
    pub fn video_to_video(count: usize) -> Result<Self> {
        match VIDEO_TO_VIDEO.get(..count) {
            Some(timesteps) if count > 0 => Self::new(timesteps, 8.0),
            _ => Err(StreamError::Option {
                what: "number of steps",
                found: count.to_string(),
                expected: format!("1 to {}", VIDEO_TO_VIDEO.len()),
            }),
        }
    }

    /// The steps, noisiest first.
    pub fn steps(&self) -> &[DenoisingStep] {
        &self.steps
    }

    /// Number of steps.
    pub fn count(&self) -> usize {
        self.steps.len()
    }

    /// A further level of the same table, such as the noise controller's.
    pub fn at(&self, timestep: f32) -> DenoisingStep {
        DenoisingStep { timestep, sigma: sigma(timestep, self.shift) }
    }
}

/// The sigma whose table timestep lies nearest to the nominal one: sigma = s·u / (1 + (s - 1)·u), u = 1 - i / 1000, and
/// timestep = 1000·sigma.
fn sigma(timestep: f32, shift: f64) -> f32 {
    let level = |index: usize| {
        let even = 1.0 - index as f64 / LEVELS as f64;
        shift * even / (1.0 + (shift - 1.0) * even)
    };
    let distance = |index: usize| (level(index) * LEVELS as f64 - f64::from(timestep)).abs();
    let nearest = (0..LEVELS).min_by(|left, right| distance(*left).total_cmp(&distance(*right)));
    nearest.map_or(0.0, level) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nominal_timesteps_snap_to_the_table() -> Result<()> {
        let steps = FewSteps::video_to_video(4)?;
        let expected = [(700.0, 0.700_232), (500.0, 0.499_719), (400.0, 0.400_260), (200.0, 0.198_347)];
        for (step, (timestep, sigma)) in steps.steps().iter().zip(expected) {
            assert!(step.timestep == timestep && (step.sigma - sigma).abs() < 1e-6, "{step:?}");
        }
        assert!((steps.at(610.0).sigma - 0.610_801).abs() < 1e-6);
        assert!((steps.at(600.0).sigma - 0.600_190).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn crooked_lists_are_refused() {
        for timesteps in [&[][..], &[500.0, 700.0], &[1200.0], &[f32::NAN], &[500.0, 500.0]] {
            assert!(FewSteps::new(timesteps, 8.0).is_err(), "{timesteps:?}");
        }
        assert!(FewSteps::new(&[500.0], 0.0).is_err());
        assert!(FewSteps::video_to_video(0).is_err() && FewSteps::video_to_video(5).is_err());
    }
}
