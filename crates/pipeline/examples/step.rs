//! One guided evaluation of a pipeline folder's denoiser, for `benches/peers/steps.py`.
//!
//! Reads commands, a line each: `run N` answers with N times in seconds, `faults` with the page faults of one evaluation,
//! `memory` with the largest resident size in bytes so far, `peak` with the largest resident size in bytes while one
//! evaluation runs, without the mapped checkpoint's pages, and `profile N` with the share of each kind of operation in the
//! time of N evaluations (JSON).

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use refrain_cache::{Context, Step};
use refrain_models::Conditions;
use refrain_pipeline::{ImageRequest, LoadOptions, ModelSource, Pipeline};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

/// What is evaluated again and again.
struct Evaluation {
    pipeline: Pipeline,
    conditions: Conditions,
    latents: Tensor,
}

impl Evaluation {
    fn load(folder: &str, precision: &str) -> Result<Self, Failure> {
        let options = LoadOptions { precision: precision.parse()? };
        let pipeline = Pipeline::load(&ModelSource::Folder(folder.into()), options)?;
        let request = ImageRequest { prompt: "a fox".into(), class_label: Some(207), ..ImageRequest::default() };
        let conditions = pipeline.conditions(&request)?;
        let denoiser = pipeline.denoiser();
        let side = denoiser.facts().sample_size;
        let latents = Tensor::zeros((1, denoiser.facts().latent_channels, side, side), DType::F32, &Device::Cpu)?;
        Ok(Self { pipeline, conditions, latents: (latents + 0.5)? })
    }

    fn once(&self) -> Result<f64, Failure> {
        let mut cache = Context::off();
        cache.begin_step(Step { index: 0, count: 20, timestep: 500.0, sigma: 1.0 });
        let start = Instant::now();
        self.pipeline.predict(&mut cache, &self.latents, 500.0, (&self.conditions, 4.0))?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// A number of `/proc/self`, 0 where the system has none.
fn system(file: &str, find: impl Fn(&str) -> Option<u64>) -> u64 {
    std::fs::read_to_string(format!("/proc/self/{file}")).ok().and_then(|text| find(&text)).unwrap_or(0)
}

fn faults() -> u64 {
    // The tenth field, the eighth behind the name in parentheses.
    system("stat", |text| text.rsplit(')').next()?.split_whitespace().nth(7)?.parse().ok())
}

/// Bytes of a line of `/proc/self/status`.
fn status(name: &str) -> u64 {
    let kibibytes =
        |text: &str| text.lines().find(|line| line.starts_with(name))?.split_whitespace().nth(1)?.parse().ok();
    system("status", kibibytes) * 1024
}

/// The largest resident size during one evaluation, less the pages of mapped files.
fn peak(evaluation: &Evaluation) -> Result<u64, Failure> {
    // Sets the largest resident size back to the present one (Linux, proc(5)).
    std::fs::write("/proc/self/clear_refs", "5")?;
    evaluation.once()?;
    Ok(status("VmHWM:").saturating_sub(status("RssFile:")))
}

/// Shares of the kinds of operations in the time of some evaluations.
fn profiled(evaluation: &Evaluation, count: usize) -> Result<String, Failure> {
    evaluation.once()?;
    refrain_ops::profile::start();
    let total = (0..count).map(|_| evaluation.once()).sum::<Result<f64, Failure>>()?;
    let shares = refrain_ops::profile::stop();
    let known: f64 = shares.iter().map(|share| share.time.as_secs_f64()).sum();
    let rows: Vec<String> = shares
        .iter()
        .map(|share| (share.kind.name(), share.calls, share.time.as_secs_f64()))
        .chain([("other", 0, total - known)])
        .map(|(name, calls, seconds)| {
            let calls = calls / count as u64;
            format!("{{\"kind\":\"{name}\",\"calls\":{calls},\"share\":{:.4}}}", seconds / total)
        })
        .collect();
    Ok(format!("{{\"seconds\":{:.4},\"shares\":[{}]}}", total / count as f64, rows.join(",")))
}

fn answer(evaluation: &Evaluation, line: &str) -> Result<String, Failure> {
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["run", count] => {
            let seconds: Vec<String> =
                (0..count.parse()?).map(|_| Ok(evaluation.once()?.to_string())).collect::<Result<_, Failure>>()?;
            Ok(seconds.join(" "))
        }
        ["faults"] => {
            let before = faults();
            evaluation.once()?;
            Ok((faults() - before).to_string())
        }
        ["memory"] => Ok(status("VmHWM:").to_string()),
        ["peak"] => Ok(peak(evaluation)?.to_string()),
        ["profile", count] => profiled(evaluation, count.parse()?),
        _ => Err(format!("no such command: {line}").into()),
    }
}

fn main() -> Result<(), Failure> {
    refrain_ops::memory::keep_pages();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, precision] = arguments.as_slice() else {
        return Err("usage: step FOLDER f32|bf16|int8".into());
    };
    // A product that begins on a thread of the pool need not wake it.
    let failure = std::sync::Mutex::new(None);
    rayon::scope(|_| {
        let work = || -> Result<(), Failure> {
            let evaluation = Evaluation::load(folder, precision)?;
            for line in std::io::stdin().lock().lines() {
                println!("{}", answer(&evaluation, &line?)?);
                std::io::stdout().flush()?;
            }
            Ok(())
        };
        if let (Err(error), Ok(mut failure)) = (work(), failure.lock()) {
            failure.replace(error.to_string());
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(failure)) => Err(failure.into()),
        Err(_) => Err("a thread panicked".into()),
    }
}
