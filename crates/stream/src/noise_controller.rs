//! The motion-aware noise controller (arXiv 2511.07399, section 3.3): a picture that moves gets less noise, so that what
//! moved is not dreamt anew; a still one gets more, for quality.
//!
//! Over a chunk, `m = clamp(max_t rms(v_t - v_{t-1}) / span, 0, 1)`, and the noise scale follows by
//! `s = λ·(s_max - (s_max - s_min)·m) + (1 - λ)·s_previous`. The published code takes the differences on pixels in −1..1, the
//! paper on latents; [`NoiseController`] works on either, as the caller hands them over. All of it is in f64, as there:
//! truncation to whole timesteps shows every bit.

use candle_core::{DType, Result, Tensor};

/// Constants of the controller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseControl {
    /// Noise scale of a still picture, 0 to 1; also where the controller starts.
    pub largest: f64,
    /// Noise scale at full motion.
    pub smallest: f64,
    /// Root mean square difference that counts as full motion (0.2 for pixels in −1..1).
    pub span: f64,
    /// Weight of the new value against the previous one, 0 to 1.
    pub smoothing: f64,
}

impl NoiseControl {
    /// The constants of StreamDiffusionV2's code for an initial noise scale `scale` (0.8 there).
    pub fn published(scale: f64) -> Self {
        Self { largest: scale, smallest: scale - 0.1, span: 0.2, smoothing: 0.9 }
    }
}

/// Noise scale of a stream, chunk by chunk.
#[derive(Debug, Clone)]
pub struct NoiseController {
    control: NoiseControl,
    scale: f64,
    /// Last frame of the chunk before, `[1, c, 1, h, w]`.
    previous: Option<Tensor>,
}

impl NoiseController {
    /// A controller before its first chunk.
    pub fn new(control: NoiseControl) -> Self {
        Self { control, scale: control.largest, previous: None }
    }

    /// The present noise scale.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Timestep that StreamDiffusionV2 tells its model at the present noise scale: 100 below the scale's own, truncated.
    pub fn published_timestep(&self) -> f64 {
        (1000.0 * self.scale).trunc() - 100.0
    }

    /// Sees a chunk `[1, c, frames, h, w]` (pixels in −1..1, or latents) and gives the noise scale for it. The first frame of a
    /// stream has no motion.
    ///
    /// # Errors
    /// For another number of dimensions, or a size that differs from the chunk before.
    pub fn observe(&mut self, chunk: &Tensor) -> Result<f64> {
        let frames = chunk.dim(2)?;
        let clip = match &self.previous {
            Some(previous) => Tensor::cat(&[previous, chunk], 2)?,
            None => chunk.clone(),
        };
        let pairs = clip.dim(2)? - 1;
        let mut motion: f64 = 0.0;
        for pair in 0..pairs {
            motion = motion.max(root_mean_square(&(clip.narrow(2, pair + 1, 1)? - clip.narrow(2, pair, 1)?)?)?);
        }
        if frames > 0 {
            self.previous = Some(chunk.narrow(2, frames - 1, 1)?.copy()?);
        }
        Ok(self.follow(motion / self.control.span))
    }

    /// Follows a motion in units of full motion.
    fn follow(&mut self, motion: f64) -> f64 {
        let NoiseControl { largest, smallest, smoothing, .. } = self.control;
        let motion = motion.clamp(0.0, 1.0);
        self.scale = smoothing * (largest - (largest - smallest) * motion) + (1.0 - smoothing) * self.scale;
        self.scale
    }
}

fn root_mean_square(difference: &Tensor) -> Result<f64> {
    Ok(difference.to_dtype(DType::F64)?.sqr()?.mean_all()?.to_scalar::<f64>()?.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn timesteps(controller: &mut NoiseController, motion: f64, count: usize) -> Vec<i64> {
        (0..count)
            .map(|_| {
                controller.follow(motion);
                controller.published_timestep() as i64
            })
            .collect()
    }

    #[test]
    fn the_published_timesteps() {
        let mut controller = NoiseController::new(NoiseControl::published(0.8));
        assert_eq!(timesteps(&mut controller, 1.0, 3), [610, 601, 600]);
        // From 0.7 back: 690, then 699 until the float reaches 0.8, some twenty chunks on.
        controller.scale = 0.7;
        let back = timesteps(&mut controller, 0.0, 40);
        assert_eq!(back[..3], [690, 699, 699]);
        let reached = back.iter().position(|&timestep| timestep == 700).unwrap();
        assert!((10..30).contains(&reached), "{reached}");
        assert!(back[reached..].iter().all(|&timestep| timestep == 700));
    }

    #[test]
    fn motion_is_the_largest_of_the_chunk_with_the_frame_before() -> Result<()> {
        let still = Tensor::zeros((1, 3, 2, 4, 4), DType::F32, &Device::Cpu)?;
        let mut controller = NoiseController::new(NoiseControl::published(0.8));
        assert!((controller.observe(&still)? - 0.8).abs() < 1e-12);
        // A jump of 0.1 between the chunks is half of full motion: 0.9·0.75 + 0.1·0.8.
        let moved = (still + 0.1)?;
        assert!((controller.observe(&moved)? - 0.755).abs() < 1e-6);
        // Nothing moves within the next one.
        assert!((controller.observe(&moved)? - 0.7955).abs() < 1e-6);
        // Beyond full motion it does not fall further.
        assert!((controller.observe(&(moved + 5.0)?)? - (0.63 + 0.07955)).abs() < 1e-6);
        Ok(())
    }
}
