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

/// How unlike the frames along one segment are, known at previews: what even pace goes by.
///
/// Distances of neighbouring previews do not add up to those of frames further apart (each holds what the model makes anew
/// in any frame), so all pairs are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Unlikeness {
    /// Distances of previews at evenly spaced positions 0, 1/n, …, 1, `[preview][preview]`.
    pub pairs: Vec<Vec<f64>>,
    /// Distances of the previews from the keyframe that the segment begins with; even the preview at 0 is not the picture.
    pub from_first: Vec<f64>,
    /// Distances of the previews from the keyframe that it ends with.
    pub to_last: Vec<f64>,
    /// Distance of the two keyframes.
    pub apart: f64,
}

/// Where the frames of a segment lie at an even pace.
#[derive(Debug, Clone, PartialEq)]
pub struct Paced {
    /// Positions in 0..1 that ascend.
    pub positions: Vec<f64>,
    /// By how much the likeness of the frames to the keyframes misses what their places ask, summed over the frames: what
    /// lowers the global term of GLCS. It tells ways to make the same frames apart.
    pub departure: f64,
}

/// What a frame that is too like one keyframe for its place costs, beside a step of the wrong size.
const PROPORTION: f64 = 4.0;

impl Unlikeness {
    /// Between the frames at two positions in 0..=1, `a` before `b`, linear between previews.
    fn between(&self, a: f64, b: f64) -> f64 {
        let ((i, u), (j, v)) = (self.cell(a), self.cell(b));
        let pair = |i: usize, j: usize| self.pairs.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0.0);
        if i == j {
            // Nothing lies between the previews: the way from one to the next, shared out.
            return (v - u).abs() * pair(i, i + 1);
        }
        let row = |i: usize| (1.0 - v) * pair(i, j) + v * pair(i, j + 1);
        (1.0 - u) * row(i) + u * row(i + 1)
    }

    /// The preview before a position, and the share of the way to the next.
    fn cell(&self, position: f64) -> (usize, f64) {
        let cells = self.pairs.len().saturating_sub(1).max(1);
        let place = position.clamp(0.0, 1.0) * cells as f64;
        let index = (place as usize).min(cells - 1);
        (index, place - index as f64)
    }

    /// Positions for the frames between two keyframes, which are to lie as far along as `wanted`, positions in 0..1 that
    /// ascend, to the eye that measured: steps in proportion to those between the wanted positions, and each frame as unlike
    /// either keyframe as its position says (which is what GLCS asks, arXiv 2512.07155). Of all positions on a fine grid
    /// those with the least sum of squared departures, found by dynamic programming.
    pub fn paced(&self, wanted: &[f64]) -> Paced {
        let ends = [self.apart];
        let mut known = self.pairs.iter().flatten().chain(&self.from_first).chain(&self.to_last).chain(&ends);
        let (moves, finite) =
            (known.clone().any(|&distance| distance > 0.0), known.all(|distance| distance.is_finite()));
        if wanted.is_empty() || self.pairs.len() < 2 || !moves || !finite {
            let departure = if finite { 0.0 } else { f64::INFINITY };
            return Paced { positions: wanted.to_vec(), departure };
        }
        let grid = grid(wanted.len());
        let start = |&position: &f64| {
            let step = self.distance_from(&self.from_first, position);
            self.uneven(step, wanted, 0) + self.out_of_place(position, wanted, 0)
        };
        let mut least: Vec<f64> = grid.iter().map(start).collect();
        // For each frame after the first and each position, the position of the frame before.
        let mut before: Vec<Vec<usize>> = Vec::with_capacity(wanted.len());
        for frame in 1..wanted.len() {
            let found: Vec<(f64, usize)> = grid
                .iter()
                .enumerate()
                .map(|(index, &here)| {
                    let way = |(there, (&position, &spent)): (usize, (&f64, &f64))| {
                        (spent + self.uneven(self.between(position, here), wanted, frame), there)
                    };
                    let ways = grid.iter().zip(&least).enumerate().take(index).map(way);
                    let (spent, there) = ways.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0));
                    (spent + self.out_of_place(here, wanted, frame), there)
                })
                .collect();
            least = found.iter().map(|way| way.0).collect();
            before.push(found.into_iter().map(|way| way.1).collect());
        }
        let end = |(&position, &spent): (&f64, &f64)| {
            spent + self.uneven(self.distance_from(&self.to_last, position), wanted, wanted.len())
        };
        let totals = grid.iter().zip(&least).map(end).enumerate();
        let mut place = totals.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |best| best.0);
        let mut places = vec![place];
        for row in before.iter().rev() {
            place = row.get(place).copied().unwrap_or(0);
            places.push(place);
        }
        let positions: Vec<f64> = places.iter().rev().filter_map(|&place| grid.get(place).copied()).collect();
        let departures = positions.iter().enumerate().map(|(frame, &position)| {
            let (first, last) = self.misplaced(position, wanted, frame);
            first.hypot(last)
        });
        Paced { departure: departures.sum(), positions }
    }

    /// What the step to a frame costs: its square, for the share of the way that it is to be.
    fn uneven(&self, step: f64, wanted: &[f64], frame: usize) -> f64 {
        let at = |frame: usize| wanted.get(frame).copied().unwrap_or(1.0);
        let share = at(frame) - frame.checked_sub(1).map_or(0.0, at);
        step.powi(2) / share.max(1e-9)
    }

    /// What it costs that a frame is more or less like the keyframes than its place says.
    fn out_of_place(&self, position: f64, wanted: &[f64], frame: usize) -> f64 {
        let (first, last) = self.misplaced(position, wanted, frame);
        PROPORTION * (first.powi(2) + last.powi(2))
    }

    /// By how much a frame is more unlike either keyframe than its place says.
    fn misplaced(&self, position: f64, wanted: &[f64], frame: usize) -> (f64, f64) {
        let along = wanted.get(frame).copied().unwrap_or(1.0);
        let first = self.distance_from(&self.from_first, position) - along * self.apart;
        let last = self.distance_from(&self.to_last, position) - (1.0 - along) * self.apart;
        (first, last)
    }

    /// Distance of the frame at a position from a keyframe, linear between previews.
    fn distance_from(&self, keyframe: &[f64], position: f64) -> f64 {
        let (index, share) = self.cell(position);
        let at = |index: usize| keyframe.get(index).copied().unwrap_or(0.0);
        (1.0 - share) * at(index) + share * at(index + 1)
    }
}

/// Positions inside 0..1, evenly spaced, and one as near to each end as makes no difference: the keyframe as the model
/// makes it; enough of them for so many frames.
fn grid(frames: usize) -> Vec<f64> {
    let steps = (4 * frames).max(64);
    (0..=steps).map(|index| (index as f64 / steps as f64).clamp(NEAR_END, 1.0 - NEAR_END)).collect()
}

/// Away from 0 and 1, which are the keyframes themselves.
pub(crate) const NEAR_END: f64 = 1e-6;

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

    /// Frames that lie at `at(position)` on a line, distances taken along it, with `jump` between keyframes and previews.
    fn on_a_line(at: impl Fn(f64) -> f64, jump: f64) -> Unlikeness {
        let places: Vec<f64> = (0..9).map(|index| at(f64::from(index) / 8.0)).collect();
        let from = |place: f64| places.iter().map(move |other| (other - place).abs());
        Unlikeness {
            pairs: places.iter().map(|&place| from(place).collect()).collect(),
            from_first: from(places[0]).map(|distance| distance + jump).collect(),
            to_last: from(places[8]).map(|distance| distance + jump).collect(),
            apart: (places[8] - places[0]).abs() + 2.0 * jump,
        }
    }

    fn positions(unlike: &Unlikeness, wanted: &[f64]) -> Vec<f64> {
        unlike.paced(wanted).positions
    }

    #[test]
    fn even_pace_spends_frames_where_the_picture_moves() {
        let near = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.02);
        let even = on_a_line(|position| position, 0.0);
        assert!(
            near(&positions(&even, &[0.25, 0.5, 0.75]), &[0.25, 0.5, 0.75]),
            "{:?}",
            positions(&even, &[0.25, 0.5, 0.75])
        );
        // Eased positions stay eased.
        assert!(near(&positions(&even, &[0.1, 0.9]), &[0.1, 0.9]), "{:?}", positions(&even, &[0.1, 0.9]));
        // Three quarters of the way lie in the first half.
        let early = on_a_line(|position| if position < 0.5 { 1.5 * position } else { 0.5 + 0.5 * position }, 0.0);
        assert!(near(&positions(&early, &[0.5]), &[1.0 / 3.0]), "{:?}", positions(&early, &[0.5]));
        // A jump at the ends takes its share: frames 1 and 4 move towards the keyframes.
        let torn = positions(&on_a_line(|position| position, 0.2), &[0.2, 0.4, 0.6, 0.8]);
        assert!(torn[0] < 0.1 && torn[3] > 0.9, "{torn:?}");
        let still = on_a_line(|_| 0.0, 0.0);
        assert_eq!((positions(&still, &[0.3]), positions(&even, &[])), (vec![0.3], vec![]));
    }

    #[test]
    fn paced_frames_ascend_between_the_keyframes_however_many() {
        let unlike = on_a_line(|position| position * position, 0.05);
        for count in [1, 2, 7, 30, 238] {
            let wanted: Vec<f64> = (1..=count).map(|frame| f64::from(frame) / f64::from(count + 1)).collect();
            let found = positions(&unlike, &wanted);
            assert_eq!(found.len(), wanted.len());
            assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
            assert!(found.iter().all(|&position| position > 0.0 && position < 1.0));
        }
    }

    #[test]
    fn departure_tells_frames_in_their_place_and_distrusts_what_is_no_number() {
        let wanted = [0.25, 0.5, 0.75];
        let departure = |unlike: &Unlikeness| unlike.paced(&wanted).departure;
        let smooth = on_a_line(|position| position, 0.0);
        // Frames that resemble neither keyframe.
        let away = |distances: &[f64]| distances.iter().map(|distance| distance + 0.3).collect();
        let strange =
            Unlikeness { from_first: away(&smooth.from_first), to_last: away(&smooth.to_last), ..smooth.clone() };
        assert!(departure(&smooth) < 0.1, "{}", departure(&smooth));
        assert!(departure(&strange) > 0.5, "{}", departure(&strange));
        let still = on_a_line(|_| 0.0, 0.0);
        assert_eq!(departure(&still), 0.0);
        let unknown = Unlikeness { apart: f64::NAN, ..smooth };
        assert_eq!(departure(&unknown), f64::INFINITY);
    }
}
