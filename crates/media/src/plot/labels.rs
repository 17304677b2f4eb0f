//! Finds places for the labels of points, so that none covers another, a point or a line where that can be had.

use super::surface::{Point, Rect};

/// Directions that a label may lie in, best first: the eye expects it to the upper right.
const DIRECTIONS: [(f64, f64); 8] =
    [(1.0, -0.6), (1.0, 0.6), (-1.0, -0.6), (-1.0, 0.6), (0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (-1.0, 0.0)];
/// Distances from the point; the farther ones get a leader line.
const DISTANCES: [f64; 4] = [9.0, 20.0, 34.0, 50.0];
const ROUNDS: usize = 4;
/// An overlap up to this many square pixels does not hide anything.
const COVERED: f64 = 30.0;

/// A label to place.
pub(super) struct Wanted {
    pub(super) point: Point,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Where a label went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) rect: Rect,
    /// Whether it is so far from its point that a line should join them.
    pub(super) far: bool,
}

/// What labels should keep clear of.
pub(super) struct Obstacles<'a> {
    pub(super) within: Rect,
    /// All marks, with this radius.
    pub(super) points: &'a [Point],
    pub(super) radius: f64,
    pub(super) lines: &'a [Vec<Point>],
}

/// Places every label: first one after the other, then each again, knowing all others.
pub(super) fn place(wanted: &[Wanted], obstacles: &Obstacles<'_>) -> Vec<Placed> {
    let candidates: Vec<Vec<(Placed, f64)>> = wanted
        .iter()
        .map(|label| candidates(label).map(|placed| (placed, obstacles.cost(&placed.rect))).collect::<Vec<_>>())
        .map(|list| {
            list.into_iter().enumerate().map(|(rank, (placed, cost))| (placed, cost + rank as f64 * 3.0)).collect()
        })
        .collect();
    let mut chosen: Vec<Option<Placed>> = vec![None; wanted.len()];
    for _ in 0..ROUNDS {
        for (index, list) in candidates.iter().enumerate() {
            let others: Vec<Rect> = chosen
                .iter()
                .enumerate()
                .filter(|&(other, _)| other != index)
                .filter_map(|(_, placed)| placed.map(|placed| placed.rect))
                .collect();
            let cost = |(placed, cost): &(Placed, f64)| {
                cost + others.iter().map(|other| other.overlap(&placed.rect)).sum::<f64>() * 20.0
            };
            let best = list.iter().min_by(|left, right| cost(left).total_cmp(&cost(right)));
            if let Some((placed, _)) = best {
                chosen[index] = Some(*placed);
            }
        }
    }
    chosen.into_iter().flatten().collect()
}

/// Whether no label covers another or a mark: else the points need shorter labels.
pub(super) fn is_clear(placed: &[Placed], obstacles: &Obstacles<'_>) -> bool {
    let apart = |(index, label): (usize, &Placed)| {
        placed.iter().skip(index + 1).all(|other| other.rect.overlap(&label.rect) < COVERED)
    };
    placed.iter().enumerate().all(apart) && placed.iter().all(|label| obstacles.marks_under(&label.rect) < COVERED)
}

fn candidates(label: &Wanted) -> impl Iterator<Item = Placed> {
    DISTANCES.iter().enumerate().flat_map(move |(ring, distance)| {
        DIRECTIONS.iter().map(move |(dx, dy)| {
            // The label's nearest edge is at the distance; sideways directions keep it level.
            let x = label.point.0 + dx * distance + (dx.signum() * f64::from(*dx != 0.0) - 1.0) * label.width / 2.0;
            let y = label.point.1 + dy * distance + (dy * 1.0 - 1.0) * label.height / 2.0;
            Placed { rect: Rect::new(x, y, label.width, label.height), far: ring >= 2 }
        })
    })
}

impl Obstacles<'_> {
    fn cost(&self, rect: &Rect) -> f64 {
        let outside = rect.width * rect.height - rect.overlap(&self.within);
        let marks = self.marks_under(rect);
        let crossed: f64 = self.lines.iter().flat_map(|line| line.windows(2)).map(|pair| crossing(pair, rect)).sum();
        outside * 50.0 + marks * 10.0 + crossed * 2.0
    }

    fn marks_under(&self, rect: &Rect) -> f64 {
        let side = 2.0 * self.radius;
        let mark = |&(x, y): &Point| Rect::new(x - self.radius, y - self.radius, side, side).overlap(rect);
        self.points.iter().map(mark).sum()
    }
}

/// Length of a segment inside a rectangle, by sampling: good enough to choose.
fn crossing(pair: &[Point], rect: &Rect) -> f64 {
    let &[from, to] = pair else { return 0.0 };
    let length = (to.0 - from.0).hypot(to.1 - from.1);
    let samples = (length / 4.0).ceil().clamp(1.0, 500.0) as usize;
    let inside = (0..=samples).filter(|&index| {
        let share = index as f64 / samples as f64;
        let (x, y) = (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1));
        x > rect.x - 1.0 && x < rect.right() + 1.0 && y > rect.y - 1.0 && y < rect.bottom() + 1.0
    });
    inside.count() as f64 * 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowded_points_get_labels_that_do_not_overlap() {
        let points: Vec<Point> =
            (0..14).map(|index| (200.0 + f64::from(index % 5) * 14.0, 200.0 + f64::from(index / 5) * 11.0)).collect();
        let wanted: Vec<Wanted> = points.iter().map(|&point| Wanted { point, width: 30.0, height: 14.0 }).collect();
        let obstacles =
            Obstacles { within: Rect::new(0.0, 0.0, 900.0, 500.0), points: &points, radius: 6.0, lines: &[] };
        let placed = place(&wanted, &obstacles);
        assert_eq!(placed.len(), points.len());
        for (index, left) in placed.iter().enumerate() {
            for right in &placed[index + 1..] {
                assert!(left.rect.overlap(&right.rect) < 1.0, "{:?} {:?}", left.rect, right.rect);
            }
        }
    }

    #[test]
    fn labels_stay_inside() {
        let within = Rect::new(0.0, 0.0, 100.0, 100.0);
        for point in [(0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0)] {
            let wanted = [Wanted { point, width: 40.0, height: 14.0 }];
            let placed = place(&wanted, &Obstacles { within, points: &[point], radius: 5.0, lines: &[] });
            assert!((placed[0].rect.overlap(&within) - 560.0).abs() < 1e-6);
        }
    }
}
