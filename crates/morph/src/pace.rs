//! Where along the way from one keyframe to the next each frame lies.

use std::fmt;
use std::str::FromStr;

use crate::error::{MorphError, Result};

/// How time runs along a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ease {
    /// Evenly.
    #[default]
    Linear,
    /// Slow at first: `x²`.
    In,
    /// Slow at last: `1 - (1 - x)²`.
    Out,
    /// Slow at both ends: `3x² - 2x³`.
    InOut,
}

impl Ease {
    /// Names, for help and errors.
    pub const NAMES: [&str; 4] = ["linear", "in", "out", "in-out"];

    /// Eased position of `x` in 0..1.
    pub fn at(self, x: f64) -> f64 {
        match self {
            Self::Linear => x,
            Self::In => x * x,
            Self::Out => 1.0 - (1.0 - x) * (1.0 - x),
            Self::InOut => x * x * (3.0 - 2.0 * x),
        }
    }
}

impl FromStr for Ease {
    type Err = MorphError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "linear" => Ok(Self::Linear),
            "in" => Ok(Self::In),
            "out" => Ok(Self::Out),
            "in-out" => Ok(Self::InOut),
            _ => Err(MorphError::Setting { what: "ease", expected: Self::NAMES.join(", "), value: name.to_owned() }),
        }
    }
}

impl fmt::Display for Ease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Linear => "linear",
            Self::In => "in",
            Self::Out => "out",
            Self::InOut => "in-out",
        })
    }
}

/// A frame's place: between the keyframes `segment` and `segment + 1`, `alpha` in 0..=1 of the way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Number of the segment.
    pub segment: usize,
    /// Share of the way.
    pub alpha: f64,
}

impl Place {
    /// Whether this is a keyframe itself, and which.
    pub fn keyframe(&self) -> Option<usize> {
        if self.alpha <= 0.0 {
            Some(self.segment)
        } else if self.alpha >= 1.0 {
            Some(self.segment + 1)
        } else {
            None
        }
    }
}

/// Shares out `frames` frames, keyframes included, over segments that last in proportion to `seconds`; every segment has
/// at least its two ends. With `open` the last keyframe (which is the first again in a loop) is left out.
///
/// # Errors
/// Fewer frames than keyframes, or no segment.
pub fn places(frames: usize, seconds: &[f64], ease: Ease, open: bool) -> Result<Vec<Place>> {
    let segments = seconds.len();
    let wanted = segments + usize::from(!open);
    if segments == 0 || frames < wanted.max(2) {
        let expected = format!("at least {}, one for each keyframe", wanted.max(2));
        return Err(MorphError::Setting { what: "frames", expected, value: frames.to_string() });
    }
    // Steps between frames: one each, the rest by largest remainder.
    let steps = if open { frames } else { frames - 1 };
    let total: f64 = seconds.iter().sum();
    let ideal: Vec<f64> = seconds.iter().map(|time| steps as f64 * time / total).collect();
    let mut counts: Vec<usize> = ideal.iter().map(|&share| (share.floor() as usize).max(1)).collect();
    while counts.iter().sum::<usize>() != steps {
        let short = counts.iter().sum::<usize>() < steps;
        let owed = |index: usize| ideal.get(index).copied().unwrap_or(0.0) - counts[index] as f64;
        let candidates = (0..segments).filter(|&index| short || counts[index] > 1);
        let chosen = if short {
            candidates.max_by(|&a, &b| owed(a).total_cmp(&owed(b)).then(b.cmp(&a)))
        } else {
            candidates.min_by(|&a, &b| owed(a).total_cmp(&owed(b)).then(a.cmp(&b)))
        };
        let Some(chosen) = chosen else { break };
        if short { counts[chosen] += 1 } else { counts[chosen] -= 1 }
    }
    let mut found = Vec::with_capacity(frames);
    for (segment, &count) in counts.iter().enumerate() {
        found.extend((0..count).map(|step| Place { segment, alpha: ease.at(step as f64 / count as f64) }));
    }
    if !open {
        found.push(Place { segment: segments - 1, alpha: 1.0 });
    }
    Ok(found)
}

/// Moves the frames of one segment so that successive distances are equal, given distances measured between previews at
/// evenly spaced positions 0, 1/n, …, 1: the inverse of the piecewise linear path length.
pub fn evened(position: f64, distances: &[f64]) -> f64 {
    let total: f64 = distances.iter().sum();
    // The ends stay, to the last bit.
    if distances.is_empty() || total <= 0.0 || !total.is_finite() || position <= 0.0 || position >= 1.0 {
        return position;
    }
    let mut left = position.clamp(0.0, 1.0) * total;
    for (index, &distance) in distances.iter().enumerate() {
        if left <= distance || index + 1 == distances.len() {
            let within = if distance > 0.0 { (left / distance).min(1.0) } else { 0.0 };
            return (index as f64 + within) / distances.len() as f64;
        }
        left -= distance;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_shared_out_by_time_with_every_keyframe_once() -> Result<()> {
        let found = places(7, &[2.0, 1.0], Ease::Linear, false)?;
        let keyframes: Vec<usize> = found.iter().filter_map(Place::keyframe).collect();
        assert_eq!((found.len(), keyframes), (7, vec![0, 1, 2]));
        assert_eq!(found.iter().filter(|place| place.segment == 0).count(), 4);
        let open = places(6, &[1.0, 1.0, 1.0], Ease::InOut, true)?;
        assert_eq!(open.iter().filter_map(Place::keyframe).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(places(2, &[1.0, 1.0], Ease::Linear, false).is_err());
        for frames in 2..60 {
            for seconds in [&[1.0, 1000.0][..], &[0.1], &[5.0, 1.0, 1.0]] {
                if let Ok(found) = places(frames, seconds, Ease::Linear, false) {
                    assert_eq!(found.len(), frames);
                    assert_eq!(found.iter().filter_map(Place::keyframe).count(), seconds.len() + 1);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn even_pace_spends_frames_where_the_picture_moves() {
        assert_eq!(evened(0.5, &[1.0, 1.0]), 0.5);
        assert!((evened(0.5, &[3.0, 1.0]) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((evened(0.0, &[0.0, 2.0]), evened(1.0, &[2.0, 1.0])), (0.0, 1.0));
        assert_eq!(evened(0.3, &[0.0, 0.0]), 0.3);
    }
}
