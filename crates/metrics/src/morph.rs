//! How good a morph is: global and local consistency (GLCS, arXiv 2512.07155), the length and evenness of its path, and
//! whether it moves one way.
//!
//! All work on numbers: similarities in -1..1 of a backbone that the caller names, which belongs beside every figure.
//! Formulas are those of the paper's Algorithm 1 as publicly shown, with linear interpolation of the ends' similarities and
//! one-sided neighbours at the ends of the sequence.

use serde::Serialize;

/// Similarities of the frames between two pictures A and B.
#[derive(Debug, Clone, Copy)]
pub struct Similarities<'a> {
    /// s(A, frame), one per frame in order, without A and B themselves.
    pub to_first: &'a [f64],
    /// s(B, frame).
    pub to_second: &'a [f64],
    /// s(A, B).
    pub between: f64,
}

/// Global-local consistency, each 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Glcs {
    /// How near each frame's similarities are to their interpolation.
    pub global: f64,
    /// How near each frame's similarities are to the mean of its neighbours'.
    pub local: f64,
    /// Root of the product.
    pub glcs: f64,
}

/// GLCS of evenly spaced frames, `gamma` at least 1 sharpening the global term; `None` without frames.
pub fn glcs(similarities: &Similarities<'_>, gamma: f64) -> Option<Glcs> {
    let count = similarities.to_first.len().min(similarities.to_second.len());
    if count == 0 {
        return None;
    }
    let sides =
        [(similarities.to_first, 1.0, similarities.between), (similarities.to_second, similarities.between, 1.0)];
    let closeness = |distance: f64| (1.0 - distance.abs()).clamp(0.0, 1.0);
    let (mut global, mut local) = (0.0, 0.0);
    for index in 0..count {
        let alpha = (index + 1) as f64 / (count + 1) as f64;
        let (mut g, mut l) = (1.0, 1.0);
        for (values, at_first, at_second) in sides {
            g *= closeness(values[index] - ((1.0 - alpha) * at_first + alpha * at_second));
            let neighbours = match (index.checked_sub(1), values[..count].get(index + 1)) {
                (Some(before), Some(after)) => (values[before] + after) / 2.0,
                (Some(before), None) => values[before],
                (None, Some(after)) => *after,
                (None, None) => values[index],
            };
            l *= closeness(values[index] - neighbours);
        }
        global += g.powf(gamma);
        local += l;
    }
    let (global, local) = (global / count as f64, local / count as f64);
    Some(Glcs { global, local, glcs: (global * local).sqrt() })
}

/// Distances between successive pictures. The sum alone rewards stills with one jump: read it beside the largest.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Path {
    /// Length.
    pub sum: f64,
    /// Mean step.
    pub mean: f64,
    /// Largest step.
    pub max: f64,
    /// Variance of the steps, over all of them.
    pub variance: f64,
}

impl Path {
    /// Of these steps; zeros without any.
    pub fn of(steps: &[f64]) -> Self {
        let count = steps.len().max(1) as f64;
        let sum: f64 = steps.iter().sum();
        let mean = sum / count;
        let variance = steps.iter().map(|step| (step - mean) * (step - mean)).sum::<f64>() / count;
        Self { sum, mean, max: steps.iter().copied().fold(0.0, f64::max), variance }
    }
}

/// Kendall's tau of a sequence against its order, -1 (falling) to 1 (rising); 0 for fewer than two values. Ties count
/// neither way.
pub fn monotonicity(values: &[f64]) -> f64 {
    let (mut rising, mut pairs) = (0i64, 0i64);
    for (index, first) in values.iter().enumerate() {
        for second in &values[index + 1..] {
            pairs += 1;
            rising += i64::from(second > first) - i64::from(second < first);
        }
    }
    if pairs == 0 { 0.0 } else { rising as f64 / pairs as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_way_scores_one_and_a_jump_does_not() {
        let even = |from: f64, to: f64| (1..6).map(|k| from + (to - from) * f64::from(k) / 6.0).collect::<Vec<_>>();
        let (to_first, to_second) = (even(1.0, 0.4), even(0.4, 1.0));
        let perfect = glcs(&Similarities { to_first: &to_first, to_second: &to_second, between: 0.4 }, 2.0).unwrap();
        assert!((perfect.global - 1.0).abs() < 1e-12);
        // Only the two frames at the ends lack a neighbour, by a step of 0.1 on both sides.
        assert!((perfect.local - (3.0 + 2.0 * 0.81) / 5.0).abs() < 1e-12);
        let jump =
            Similarities { to_first: &[1.0, 1.0, 1.0, 0.4, 0.4], to_second: &[0.4, 0.4, 0.4, 1.0, 1.0], between: 0.4 };
        let jump = glcs(&jump, 2.0).unwrap();
        assert!(jump.global < perfect.global && jump.glcs < perfect.glcs);
        assert!(glcs(&Similarities { to_first: &[], to_second: &[], between: 0.0 }, 2.0).is_none());
    }

    #[test]
    fn path_and_order() {
        let path = Path::of(&[1.0, 3.0]);
        assert_eq!(path, Path { sum: 4.0, mean: 2.0, max: 3.0, variance: 1.0 });
        assert_eq!(Path::of(&[]), Path::default());
        assert_eq!((monotonicity(&[1.0, 2.0, 3.0]), monotonicity(&[3.0, 2.0, 2.0])), (1.0, -2.0 / 3.0));
    }
}
