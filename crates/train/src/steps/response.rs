//! How the latents of a run follow from the model's outputs.

use candle_core::{Device, Tensor};
use refrain_samplers::Schedule;

use super::Teacher;
use crate::{
    TrainError,
    subject::{roll_out, row_errors},
};

/// Of a sampler whose latents are a fixed combination of the first latents and all outputs so far: the weights. Every
/// deterministic sampler is one, those with several steps of memory too.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// `[step][output]`: weight of an output in the latents after the step.
    weights: Vec<Vec<f64>>,
}

impl Response {
    /// Found by sampling with nothing but unit outputs, one in each channel; checked on the teachers' own runs. `None` where
    /// latents are no such combination.
    ///
    /// # Errors
    /// Those of the sampler.
    pub fn of(schedule: &Schedule, teachers: &[Teacher<'_>]) -> Result<Option<Self>, TrainError> {
        /// Relative error of the combination that still counts as none.
        const EXACT: f64 = 1e-3;
        let Some(probed) = probe(schedule)? else { return Ok(None) };
        for teacher in teachers.iter().take(2) {
            let Some(last) = probed.last() else { return Ok(None) };
            let (start, weights) = last;
            let mut predicted = (teacher.start() * *start)?;
            for (output, &weight) in teacher.outputs.iter().zip(weights) {
                predicted = (predicted + (output * weight)?)?;
            }
            let energy =
                |tensor: &Tensor| row_errors(&tensor.zeros_like()?, tensor).map(|rows| rows.iter().sum::<f64>());
            if energy(&(&predicted - &teacher.latents)?)? > EXACT * EXACT * energy(&teacher.latents)? {
                return Ok(None);
            }
        }
        Ok(Some(Self { weights: probed.into_iter().map(|(_, weights)| weights).collect() }))
    }

    /// The output at `step` that leads a run to where the outputs `taught` would have led it, after the run's outputs before
    /// missed the taught ones by `misses`. `None` at a step whose output hardly counts.
    ///
    /// # Errors
    /// If shapes differ.
    pub fn mending(&self, step: usize, taught: &Tensor, misses: &[Tensor]) -> Result<Option<Tensor>, TrainError> {
        let Some((&own, before)) = self.weights.get(step).and_then(|row| row.get(..=step)?.split_last()) else {
            return Ok(None);
        };
        if own.abs() < 1e-6 {
            return Ok(None);
        }
        let mut aim = taught.clone();
        for (miss, &weight) in misses.iter().zip(before) {
            aim = (aim - (miss * (weight / own))?)?;
        }
        Ok(Some(aim))
    }
}

/// Weights of the first latents and of every output in the latents after each step.
type Probed = Vec<(f64, Vec<f64>)>;

/// `None` for a sampler that does not take such latents.
fn probe(schedule: &Schedule) -> Result<Option<Probed>, TrainError> {
    let count = schedule.count();
    let unit = |at: usize| -> Result<Tensor, TrainError> {
        let values: Vec<f32> = (0..=count).map(|channel| f32::from(u8::from(channel == at))).collect();
        Ok(Tensor::from_vec(values, (1, count + 1, 1, 1), &Device::Cpu)?)
    };
    let mut rows = Vec::with_capacity(count);
    let last = roll_out(schedule, &unit(0)?, &mut |latents, step| {
        if step.index > 0 {
            rows.push(latents.clone());
        }
        unit(step.index + 1)
    });
    // A sampler that refuses such latents is not known well enough.
    let Ok(last) = last else { return Ok(None) };
    rows.push(last);
    let read = |row: Tensor| -> Result<(f64, Vec<f64>), TrainError> {
        let values: Vec<f32> = row.flatten_all()?.to_vec1()?;
        let mut values = values.into_iter().map(f64::from);
        Ok((values.next().unwrap_or(0.0), values.collect()))
    };
    if rows.len() != count {
        return Ok(None);
    }
    rows.into_iter().map(read).collect::<Result<Vec<_>, _>>().map(Some)
}
