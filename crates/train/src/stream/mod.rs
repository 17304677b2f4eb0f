//! Learning how often each part of a stream's model computes, for a budget.
//!
//! A stream denoises frame after frame through the same few noise levels; what a part computed for the frame before, at the
//! very same level, is the natural thing to reuse. So the columns of the table are parts *at a level* and its rows the
//! frames of a period. As any frame may be the first, only two numbers of a part matter: every how many frames it computes,
//! and in which of them.
//!
//! The same three stages as in [`crate::steps`], each correcting the one before: full runs are the teachers; the harm of
//! each part alone, reusing at some interval along the student's own trajectory, proposes intervals (a knapsack over
//! measured harm, [`intervals`]); sampling with the proposal and with its neighbours picks those that harm the finished
//! latents least. Phases then spread the work evenly over the frames, as a late frame is late whatever the mean.

pub mod intervals;
mod motion;

use std::collections::HashSet;

use candle_core::Tensor;
use refrain_cache::policies::{self, MotionLimits};
use refrain_cache::{Context, Guard, Plan, PlanHeader, Planned, RunHeader, Site};

use crate::{
    TrainError,
    steps::overall,
    subject::{SiteCost, row_errors},
};
use intervals::{Choice, Menu};
use motion::Widest;

/// Runs the trial of a number under a context: the finished latents of every frame.
pub type Roll<'a> = dyn Fn(usize, Context) -> Result<Vec<Tensor>, TrainError> + 'a;

/// A stream's model, and clips to run it on.
pub struct StreamSubject<'a> {
    /// What the trained plan will be valid for.
    pub run: RunHeader,
    /// Parts with the branch of their noise level, and their shares of a frame's cost.
    pub sites: Vec<SiteCost>,
    /// Number of trials.
    pub trials: usize,
    /// Runs one.
    pub roll: Box<Roll<'a>>,
}

/// A change that only another picture makes. A mean over clips would hide what a plan does at a cut, which is rare.
const CUT: f32 = 0.5;

/// Settings of a search over intervals.
#[derive(Clone, Debug)]
pub struct StreamSearch {
    /// Frames of the table: intervals are the powers of two up to it.
    pub period: usize,
    /// Neighbours of a proposal that are sampled.
    pub moves: usize,
    /// Between which changes of the picture the plan is followed; a spike begins at the widest change of the clips, where it
    /// was judged, and here at the latest.
    pub limits: MotionLimits,
}

impl Default for StreamSearch {
    fn default() -> Self {
        Self { period: 8, moves: 24, limits: MotionLimits { spike: CUT, ..MotionLimits::default() } }
    }
}

/// A plan and its harm.
#[derive(Clone, Debug)]
pub struct FoundStream {
    /// The plan, one period.
    pub plan: Plan,
    /// Share of the cost of all parts that computes.
    pub share: f64,
    /// Harm of the finished latents, as [`overall`] sums it up.
    pub harm: f64,
}

/// Finds the intervals of each budget, a share of the parts' cost in 0..1.
///
/// # Errors
/// Those of the model; [`TrainError::Stopped`] when `watch` says so.
pub fn search(
    subject: &StreamSubject<'_>,
    budgets: &[f64],
    settings: &StreamSearch,
    watch: &mut dyn FnMut(&str) -> Result<(), TrainError>,
) -> Result<Vec<FoundStream>, TrainError> {
    let period = settings.period;
    if !period.is_power_of_two() || period < 2 {
        return Err(TrainError::Range { what: "period", expected: "a power of two from 2", value: period as f64 });
    }
    watch("running the clips in full")?;
    let judge = Judge::new(subject, period)?;
    let menu = judge.menu(watch)?;
    let limits = MotionLimits { spike: judge.spike(&settings.limits), ..settings.limits };
    let mut found = Vec::with_capacity(budgets.len());
    for &budget in budgets {
        let choice = improve(&judge, &menu, (budget, settings.moves), &mut |harm| {
            watch(&format!("budget {budget}: {:.2} dB", -10.0 * harm / std::f64::consts::LN_10))
        })?;
        let provenance = format!("router stream, budget {budget}");
        let plan = judge.plan(&choice, (limits, &provenance))?;
        found.push(FoundStream { plan, share: menu.share(&choice), harm: judge.harm(&choice)? });
    }
    Ok(found)
}

/// The teachers, and what a choice of intervals makes of their clips.
struct Judge<'s, 'a> {
    subject: &'s StreamSubject<'a>,
    period: usize,
    teachers: Vec<Vec<Tensor>>,
    /// The widest change of the clips.
    widest: f32,
}

impl<'s, 'a> Judge<'s, 'a> {
    fn new(subject: &'s StreamSubject<'a>, period: usize) -> Result<Self, TrainError> {
        let widest = Widest::default();
        let teachers = (0..subject.trials)
            .map(|trial| (subject.roll)(trial, widest.context(&subject.run)?))
            .collect::<Result<_, TrainError>>()?;
        Ok(Self { subject, period, teachers, widest: widest.change() })
    }

    /// Where the plan ends: with the widest change it was judged at, or that which `motion` takes without being asked.
    fn spike(&self, limits: &MotionLimits) -> f32 {
        self.widest.max(MotionLimits::default().spike).min(limits.spike)
    }

    /// Mean squared difference of each trial's finished latents from the teacher's.
    fn harms(&self, choice: &Choice) -> Result<Vec<f64>, TrainError> {
        // The table itself is judged: neither still frames nor spikes may hide what it does.
        let limits = MotionLimits { still: 0.0, spike: f32::MAX, refresh: usize::MAX };
        let plan = self.plan(choice, (limits, "in training"))?;
        let guard = Guard { compute_last: false, ..Guard::default() };
        let harm = |(trial, teacher): (usize, &Vec<Tensor>)| -> Result<f64, TrainError> {
            let context = Context::new(policies::follow(plan.clone()), guard.clone(), self.subject.run.clone())?;
            let frames = (self.subject.roll)(trial, context)?;
            let mut errors = Vec::new();
            for (reference, frame) in teacher.iter().zip(&frames) {
                errors.extend(row_errors(reference, frame)?);
            }
            Ok(errors.iter().sum::<f64>() / errors.len().max(1) as f64)
        };
        self.teachers.iter().enumerate().map(harm).collect()
    }

    fn harm(&self, choice: &Choice) -> Result<f64, TrainError> {
        Ok(overall(&self.harms(choice)?))
    }

    /// The harm of each part alone at every interval: measured at the shortest and the longest, and in between as their
    /// logarithms lie on a line.
    fn menu(&self, watch: &mut dyn FnMut(&str) -> Result<(), TrainError>) -> Result<Menu, TrainError> {
        let (count, longest) = (self.subject.sites.len(), self.period.trailing_zeros() as usize);
        let mut harms = Vec::with_capacity(count);
        for site in 0..count {
            watch(&format!("harm of part {} of {count}", site + 1))?;
            let alone = |exponent: usize| -> Result<f64, TrainError> {
                let harms = self.harms(&Choice::alone(count, site, exponent))?;
                Ok(harms.iter().sum::<f64>() / harms.len().max(1) as f64)
            };
            let short = alone(1)?.max(1e-20);
            let long = if longest > 1 { alone(longest)?.max(short) } else { short };
            let growth = (long / short).ln() / (longest - 1).max(1) as f64;
            let at = |exponent: usize| short * (growth * (exponent - 1) as f64).exp();
            harms.push(std::iter::once(0.0).chain((1..=longest).map(at)).collect());
        }
        Ok(Menu::new(self.subject.sites.iter().map(|site| site.share).collect(), harms))
    }

    fn plan(&self, choice: &Choice, (limits, provenance): (MotionLimits, &str)) -> Result<Plan, TrainError> {
        let shares: Vec<f64> = self.subject.sites.iter().map(|site| site.share).collect();
        let phases = choice.phases(&shares, self.period);
        let column = |(index, site): (usize, &SiteCost)| -> (Site, Vec<Planned>) {
            let (interval, phase) = (choice.interval(index), phases.get(index).copied().unwrap_or(0));
            let action = |frame: usize| if frame % interval == phase { Planned::Compute } else { Planned::Reuse };
            (site.site, (0..self.period).map(action).collect())
        };
        let columns: Vec<(Site, Vec<Planned>)> = self.subject.sites.iter().enumerate().map(column).collect();
        let header = PlanHeader {
            run: self.subject.run.clone(),
            provenance: provenance.to_owned(),
            repeats: Some(limits),
            ..PlanHeader::default()
        };
        Ok(Plan::new(header, self.period, &columns)?)
    }
}

/// Hill climbing from the knapsack's proposal: one part computes less often and another more, while the budget holds and
/// that lowers the harm of real sampling. Moves are tried in the order of what the menu promises.
fn improve(
    judge: &Judge<'_, '_>,
    menu: &Menu,
    (budget, moves): (f64, usize),
    watch: &mut dyn FnMut(f64) -> Result<(), TrainError>,
) -> Result<Choice, TrainError> {
    let mut chosen = menu.propose(budget);
    let mut least = judge.harm(&chosen)?;
    watch(least)?;
    let mut tried = HashSet::from([chosen.clone()]);
    for _ in 0..moves {
        let Some(next) = menu.neighbours(&chosen, budget).into_iter().find(|next| !tried.contains(next)) else { break };
        tried.insert(next.clone());
        let harm = judge.harm(&next)?;
        if harm < least {
            (least, chosen) = (harm, next);
        }
        watch(least)?;
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use refrain_cache::{Branch, Step};

    /// Two parts at two levels: one follows the frame's number closely, the other hardly moves.
    fn subject(trials: usize) -> StreamSubject<'static> {
        let levels = [Branch::chunk(0), Branch::chunk(1)];
        let parts = [Site::attention(0), Site::feed_forward(0)];
        let sites = levels
            .iter()
            .flat_map(|&level| parts.map(|part| SiteCost { site: part.with_branch(level), share: 0.25 }))
            .collect();
        let roll = |trial: usize, mut cx: Context| -> Result<Vec<Tensor>, TrainError> {
            let mut frames = Vec::new();
            for frame in 0..16usize {
                let time = (frame as f32 + trial as f32) / 4.0;
                let mut value = Tensor::full(time, (1, 4), &Device::Cpu)?;
                for level in 0..2u16 {
                    cx.set_branch(Branch::chunk(level));
                    let index = 2 * frame + usize::from(level);
                    cx.begin_step(Step { index, count: usize::MAX, timestep: 1.0, sigma: 1.0 });
                    let input = value.clone();
                    value = cx.model(&input, |cx| {
                        let fast = cx.run(Site::attention(0), |_| input.sin())?;
                        let slow = cx.run(Site::feed_forward(0), |_| (&input * 1e-3)?.cos())?;
                        fast + slow
                    })?;
                }
                frames.push(value);
            }
            Ok(frames)
        };
        StreamSubject { run: RunHeader { steps: 2, ..RunHeader::default() }, sites, trials, roll: Box::new(roll) }
    }

    fn found(budgets: &[f64]) -> Vec<FoundStream> {
        search(&subject(2), budgets, &StreamSearch::default(), &mut |_| Ok(())).unwrap()
    }

    fn computed(plan: &Plan, site: Site) -> usize {
        let column = plan.column_of(site).unwrap();
        (0..plan.steps()).filter(|&row| plan.at(row, column) == Planned::Compute).count()
    }

    #[test]
    fn what_moves_computes_more_often() {
        let found = found(&[0.6]).remove(0);
        assert!(found.share <= 0.6, "{}", found.share);
        for level in [Branch::chunk(0), Branch::chunk(1)] {
            let fast = computed(&found.plan, Site::attention(0).with_branch(level));
            let slow = computed(&found.plan, Site::feed_forward(0).with_branch(level));
            assert!(fast == 8 && slow < 8, "{fast} {slow}");
        }
    }

    #[test]
    fn motion_is_followed_as_far_as_it_was_judged() {
        // Brightnesses a quarter apart: the widest finite change is that from the first quarter to the second.
        let spike = |limit: f32| {
            let limits = MotionLimits { spike: limit, ..MotionLimits::default() };
            let settings = StreamSearch { limits, ..StreamSearch::default() };
            let found = search(&subject(2), &[0.6], &settings, &mut |_| Ok(())).unwrap().remove(0);
            found.plan.header().repeats.unwrap().spike
        };
        assert_eq!(spike(10.0), 1.0);
        assert_eq!(spike(CUT), CUT);
    }

    #[test]
    fn thrift_costs_and_plans_are_files() {
        let found = found(&[0.9, 0.4, 0.2]);
        assert!(found.windows(2).all(|pair| pair[0].harm <= pair[1].harm && pair[0].share > pair[1].share));
        for found in found {
            let plan = Plan::from_bytes(&found.plan.to_bytes().unwrap()).unwrap();
            assert_eq!(plan, found.plan);
        }
    }

    #[test]
    fn nobody_waits_for_a_search_that_was_stopped() {
        let mut calls = 0;
        let stopped = search(&subject(1), &[0.5], &StreamSearch::default(), &mut |_| {
            calls += 1;
            if calls > 2 { Err(TrainError::Stopped) } else { Ok(()) }
        });
        assert!(matches!(stopped, Err(TrainError::Stopped)) && calls == 3);
        let odd = StreamSearch { period: 6, ..StreamSearch::default() };
        assert!(search(&subject(1), &[0.5], &odd, &mut |_| Ok(())).is_err());
    }
}
