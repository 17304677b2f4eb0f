//! Which whole steps compute, and a forecast of the others.

use std::path::PathBuf;

use refrain_train::TrainError;
use refrain_train::steps::{Search, StepSearch};
use refrain_train::subject::Subject;

use super::{TrainRouterOptions, checked, write};
use crate::events::Console;

/// Order of the forecast when none is asked for.
const DEFAULT_ORDER: u8 = 3;

/// Searches the steps of each budget.
///
/// # Errors
/// Those of the search and of the disk.
pub(super) fn train(
    options: &TrainRouterOptions,
    subject: &Subject<'_>,
    outputs: &[PathBuf],
    console: &Console,
) -> anyhow::Result<()> {
    let order = options.forecast.unwrap_or(DEFAULT_ORDER);
    let settings = StepSearch { terms: usize::from(order) + 1, trials: options.pictures, ..StepSearch::default() };
    let total = subject.steps();
    let search = Search::new(subject, &settings, &mut |line| said(console, "", line))?;
    for (budget, path) in options.budget.iter().zip(outputs) {
        let wanted = ((budget * total as f64).floor() as usize).clamp(2, total);
        let found = search.find(wanted, &mut |line| said(console, &format!("budget {budget}: "), line))?;
        let provenance = format!("router steps, forecast {order}, budget {budget}, {} pictures", options.pictures);
        write(&found.plan.to_plan(&subject.run, &provenance)?, path, console)?;
    }
    Ok(())
}

fn said(console: &Console, prefix: &str, line: Option<&str>) -> Result<(), TrainError> {
    if let Some(line) = line {
        console.note(&format!("{prefix}{line}"));
    }
    checked()
}
