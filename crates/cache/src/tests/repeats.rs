//! Plans that repeat: the rows of a stream's frames, and what interrupts them.

use std::cell::Cell;

use candle_core::{Device, Tensor};

use crate::policies::{MotionLimits, follow};
use crate::{Branch, Coefficients, Context, Guard, Plan, PlanHeader, Planned, RunHeader, Site, Step};

fn levels() -> [Branch; 2] {
    [Branch::chunk(0), Branch::chunk(1)]
}

fn header(limits: MotionLimits) -> PlanHeader {
    let run = RunHeader { steps: levels().len(), ..RunHeader::default() };
    PlanHeader { run, repeats: Some(limits), ..PlanHeader::default() }
}

/// A stream of one attention at two levels; counts its computations.
struct Stream {
    cx: Context,
    evaluations: usize,
    computed: Cell<[usize; 2]>,
}

impl Stream {
    fn new(plan: Plan) -> Self {
        let guard = Guard { compute_last: false, ..Guard::default() };
        let run = plan.header().run.clone();
        Self { cx: Context::new(follow(plan), guard, run).unwrap(), evaluations: 0, computed: Cell::default() }
    }

    /// How often each level computed a frame of this brightness: 0 or 1 each, and what came out at the first.
    fn frame(&mut self, brightness: f32) -> ([usize; 2], f32) {
        self.computed.set([0; 2]);
        let mut first = 0.0;
        for (level, branch) in levels().into_iter().enumerate() {
            let input = Tensor::new(&[brightness, -2.0 * brightness], &Device::Cpu).unwrap();
            self.cx.set_branch(branch);
            self.cx.begin_step(Step { index: self.evaluations, count: usize::MAX, timestep: 1.0, sigma: 1.0 });
            self.evaluations += 1;
            let computed = &self.computed;
            let output = self.cx.model(&input, |cx| {
                cx.run(Site::attention(0), |_| {
                    let mut counts = computed.get();
                    counts[level] += 1;
                    computed.set(counts);
                    Ok(input.clone())
                })
            });
            if level == 0 {
                first = output.unwrap().to_vec1::<f32>().unwrap()[0];
            }
        }
        (self.computed.get(), first)
    }

    fn counts(&mut self, brightness: f32) -> [usize; 2] {
        self.frame(brightness).0
    }
}

fn columns(rows: [[Planned; 4]; 2]) -> Vec<(Site, Vec<Planned>)> {
    levels().into_iter().zip(rows).map(|(level, row)| (Site::attention(0).with_branch(level), row.to_vec())).collect()
}

use Planned::{Compute as C, Reuse as R};

fn plan(limits: MotionLimits) -> Plan {
    Plan::new(header(limits), 4, &columns([[C, R, C, R], [R, R, R, C]])).unwrap()
}

const WIDE: MotionLimits = MotionLimits { still: 0.0, spike: 10.0, refresh: 1000 };

#[test]
fn rows_repeat_from_a_frame_that_computes_all() {
    let mut stream = Stream::new(plan(WIDE));
    assert_eq!(stream.counts(1.0), [1, 1]);
    for period in 0..3 {
        let found: Vec<[usize; 2]> =
            (1..=4).map(|frame| stream.counts(1.0 + (4 * period + frame) as f32 * 0.01)).collect();
        // A period ends with what its next one reads: the second level's one value.
        assert_eq!(found, [[1, 0], [0, 0], [1, 0], [0, 1]], "period {period}");
    }
    let report = stream.cx.report();
    assert!(report.computed_share < 0.5 && report.fallback.is_none());
}

#[test]
fn spikes_still_frames_and_the_refresh_interrupt_them() {
    let mut stream = Stream::new(plan(MotionLimits { still: 0.001, spike: 0.3, refresh: 6 }));
    assert_eq!(stream.counts(1.0), [1, 1]);
    assert_eq!(stream.counts(1.0), [0, 0], "a still frame");
    assert_eq!(stream.counts(1.05), [0, 0], "the second row");
    assert_eq!(stream.counts(2.0), [1, 1], "a spike");
    assert_eq!(stream.counts(2.05), [1, 0], "the first row again");
    for frame in 2..7 {
        stream.counts(2.05 + frame as f32 * 0.01);
    }
    assert_eq!(stream.counts(2.2), [1, 1], "the refresh");
}

#[test]
fn what_was_forgotten_is_computed_anew_and_the_account_goes_on() {
    let mut stream = Stream::new(plan(WIDE));
    (0..3).for_each(|frame| {
        stream.counts(1.0 + frame as f32 * 0.01);
    });
    let before = stream.cx.report().steps_done;
    stream.cx.forget();
    assert_eq!(stream.counts(1.03), [1, 1]);
    assert_eq!(stream.counts(1.04), [1, 0]);
    assert_eq!(stream.cx.report().steps_done, before + 4);
}

#[test]
fn forecasts_reach_over_the_end_of_a_period() {
    let forecast = Planned::Forecast(Coefficients::new(&[2.0, -1.0]).unwrap());
    let rows = columns([[forecast, C, forecast, C], [C, C, C, C]]);
    let mut stream = Stream::new(Plan::new(header(WIDE), 4, &rows).unwrap());
    let close = |(_, found): ([usize; 2], f32), wanted: f32| assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
    close(stream.frame(1.0), 1.0);
    // One value is known: too few for a line.
    close(stream.frame(1.01), 1.01);
    close(stream.frame(1.02), 1.02);
    close(stream.frame(1.5), 2.0 * 1.02 - 1.01);
    close(stream.frame(1.04), 1.04);
    close(stream.frame(1.5), 2.0 * 1.04 - 1.02);
}

#[test]
fn a_period_must_compute_what_it_reads_and_fits_its_run_alone() {
    let never = columns([[R; 4], [C; 4]]);
    let refused = Plan::new(header(WIDE), 4, &never).unwrap_err().to_string();
    assert!(refused.contains("reads 1 values"), "{refused}");
    let plan = plan(WIDE);
    assert_eq!(Plan::from_bytes(&plan.to_bytes().unwrap()).unwrap(), plan);
    let other = RunHeader { steps: 3, ..plan.header().run.clone() };
    assert!(Context::new(follow(plan), Guard::default(), other).is_err());
}
