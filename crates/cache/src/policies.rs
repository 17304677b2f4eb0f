//! The caching algorithms, one file each, and the registry that reads their spelling.
//!
//! A policy is spelled `name` or `name:key=value+key=value`; a value without a key belongs to the
//! option that the policy puts first: `interval:3`, `mask:1,1,0,1`, `plan:fox.plan.safetensors`.
//! Written back, a policy names only what differs from its defaults.

mod dbcache;
mod deepcache;
mod easycache;
mod interval;
mod mask;
mod motion;
mod off;
mod options;
mod plan;
mod taylor;

use std::fmt;
use std::sync::Arc;

pub use dbcache::DbCache;
pub use deepcache::DeepCache;
pub use easycache::EasyCache;
pub use interval::Interval;
pub use mask::{Mask, MaskPreset, StepMask};
pub use motion::{Motion, MotionLimits};
pub use off::Off;
pub use options::OptionDoc;
pub use plan::{Replay, follow, plan_file};
pub use taylor::{Basis, Taylor, taylor_coefficients};

use crate::{CacheError, Policy};
use options::Options;

/// Makes fresh policies, one per run.
type Factory = Arc<dyn Fn() -> Box<dyn Policy> + Send + Sync>;

/// What the registry knows of a policy.
pub struct Descriptor {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for `--help`, with the paper.
    pub summary: &'static str,
    /// Its options; a value without a key belongs to the first.
    pub options: &'static [OptionDoc],
    parse: fn(Options) -> Result<Factory, CacheError>,
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Descriptor").field("name", &self.name).finish_non_exhaustive()
    }
}

const DESCRIPTORS: &[Descriptor] = &[
    off::DESCRIPTOR,
    interval::DESCRIPTOR,
    mask::DESCRIPTOR,
    dbcache::DESCRIPTOR,
    deepcache::DESCRIPTOR,
    taylor::DESCRIPTOR,
    easycache::DESCRIPTOR,
    motion::DESCRIPTOR,
    plan::DESCRIPTOR,
];

/// A policy with its options, checked; makes as many fresh policies as there are pictures.
/// `Display` gives the canonical spelling.
#[derive(Clone)]
pub struct PolicySpec {
    name: &'static str,
    canonical: String,
    factory: Factory,
}

impl PolicySpec {
    /// The policy's name, without options.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A fresh policy.
    pub fn policy(&self) -> Box<dyn Policy> {
        (self.factory)()
    }

    /// Whether the policy never skips anything.
    pub fn is_off(&self) -> bool {
        self.name == off::DESCRIPTOR.name
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.canonical)
    }
}

impl fmt::Debug for PolicySpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PolicySpec({})", self.canonical)
    }
}

/// All policies, for `--help` and completions.
pub fn descriptors() -> &'static [Descriptor] {
    DESCRIPTORS
}

/// Reads `name` or `name:options`. Text that ends in `.safetensors` is a plan file.
///
/// # Errors
/// One line that names what there is, for an unknown name or option and a bad value; for a plan,
/// also those of [`crate::Plan::load`].
pub fn parse(text: &str) -> Result<PolicySpec, CacheError> {
    let text = text.trim();
    match text.split_once(':') {
        Some((name, options)) if find(name).is_some() => parse_with_options(name, options),
        _ if text.ends_with(".safetensors") => parse_with_options(plan::DESCRIPTOR.name, text),
        Some((name, options)) => parse_with_options(name, options),
        None => parse_with_options(text, ""),
    }
}

/// Reads a policy whose options are given apart, as `--cache NAME --cache-option k=v,k=v` does.
/// Options may be joined by `,` or `+`.
///
/// # Errors
/// As [`parse`].
pub fn parse_with_options(name: &str, options: &str) -> Result<PolicySpec, CacheError> {
    let name = name.trim();
    if let Some((name, first)) = name.split_once(':') {
        // Options in both places: those given apart come later and so count.
        return parse_with_options(name, &format!("{first}+{options}"));
    }
    if name.ends_with(".safetensors") {
        return parse_with_options(plan::DESCRIPTOR.name, name);
    }
    let descriptor = find(name).ok_or_else(|| CacheError::UnknownPolicy {
        name: name.chars().filter(|c| !c.is_control()).take(40).collect(),
        known: DESCRIPTORS.iter().map(|descriptor| descriptor.name).collect::<Vec<_>>().join(", "),
    })?;
    let options = Options::read(descriptor.name, descriptor.options, options)?;
    let factory = (descriptor.parse)(options)?;
    let canonical = factory().name();
    Ok(PolicySpec { name: descriptor.name, canonical, factory })
}

/// The text of `--help`: every policy with its options and defaults.
pub fn help() -> String {
    let mut text = String::new();
    for descriptor in DESCRIPTORS {
        text.push_str(&format!("{}: {}\n", descriptor.name, descriptor.summary));
        let width = descriptor.options.iter().map(|option| option.key.len()).max().unwrap_or(0);
        for option in descriptor.options {
            let OptionDoc { key, default, help } = option;
            text.push_str(&format!("    {key:<width$}  {help} [{default}]\n"));
        }
    }
    text
}

fn find(name: &str) -> Option<&'static Descriptor> {
    DESCRIPTORS.iter().find(|descriptor| descriptor.name == name)
}

/// A canonical spelling: the name, and `key=value` of the options given here.
fn spelling(name: &str, options: &[(&str, Option<String>)]) -> String {
    let given: Vec<String> =
        options.iter().filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={value}"))).collect();
    if given.is_empty() { name.to_string() } else { format!("{name}:{}", given.join("+")) }
}

/// The value as text, unless it is the default.
fn unless<T: PartialEq + ToString>(value: T, default: T) -> Option<String> {
    (value != default).then(|| value.to_string())
}
