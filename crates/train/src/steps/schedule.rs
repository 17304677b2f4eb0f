//! The best steps to compute, by dynamic programming over forecast errors.
//!
//! If the harm of a skipped step is its forecast error times how much the final picture minds an error there, harms add
//! up and the best choice of `k` steps is a shortest path (in the manner of CEM, arXiv 2512.23258, with errors of learned
//! forecasts in place of plain reuse). It is a proposal: sampling decides.

use super::gram::Gram;

/// For every number of computed steps, the steps of least total harm, first and last included.
///
/// `weights[step]` is the harm of a unit of error energy at the step; `terms` remembered values enter a forecast (1–3).
pub fn propose(gram: &Gram, weights: &[f64], terms: usize) -> Vec<Vec<usize>> {
    let steps = gram.steps();
    if steps < 2 {
        return vec![(0..steps).collect()];
    }
    let mut table = Table::new(steps, terms.clamp(1, 3));
    table.fill(gram, weights);
    (2..=steps).filter_map(|count| table.path(count)).collect()
}

/// The last three computed steps, newest last; equal ones stand for "none".
type State = (usize, usize, usize);

struct Table {
    steps: usize,
    terms: usize,
    /// `[count - 1][state]`: least harm so far, and the oldest step of the state before.
    layers: Vec<Vec<(f64, u16)>>,
}

impl Table {
    fn new(steps: usize, terms: usize) -> Self {
        Self { steps, terms, layers: Vec::new() }
    }

    fn index(&self, (oldest, middle, newest): State) -> usize {
        (oldest * self.steps + middle) * self.steps + newest
    }

    fn fill(&mut self, gram: &Gram, weights: &[f64]) {
        let size = self.steps.pow(3);
        let mut first = vec![(f64::INFINITY, 0); size];
        first[self.index((0, 0, 0))].0 = 0.0;
        self.layers.push(first);
        for count in 1..self.steps {
            let mut next = vec![(f64::INFINITY, 0); size];
            for newest in count - 1..self.steps {
                for middle in 0..=newest {
                    for oldest in 0..=middle {
                        self.extend((oldest, middle, newest), count, &mut next, (gram, weights));
                    }
                }
            }
            self.layers.push(next);
        }
    }

    /// Continues a state to every later step.
    fn extend(&self, state: State, count: usize, next: &mut [(f64, u16)], (gram, weights): (&Gram, &[f64])) {
        let (oldest, middle, newest) = state;
        let mut harm = self.layers[count - 1][self.index(state)].0;
        if harm.is_infinite() {
            return;
        }
        let history = [newest, middle, oldest];
        let known = count.min(self.terms);
        for step in newest + 1..self.steps {
            let slot = &mut next[self.index((middle, newest, step))];
            if harm < slot.0 {
                *slot = (harm, oldest as u16);
            }
            harm += weights.get(step).copied().unwrap_or(1.0) * gram.error(step, &history[..known]);
        }
    }

    /// The best path of `count` steps that ends at the last step.
    fn path(&self, count: usize) -> Option<Vec<usize>> {
        let newest = self.steps - 1;
        let layer = self.layers.get(count - 1)?;
        let states = (0..=newest).flat_map(|middle| (0..=middle).map(move |oldest| (oldest, middle, newest)));
        let mut state = states.min_by(|&a, &b| layer[self.index(a)].0.total_cmp(&layer[self.index(b)].0))?;
        if layer[self.index(state)].0.is_infinite() {
            return None;
        }
        let mut path = vec![state.2];
        for length in (1..count).rev() {
            let before = usize::from(self.layers[length][self.index(state)].1);
            state = (before, state.0, state.1);
            path.push(state.2);
        }
        path.reverse();
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    /// Outputs that are constant but for one jump.
    fn jump(steps: usize, at: usize) -> Gram {
        let outputs = (0..steps).map(|step| {
            let values = if step < at { [1.0f32, 0.0] } else { [0.0, 1.0] };
            Tensor::new(&[values], &Device::Cpu).unwrap()
        });
        Gram::new(&[outputs.collect()]).unwrap()
    }

    #[test]
    fn computes_where_the_output_jumps() {
        let proposals = propose(&jump(10, 6), &[1.0; 10], 2);
        assert_eq!(proposals.len(), 9);
        assert!(proposals[1].contains(&6), "{:?}", proposals[1]);
        for (index, path) in proposals.iter().enumerate() {
            assert_eq!((path.len(), path[0], *path.last().unwrap()), (index + 2, 0, 9));
            assert!(path.windows(2).all(|pair| pair[0] < pair[1]), "{path:?}");
        }
    }

    #[test]
    fn agrees_with_trying_everything() {
        let outputs: Vec<Tensor> = (0..8)
            .map(|step| {
                let angle = (step as f32 * 0.31).powi(2);
                Tensor::new(&[[angle.sin(), angle.cos(), 0.2 * step as f32, 1.0]], &Device::Cpu).unwrap()
            })
            .collect();
        let gram = Gram::new(&[outputs]).unwrap();
        let weights: Vec<f64> = (0..8).map(|step| 1.0 + step as f64 * 0.3).collect();
        let harm = |path: &[usize]| {
            (0..8)
                .filter(|step| !path.contains(step))
                .map(|step| {
                    let history: Vec<usize> =
                        path.iter().rev().copied().filter(|&known| known < step).take(3).collect();
                    weights[step] * gram.error(step, &history)
                })
                .sum::<f64>()
        };
        for path in propose(&gram, &weights, 3) {
            let best = (0u32..256)
                .filter(|bits| bits & 129 == 129 && bits.count_ones() as usize == path.len())
                .map(|bits| harm(&(0..8).filter(|step| bits >> step & 1 == 1).collect::<Vec<_>>()))
                .fold(f64::INFINITY, f64::min);
            assert!(harm(&path) <= best * (1.0 + 1e-9) + 1e-12, "{path:?}: {} {best}", harm(&path));
        }
    }
}
