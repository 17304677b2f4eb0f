//! Cuts between the depth groups from the frequencies that they carry (CHIMERA's layer- and timestep-wise frequency
//! matching, as publicly described).
//!
//! Every feature of an inversion becomes a descriptor: the magnitude of its spatial Fourier transform, averaged over
//! channels, in radial bands, normalised to sum 1. Averaged over timesteps it is the prototype of a depth, averaged over
//! depths that of a timestep. A depth suits a timestep whose prototype is near (L1). The nearest depth of each step alone
//! would jump about or collapse to one; the cuts are instead the best monotone assignment early, middle, late that gives
//! each a tenth of the steps at least. That choice and the number of bands are ours.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::PoisonError;

use candle_core::Tensor;
use refrain_cache::{Branch, Site};
use refrain_models::Depth;

use crate::error::{MorphError, Result};
use crate::morpher::{Morpher, Watch};
use crate::schedule::Turns;
use crate::text::Texts;

/// Radial bands between no frequency and the finest.
const BANDS: usize = 8;
/// Least share of the steps that each depth gets.
const DWELL: f64 = 0.1;
/// The depths in order.
const DEPTHS: [Depth; 3] = [Depth::Early, Depth::Middle, Depth::Late];

type Descriptor = [f64; BANDS];

/// Sums of descriptors by (depth, inversion step).
#[derive(Debug, Default)]
pub struct Calibration {
    sums: HashMap<(Depth, usize), (Descriptor, usize)>,
    steps: usize,
}

impl Calibration {
    /// Adds the features of pictures `[n, 3, height, width]` under their texts. The morpher keeps all of them in memory.
    ///
    /// # Errors
    /// As [`Morpher::invert`].
    pub fn add(&mut self, morpher: &Morpher<'_>, pictures: &Tensor, texts: Texts, watch: &mut Watch<'_>) -> Result<()> {
        let steps = morpher.settings().inversion_steps;
        let sites: Vec<(Site, Depth)> = morpher
            .sites()
            .iter()
            .filter(|(info, _)| morpher.settings().parts.holds(info.site.part))
            .map(|(info, depth)| (info.site, *depth))
            .collect();
        let all: Vec<Site> = sites.iter().map(|(site, _)| *site).collect();
        let reads = (0..steps).flat_map(|step| all.iter().map(move |site| (step, *site))).collect();
        let keyframes = morpher.invert_for(pictures, texts, reads, watch)?;
        let grid = morpher.token_grid()?;
        let mut archive = keyframes.archive.lock().unwrap_or_else(PoisonError::into_inner);
        for step in 0..steps {
            for &(site, depth) in &sites {
                for endpoint in 0..keyframes.count() {
                    let site = site.with_branch(Branch::endpoint(endpoint as u16));
                    let Some(feature) = archive.get(step, site)? else { continue };
                    let found = descriptor(&feature, grid)?;
                    let (sum, count) = self.sums.entry((depth, step)).or_insert(([0.0; BANDS], 0));
                    sum.iter_mut().zip(found).for_each(|(sum, value)| *sum += value);
                    *count += 1;
                }
            }
        }
        self.steps = steps;
        Ok(())
    }

    /// The turns that suit all that was added.
    ///
    /// # Errors
    /// Nothing added, or too few steps for three depths.
    pub fn turns(&self) -> Result<Turns> {
        let steps = self.steps;
        let dwell = ((DWELL * steps as f64).ceil() as usize).max(1);
        if self.sums.is_empty() || steps < 3 * dwell {
            return Err(MorphError::Schedule(format!("{steps} steps are too few to calibrate three depths")));
        }
        let depths: Vec<Descriptor> = DEPTHS.iter().map(|depth| self.prototype(|key| key.0 == *depth)).collect();
        let costs: Vec<[f64; 3]> = (0..steps)
            .map(|step| {
                // Denoising walks back through the inversion.
                let own = self.prototype(|key| key.1 == steps - 1 - step);
                std::array::from_fn(|depth| distance(&own, &depths[depth]))
            })
            .collect();
        let mut best = (f64::INFINITY, 0, 0);
        for first in dwell..=steps - 2 * dwell {
            for second in first + dwell..=steps - dwell {
                let part = |range: &[[f64; 3]], depth: usize| range.iter().map(|cost| cost[depth]).sum::<f64>();
                let cost = part(&costs[..first], 0) + part(&costs[first..second], 1) + part(&costs[second..], 2);
                if cost < best.0 {
                    best = (cost, first, second);
                }
            }
        }
        let share = |step: usize| step as f64 / steps as f64;
        Ok(Turns::in_turn(share(best.1), share(best.2)))
    }

    /// Mean descriptor of each depth, for the report.
    pub fn prototypes(&self) -> [Descriptor; 3] {
        DEPTHS.map(|depth| self.prototype(|key| key.0 == depth))
    }

    fn prototype(&self, chosen: impl Fn(&(Depth, usize)) -> bool) -> Descriptor {
        let mut total = [0.0; BANDS];
        let mut count = 0;
        // In a fixed order: sums of floats depend on it.
        for depth in DEPTHS {
            for step in 0..self.steps {
                if let Some((sum, of)) = self.sums.get(&(depth, step)).filter(|_| chosen(&(depth, step))) {
                    total.iter_mut().zip(sum).for_each(|(total, value)| *total += value);
                    count += of;
                }
            }
        }
        total.map(|value| value / f64::from(count.max(1) as u32))
    }
}

fn distance(first: &Descriptor, second: &Descriptor) -> f64 {
    first.iter().zip(second).map(|(a, b)| (a - b).abs()).sum()
}

/// Descriptor of a feature `[1, tokens, width]` on the token grid (rows, columns), or `[1, channels, rows, columns]`.
fn descriptor(feature: &Tensor, (rows, columns): (usize, usize)) -> Result<Descriptor> {
    let (maps, rows, columns) = match feature.dims() {
        [1, tokens, _] if *tokens > 0 => {
            // Deeper stages of a U-Net have fewer tokens in the same shape.
            let shrink = ((rows * columns) as f64 / *tokens as f64).sqrt();
            let (rows, columns) = ((rows as f64 / shrink).round() as usize, (columns as f64 / shrink).round() as usize);
            if rows * columns != *tokens {
                return Err(MorphError::Schedule(format!("{tokens} tokens do not form a grid")));
            }
            (feature.squeeze(0)?.t()?.contiguous()?, rows, columns)
        }
        [1, _, rows, columns] => (feature.squeeze(0)?.flatten_from(1)?, *rows, *columns),
        other => return Err(MorphError::Schedule(format!("a feature of shape {other:?} has no frequencies"))),
    };
    let mut bands = [0.0; BANDS];
    for map in maps.to_vec2::<f32>()? {
        for (row, line) in magnitudes(&map, rows, columns).into_iter().enumerate() {
            for (column, magnitude) in line.into_iter().enumerate() {
                let frequency =
                    |index: usize, count: usize| index.min(count - index) as f64 / (count as f64 / 2.0).max(1.0);
                let radius = (frequency(row, rows).powi(2) + frequency(column, columns).powi(2)).sqrt() / 2f64.sqrt();
                bands[((radius * BANDS as f64) as usize).min(BANDS - 1)] += magnitude;
            }
        }
    }
    let total: f64 = bands.iter().sum();
    Ok(if total > 0.0 { bands.map(|band| band / total) } else { bands })
}

/// Magnitudes of the two-dimensional discrete Fourier transform, one axis after the other. Features are small: the plain
/// sum over each axis is enough.
fn magnitudes(map: &[f32], rows: usize, columns: usize) -> Vec<Vec<f64>> {
    let turn = |step: usize, count: usize| {
        let angle = -2.0 * std::f64::consts::PI * (step % count) as f64 / count as f64;
        (angle.cos(), angle.sin())
    };
    let along: Vec<Vec<(f64, f64)>> = map
        .chunks(columns)
        .map(|line| {
            (0..columns)
                .map(|frequency| {
                    line.iter().enumerate().fold((0.0, 0.0), |(real, imaginary), (place, &value)| {
                        let (cosine, sine) = turn(frequency * place, columns);
                        (real + f64::from(value) * cosine, imaginary + f64::from(value) * sine)
                    })
                })
                .collect()
        })
        .collect();
    (0..rows)
        .map(|frequency| {
            (0..columns)
                .map(|column| {
                    let (real, imaginary) =
                        along.iter().enumerate().fold((0.0, 0.0), |sum: (f64, f64), (place, line)| {
                            let ((cosine, sine), (real, imaginary)) = (turn(frequency * place, rows), line[column]);
                            (sum.0 + real * cosine - imaginary * sine, sum.1 + real * sine + imaginary * cosine)
                        });
                    real.hypot(imaginary)
                })
                .collect()
        })
        .collect()
}

/// A watch that never stops.
pub fn unwatched(_: crate::morpher::Evaluation) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_wave_lies_in_its_band() -> Result<()> {
        let wave = |cycles: f32| -> Result<Descriptor> {
            let values: Vec<f32> =
                (0..64).map(|place| (2.0 * std::f32::consts::PI * cycles * (place % 8) as f32 / 8.0).cos()).collect();
            descriptor(&Tensor::from_vec(values, (1, 64, 1), &Device::Cpu)?, (8, 8))
        };
        let strongest = |bands: Descriptor| (0..BANDS).max_by(|&a, &b| bands[a].total_cmp(&bands[b])).unwrap_or(0);
        assert_eq!(strongest(wave(0.0)?), 0);
        assert!(strongest(wave(1.0)?) < strongest(wave(3.0)?));
        assert!((wave(2.0)?.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        Ok(())
    }

    #[test]
    fn cuts_follow_the_frequencies() -> Result<()> {
        // Early depths carry band 0, late ones band 2; the noisiest steps are of band 0.
        let band = |index: usize| std::array::from_fn(|band| f64::from(u8::from(band == index)));
        let mut calibration = Calibration { steps: 10, ..Calibration::default() };
        for step in 0..10 {
            let denoising = 9 - step;
            let of_step = if denoising < 2 {
                0
            } else if denoising < 5 {
                1
            } else {
                2
            };
            for (depth, own) in DEPTHS.into_iter().zip(0..3) {
                let mix: Descriptor = std::array::from_fn(|index| {
                    let (own, step): (Descriptor, Descriptor) = (band(own), band(of_step));
                    0.5 * own[index] + 0.5 * step[index]
                });
                calibration.sums.insert((depth, step), (mix, 1));
            }
        }
        assert_eq!(calibration.turns()?, Turns::in_turn(0.2, 0.5));
        assert!(Calibration::default().turns().is_err());
        Ok(())
    }
}
