//! `refrain inspect MODEL|PLAN`: what a model's sites cost, or what a plan does at every step.

mod model;
mod plan;

use std::path::Path;

use crate::arguments::InspectOptions;
use crate::builtin;
use crate::errors::usage;

/// Tells a model from a plan and shows it.
///
/// # Errors
/// A path that is neither (exit 2), or a damaged file.
pub(crate) fn run(options: &InspectOptions) -> anyhow::Result<()> {
    let subject = options.subject.as_path();
    let is_model = [builtin::NAME, builtin::UNET].map(Path::new).contains(&subject) || subject.is_dir();
    if !is_model && !subject.exists() {
        let shown = subject.display();
        return Err(usage(format!(
            "{shown}: no such model folder or plan file; `refrain inspect builtin` shows the built-in model"
        )));
    }
    if !is_model {
        return plan::show(options);
    }
    if options.output.is_some() {
        return Err(usage("--output draws the heat map of a plan; a model has none"));
    }
    model::show(options)
}
