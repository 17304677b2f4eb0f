//! The two policies that inversion and denoising run under: one captures, one injects. Both wrap another policy, which
//! decides as always what computes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use refrain_cache::{
    Action, Archive, Ask, Branch, CacheError, Injection, ModelValue, Observation, Part, Policy, RowBlend, RunHeader,
    Site, Step,
};

use crate::blend::{angle, slerp_factors};
use crate::pace::Place;
use crate::schedule::{InjectionTable, Mode};

/// The endpoints' features, shared by the run that captures them and those that read them.
pub(crate) type SharedArchive = Arc<Mutex<Archive>>;

/// Takes features out of an inversion whose rows are the endpoints.
pub(crate) struct Capture {
    pub(crate) archive: SharedArchive,
    /// (inversion step, site without branch) to keep.
    pub(crate) wanted: Arc<HashSet<(usize, Site)>>,
    /// The endpoint of each row.
    pub(crate) endpoints: Vec<usize>,
    /// What to call the step, instead of its index (a single step of a longer inversion).
    pub(crate) step: Option<usize>,
}

impl Policy for Capture {
    fn name(&self) -> String {
        "capture".to_owned()
    }

    fn start(&mut self, _header: &RunHeader) -> Result<(), CacheError> {
        Ok(())
    }

    fn decide(&mut self, _ask: &Ask<'_>) -> Action {
        Action::Compute
    }

    fn observe(&mut self, observation: &Observation<'_>) -> candle_core::Result<()> {
        let step = self.step.unwrap_or(observation.step.index);
        let site = observation.site.with_branch(Branch::GUIDED);
        if !self.wanted.contains(&(step, site)) {
            return Ok(());
        }
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, &endpoint) in self.endpoints.iter().enumerate() {
            // A refined step is evaluated several times: the last evaluation, at the refined latents, stays.
            let feature = observation.output.narrow(0, row, 1)?;
            archive.put(step, site.with_branch(Branch::endpoint(endpoint as u16)), &feature)?;
        }
        Ok(())
    }

    fn history_depth(&self, _site: Site, _step: Step) -> usize {
        0
    }
}

/// Features of a (step, site) of one segment's two endpoints, with the angle between them.
type Pair = ([Tensor; 2], Option<f64>);

/// Blends the endpoints' features into the frames of a batch, whatever the inner policy decides.
pub(crate) struct Inject {
    pub(crate) inner: Box<dyn Policy>,
    pub(crate) archive: SharedArchive,
    pub(crate) table: Arc<InjectionTable>,
    /// All frames of the batch lie in this segment: between its endpoints.
    pub(crate) endpoints: (usize, usize),
    /// One frame per row.
    pub(crate) places: Vec<Place>,
    /// Rows come twice, once without the text.
    pub(crate) guided: bool,
    /// First step whose text differs from that of the step before (the anchor's tokens are gone): nothing that depends on
    /// the text may be reused across it.
    pub(crate) text_changes_at: Option<usize>,
    pub(crate) pairs: HashMap<(usize, Site), Option<Pair>>,
    /// A decision cannot fail; the next observation does.
    pub(crate) failure: Option<candle_core::Error>,
}

impl Inject {
    /// What is blended into a site at a step, if anything.
    fn injection(&mut self, site: Site, step: usize) -> candle_core::Result<Option<Injection>> {
        let table = Arc::clone(&self.table);
        let plain = site.with_branch(Branch::GUIDED);
        let Some(entry) = table.steps.get(step).filter(|entry| entry.sites.contains(&plain)) else { return Ok(None) };
        let key = (entry.read, plain);
        if !self.pairs.contains_key(&key) {
            // Steps are read once and in order: what an earlier step read is not needed any more.
            self.pairs.retain(|(read, _), _| *read == entry.read);
            let pair = self.read(key)?;
            self.pairs.insert(key, pair);
        }
        let Some(Some((endpoints, angle))) = self.pairs.get(&key) else { return Ok(None) };
        let mut rows: Vec<RowBlend> = self
            .places
            .iter()
            .map(|place| blend(table.mode, entry.weight, slerp_factors(*angle, place.alpha)))
            .collect();
        if self.guided {
            rows.extend(rows.clone());
        }
        Ok(Some(Injection { endpoints: endpoints.clone(), rows, renormalise: table.mode == Mode::Renorm }))
    }

    fn read(&self, (step, site): (usize, Site)) -> candle_core::Result<Option<Pair>> {
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut get = |endpoint: usize| archive.get(step, site.with_branch(Branch::endpoint(endpoint as u16)));
        let (Some(first), Some(second)) = (get(self.endpoints.0)?, get(self.endpoints.1)?) else { return Ok(None) };
        let angle = angle(&first, &second)?;
        Ok(Some(([first, second], angle)))
    }
}

fn blend(mode: Mode, weight: f32, (first, second): (f64, f64)) -> RowBlend {
    let keep = if mode == Mode::Convex { 1.0 - weight } else { 1.0 };
    let weight = f64::from(weight);
    RowBlend { keep, first: (weight * first) as f32, second: (weight * second) as f32 }
}

impl Policy for Inject {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn start(&mut self, header: &RunHeader) -> Result<(), CacheError> {
        self.inner.start(header)
    }

    fn decide(&mut self, ask: &Ask<'_>) -> Action {
        let mut base = self.inner.decide(ask);
        let reads_text = ask.site.part == Part::CrossAttention || ask.site.part.encloses();
        if reads_text && self.text_changes_at.is_some_and(|change| ask.step.index == change) {
            base = Action::Compute;
        }
        match self.injection(ask.site, ask.step.index) {
            Ok(Some(injection)) => Action::Inject { base: Box::new(base), injection: Box::new(injection) },
            Ok(None) => base,
            Err(error) => {
                self.failure = Some(error);
                base
            }
        }
    }

    fn observe(&mut self, observation: &Observation<'_>) -> candle_core::Result<()> {
        match self.failure.take() {
            Some(error) => Err(error),
            None => self.inner.observe(observation),
        }
    }

    fn history_depth(&self, site: Site, step: Step) -> usize {
        self.inner.history_depth(site, step)
    }

    fn spans(&self, branch: Branch, blocks: Range<usize>) -> Vec<Range<usize>> {
        self.inner.spans(branch, blocks)
    }

    fn model_value(&self) -> ModelValue {
        self.inner.model_value()
    }

    fn provenance(&self) -> String {
        self.inner.provenance()
    }

    fn bytes(&self) -> usize {
        self.inner.bytes()
    }
}
