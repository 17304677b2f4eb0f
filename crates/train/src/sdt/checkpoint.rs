//! A training as a file: everything that its continuation depends on, to the last bit.
//!
//! A safetensors file. Metadata key `refrain.router-training`: JSON with the run, the settings and the sites. Tensors:
//! `costs`, and for each state (`trunk`, `branch.0`, …) `NAME.logits`, `NAME.forecasts`, the optimiser's moments,
//! `NAME.lambda`, `NAME.counters` and `NAME.curve`. All numbers that are f64 in memory are F64 here: text would round.

use std::collections::HashMap;

use refrain_cache::{RunHeader, Site};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{
    settings::Settings,
    state::{Moments, Progress, State, Training},
};
use crate::{
    forecast,
    optimiser::AdamW,
    router::Router,
    subject::{SiteCost, Subject},
};

const METADATA_KEY: &str = "refrain.router-training";
const VERSION: u32 = 1;
/// Numbers of a curve's point.
const POINT: usize = 8;
/// Most budgets of a training.
const MOST_BRANCHES: usize = 64;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    run: RunHeader,
    settings: Settings,
    sites: Vec<Site>,
    branches: usize,
}

impl Training {
    /// The bytes of a checkpoint.
    ///
    /// # Errors
    /// Never for a training of this program.
    pub fn to_bytes(&self, settings: &Settings) -> Result<Vec<u8>, String> {
        let header = Header {
            version: VERSION,
            run: self.trunk.router.run.clone(),
            settings: settings.clone(),
            sites: self.costs.iter().map(|cost| cost.site).collect(),
            branches: self.branches.len(),
        };
        let json = serde_json::to_string(&header).map_err(|error| error.to_string())?;
        let mut file = Tensors::default();
        file.doubles("costs", &self.costs.iter().map(|cost| cost.share).collect::<Vec<_>>());
        write_state(&mut file, "trunk", &self.trunk);
        for (index, state) in self.branches.iter().enumerate() {
            write_state(&mut file, &format!("branch.{index}"), state);
        }
        let views = file.0.iter().map(|(name, dtype, bytes)| {
            let size = if *dtype == Dtype::F64 { 8 } else { 4 };
            TensorView::new(*dtype, vec![bytes.len() / size], bytes).map(|view| (name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
    }

    /// Reads a checkpoint, and checks that it continues this training: the same run, sites and settings. The number of
    /// iterations may have grown, and the costs are those that it began with.
    ///
    /// # Errors
    /// What is wrong with the file, or how the two trainings differ.
    pub fn from_bytes(bytes: &[u8], subject: &Subject<'_>, settings: &Settings) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let (_, raw) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let json = raw.metadata().as_ref().and_then(|map| map.get(METADATA_KEY));
        let json =
            json.ok_or_else(|| format!("it has no metadata {METADATA_KEY:?}: it is no training's checkpoint"))?;
        let header: Header = serde_json::from_str(json).map_err(|error| error.to_string())?;
        check_same(&header, subject, settings)?;
        if header.branches > MOST_BRANCHES {
            return Err(format!("{} branches, at most {MOST_BRANCHES} are read", header.branches));
        }
        let costs = doubles(&file, "costs", Some(header.sites.len()))?;
        let costs = header.sites.iter().zip(costs).map(|(&site, share)| SiteCost { site, share }).collect();
        let read = |name: &str| read_state(&file, name, &header);
        let branches = (0..header.branches).map(|index| read(&format!("branch.{index}"))).collect::<Result<_, _>>()?;
        Ok(Self { costs, trunk: read("trunk")?, branches })
    }
}

fn check_same(header: &Header, subject: &Subject<'_>, settings: &Settings) -> Result<(), String> {
    if header.version != VERSION {
        return Err(format!("format version {}, but this build reads {VERSION}", header.version));
    }
    let differences = header.run.differences(&subject.run);
    if !differences.is_empty() {
        return Err(format!("it continues another training: {}", differences.join(", ").replace("plan", "checkpoint")));
    }
    if header.sites.len() != subject.sites.len()
        || header.sites.iter().zip(&subject.sites).any(|(site, cost)| *site != cost.site)
    {
        return Err("it continues another training: the model's sites differ".to_owned());
    }
    let asked = Settings { iterations: header.settings.iterations, ..settings.clone() };
    if asked == header.settings {
        return Ok(());
    }
    // The settings as JSON name the one that differs.
    let (before, now) = (serde_json::to_value(&header.settings), serde_json::to_value(&asked));
    let (Ok(before), Ok(now)) = (before, now) else { return Err("its settings differ".to_owned()) };
    let differing = now.as_object().into_iter().flatten().find(|(key, value)| before.get(key.as_str()) != Some(value));
    let (key, value) =
        differing.map_or(("settings", "other".to_owned()), |(key, value)| (key.as_str(), value.to_string()));
    let was = before.get(key).map(ToString::to_string).unwrap_or_default();
    Err(format!("it continues another training: its {key} is {was}, not {value}"))
}

/// Named tensors in the making.
#[derive(Default)]
struct Tensors(Vec<(String, Dtype, Vec<u8>)>);

impl Tensors {
    fn doubles(&mut self, name: &str, values: &[f64]) {
        self.0.push((name.to_owned(), Dtype::F64, values.iter().flat_map(|value| value.to_le_bytes()).collect()));
    }

    fn singles(&mut self, name: &str, rows: &[Vec<f32>]) {
        let bytes = rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        self.0.push((name.to_owned(), Dtype::F32, bytes));
    }

    fn moments(&mut self, name: &str, rows: &[&AdamW]) {
        let all =
            |part: fn(&AdamW) -> &[f64]| rows.iter().flat_map(|row| part(row).iter().copied()).collect::<Vec<f64>>();
        self.doubles(&format!("{name}.mean"), &all(|row| row.moments().0));
        self.doubles(&format!("{name}.variance"), &all(|row| row.moments().1));
        let updates: Vec<f64> = rows.iter().map(|row| f64::from(row.updates())).collect();
        self.doubles(&format!("{name}.updates"), &updates);
    }
}

fn write_state(file: &mut Tensors, name: &str, state: &State) {
    file.singles(&format!("{name}.logits"), &state.router.logits);
    file.singles(&format!("{name}.forecasts"), &state.router.forecasts);
    let moments = |part: fn(&Moments) -> &AdamW| state.moments.iter().map(part).collect::<Vec<_>>();
    file.moments(&format!("{name}.moments.logits"), &moments(|moments| &moments.logits));
    file.moments(&format!("{name}.moments.forecasts"), &moments(|moments| &moments.forecasts));
    file.doubles(&format!("{name}.lambda"), &state.lambda);
    let refreshed = state.refreshed.map_or(-1.0, |refreshed| refreshed as f64);
    let counters = [state.lambda_mean, state.beta, state.iteration as f64, state.trajectory as f64, refreshed];
    file.doubles(&format!("{name}.counters"), &counters);
    let curve: Vec<f64> = state.curve.iter().flat_map(point_to_numbers).collect();
    file.doubles(&format!("{name}.curve"), &curve);
}

fn point_to_numbers(point: &Progress) -> [f64; POINT] {
    let &Progress { iteration, loss, error, lambda, beta, score_share, computed_share, reused_entries } = point;
    [iteration as f64, loss, error, lambda, beta, score_share, computed_share, reused_entries]
}

fn point_from_numbers(numbers: &[f64]) -> Option<Progress> {
    let &[iteration, loss, error, lambda, beta, score_share, computed_share, reused_entries] = numbers else {
        return None;
    };
    let iteration = iteration as usize;
    Some(Progress { iteration, loss, error, lambda, beta, score_share, computed_share, reused_entries })
}

fn read_state(file: &SafeTensors<'_>, name: &str, header: &Header) -> Result<State, String> {
    let (steps, sites, order) = (header.run.steps, header.sites.len(), header.settings.order);
    let scalars = sites * forecast::parameters(order.min(forecast::MAX_ORDER));
    let table = |part: &str, width: usize| -> Result<Vec<Vec<f32>>, String> {
        let values = singles(file, &format!("{name}.{part}"), steps.saturating_mul(width))?;
        Ok(rows_of(&values, steps, width))
    };
    let router = Router {
        run: header.run.clone(),
        sites: header.sites.clone(),
        logits: table("logits", sites)?,
        order,
        forecasts: table("forecasts", scalars)?,
    };
    let optimiser =
        |part: &str, width: usize| read_moments(file, &format!("{name}.moments.{part}"), (steps, width), header);
    let moments = optimiser("logits", sites)?.into_iter().zip(optimiser("forecasts", scalars)?);
    let counters = doubles(file, &format!("{name}.counters"), Some(5))?;
    let &[lambda_mean, beta, iteration, trajectory, refreshed] = counters.as_slice() else {
        return Err(format!("{name}: no counters"));
    };
    let curve = doubles(file, &format!("{name}.curve"), None)?;
    let state = State {
        router,
        moments: moments.map(|(logits, forecasts)| Moments { logits, forecasts }).collect(),
        lambda: doubles(file, &format!("{name}.lambda"), Some(steps))?,
        lambda_mean,
        beta,
        iteration: iteration as usize,
        trajectory: trajectory as u64,
        refreshed: (refreshed >= 0.0).then_some(refreshed as usize),
        curve: curve.chunks_exact(POINT).filter_map(point_from_numbers).collect(),
    };
    let trained = state.router.logits.iter().chain(&state.router.forecasts).flatten();
    if trained.into_iter().any(|value| !value.is_finite()) || counters.iter().any(|value| !value.is_finite()) {
        return Err(format!("{name} holds a value that is not finite"));
    }
    Ok(state)
}

fn read_moments(
    file: &SafeTensors<'_>,
    name: &str,
    (steps, width): (usize, usize),
    header: &Header,
) -> Result<Vec<AdamW>, String> {
    let all = |part: &str, count: usize| doubles(file, &format!("{name}.{part}"), Some(count));
    let count = steps.saturating_mul(width);
    let (mean, variance) =
        (rows_of(&all("mean", count)?, steps, width), rows_of(&all("variance", count)?, steps, width));
    let fresh = AdamW::new(width, header.settings.optimiser());
    let rows = mean.into_iter().zip(variance).zip(all("updates", steps)?);
    rows.map(|((mean, variance), updates)| fresh.restore(mean, variance, updates as u32))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{name} does not fit the table"))
}

fn rows_of<T: Clone>(values: &[T], steps: usize, width: usize) -> Vec<Vec<T>> {
    (0..steps).map(|step| values.iter().skip(step * width).take(width).cloned().collect()).collect()
}

fn bytes<'a>(file: &SafeTensors<'a>, name: &str, dtype: Dtype, count: Option<usize>) -> Result<&'a [u8], String> {
    let view = file.tensor(name).map_err(|_| format!("tensor {name:?} is missing"))?;
    let found = view.shape().iter().product::<usize>();
    match count {
        _ if view.dtype() != dtype => Err(format!("tensor {name:?} has dtype {:?}, expected {dtype:?}", view.dtype())),
        Some(count) if found != count => Err(format!("tensor {name:?} has {found} values, expected {count}")),
        _ => Ok(view.data()),
    }
}

fn doubles(file: &SafeTensors<'_>, name: &str, count: Option<usize>) -> Result<Vec<f64>, String> {
    let bytes = bytes(file, name, Dtype::F64, count)?;
    Ok(bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok().map(f64::from_le_bytes)).collect())
}

fn singles(file: &SafeTensors<'_>, name: &str, count: usize) -> Result<Vec<f32>, String> {
    let bytes = bytes(file, name, Dtype::F32, Some(count))?;
    Ok(bytes.chunks_exact(4).filter_map(|chunk| chunk.try_into().ok().map(f32::from_le_bytes)).collect())
}
