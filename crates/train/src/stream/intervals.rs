//! Choosing intervals: what each part costs and harms, and the choice of least harm within a budget.

/// An exponent for each part: it computes every 2^exponent frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Choice(Vec<usize>);

impl Choice {
    /// All `count` parts compute in every frame but `site`.
    pub fn alone(count: usize, site: usize, exponent: usize) -> Self {
        Self((0..count).map(|index| if index == site { exponent } else { 0 }).collect())
    }

    /// Frames from one computation of a part to the next.
    pub fn interval(&self, site: usize) -> usize {
        1 << self.0.get(site).copied().unwrap_or(0)
    }

    /// In which frame of its interval each part computes, so that all frames of a period cost about the same: the dearest
    /// parts choose first, each the frames that are cheapest so far.
    pub fn phases(&self, shares: &[f64], period: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        let share = |site: usize| shares.get(site).copied().unwrap_or(0.0);
        order.sort_by(|&a, &b| share(b).total_cmp(&share(a)).then(a.cmp(&b)));
        let (mut load, mut phases) = (vec![0.0; period], vec![0; self.0.len()]);
        for site in order {
            let interval = self.interval(site);
            let frames = |phase: usize| (phase..period).step_by(interval);
            let busiest =
                |phase: usize| frames(phase).filter_map(|frame| load.get(frame)).fold(0.0, |a: f64, b| a.max(*b));
            let phase = (0..interval).min_by(|&a, &b| busiest(a).total_cmp(&busiest(b))).unwrap_or(0);
            frames(phase).for_each(|frame| load[frame] += share(site));
            phases[site] = phase;
        }
        phases
    }
}

/// Cost and measured harm of every part at every interval.
#[derive(Clone, Debug)]
pub struct Menu {
    /// Share of a frame's cost, by part.
    shares: Vec<f64>,
    /// `[part][exponent]`, 0 at exponent 0 and never falling.
    harms: Vec<Vec<f64>>,
}

impl Menu {
    /// A menu of parts that each cost a share and do harm by exponent.
    pub fn new(shares: Vec<f64>, harms: Vec<Vec<f64>>) -> Self {
        Self { shares, harms }
    }

    fn cost(&self, site: usize, exponent: usize) -> f64 {
        self.shares.get(site).copied().unwrap_or(0.0) / f64::from(1u32 << exponent)
    }

    fn harm(&self, site: usize, exponent: usize) -> f64 {
        self.harms.get(site).and_then(|row| row.get(exponent)).copied().unwrap_or(f64::INFINITY)
    }

    /// Share of the parts' whole cost that a choice computes.
    pub fn share(&self, choice: &Choice) -> f64 {
        let whole: f64 = self.shares.iter().sum();
        let computed: f64 = choice.0.iter().enumerate().map(|(site, &exponent)| self.cost(site, exponent)).sum();
        if whole > 0.0 { computed / whole } else { 1.0 }
    }

    /// The choice of least harm within a budget, as far as harms add up: part after part takes the step that does the least
    /// harm for what it saves. Where even the longest intervals cost more, these.
    pub fn propose(&self, budget: f64) -> Choice {
        let mut choice = Choice(vec![0; self.shares.len()]);
        while self.share(&choice) > budget {
            let steps = choice.0.iter().enumerate().filter_map(|(site, &from)| self.best_step(site, from));
            let Some((_, site, exponent)) = steps.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
            choice.0[site] = exponent;
        }
        choice
    }

    /// The longer interval of a part that harms least for what it saves: price, part and exponent.
    fn best_step(&self, site: usize, from: usize) -> Option<(f64, usize, usize)> {
        let row = self.harms.get(site)?;
        let price = |to: usize| {
            let saved = (self.cost(site, from) - self.cost(site, to)).max(1e-12);
            ((self.harm(site, to) - self.harm(site, from)) / saved, site, to)
        };
        (from + 1..row.len()).map(price).min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// Choices within the budget in which one part computes more often, paid for by another that does so less, or by
    /// nobody; the most promising first.
    pub fn neighbours(&self, choice: &Choice, budget: f64) -> Vec<Choice> {
        let change = |choice: &Choice, site: usize, up: bool| -> Option<(f64, Choice)> {
            let from = *choice.0.get(site)?;
            let to = if up { from + 1 } else { from.checked_sub(1)? };
            let row = self.harms.get(site).filter(|row| to < row.len())?;
            let mut changed = choice.clone();
            *changed.0.get_mut(site)? = to;
            Some((row.get(to)? - row.get(from)?, changed))
        };
        let mut found = Vec::new();
        for more in 0..choice.0.len() {
            let Some((gain, faster)) = change(choice, more, false) else { continue };
            found.push((gain, faster.clone()));
            let others = (0..choice.0.len()).filter(|&less| less != more);
            found.extend(others.filter_map(|less| change(&faster, less, true).map(|(loss, next)| (gain + loss, next))));
        }
        found.retain(|(_, next)| self.share(next) <= budget);
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        found.into_iter().map(|(_, next)| next).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn menu() -> Menu {
        let harms = vec![vec![0.0, 1.0, 4.0], vec![0.0, 0.1, 0.2], vec![0.0, 10.0, 40.0]];
        Menu::new(vec![0.4, 0.4, 0.2], harms)
    }

    #[test]
    fn the_harmless_save_first() {
        let menu = menu();
        assert_eq!(menu.propose(1.0), Choice(vec![0, 0, 0]));
        assert_eq!(menu.propose(0.85), Choice(vec![0, 1, 0]));
        assert_eq!(menu.propose(0.7), Choice(vec![0, 2, 0]));
        assert_eq!(menu.propose(0.6), Choice(vec![1, 2, 0]));
        assert_eq!(menu.propose(0.0), Choice(vec![2, 2, 2]));
        for budget in [0.9, 0.5, 0.3] {
            assert!(menu.share(&menu.propose(budget)) <= budget);
        }
    }

    #[test]
    fn neighbours_keep_to_the_budget_and_promise_most_first() {
        let menu = menu();
        let next = menu.neighbours(&Choice(vec![1, 1, 0]), 0.7);
        assert_eq!(next.first(), Some(&Choice(vec![0, 2, 0])));
        assert!(next.iter().all(|choice| menu.share(choice) <= 0.7 + 1e-12));
    }

    #[test]
    fn phases_spread_the_work() {
        let choice = Choice(vec![1, 1, 2, 2, 0]);
        let shares = [0.3, 0.3, 0.2, 0.1, 0.1];
        let phases = choice.phases(&shares, 4);
        assert_ne!(phases[0], phases[1]);
        assert_ne!(phases[2], phases[3]);
        assert_eq!(phases[4], 0);
        assert!(phases.iter().enumerate().all(|(site, &phase)| phase < choice.interval(site)));
    }
}
