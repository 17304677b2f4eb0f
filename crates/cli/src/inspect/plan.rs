//! A plan as a heat map of steps × sites.

use std::io::{IsTerminal as _, Write as _};

use refrain_cache::{Plan, Planned};
use refrain_media::plot::{Cell, HeatMap, HeatRow, Plot as _, TextStyle};
use refrain_media::terminal::{Colours, Protocol, detect};

use crate::arguments::InspectOptions;
use crate::errors::{usage, usage_because};
use crate::output;

/// Columns of output that is no terminal.
const PLAIN_COLUMNS: usize = 100;

/// Prints the plan, and draws it into `--output`.
///
/// # Errors
/// A file that is no plan, a drawing that cannot be written.
pub(crate) fn show(options: &InspectOptions) -> anyhow::Result<()> {
    let plan = Plan::load(&options.subject)?;
    let map = heat_map(&plan);
    if let Some(path) = &options.output {
        let known = path
            .extension()
            .is_some_and(|ending| ending.eq_ignore_ascii_case("svg") || ending.eq_ignore_ascii_case("png"));
        if !known {
            return Err(usage(format!("--output {}: name a .png or .svg file", path.display())));
        }
        output::prepare_file(path)?;
        map.save(path).map_err(usage_because_of_disk)?;
    }
    let mut stdout = std::io::stdout().lock();
    if options.json {
        let mut json = plan.to_json();
        json["counts"] = crate::plan::counts(&plan);
        writeln!(stdout, "{}", serde_json::to_string_pretty(&json)?)?;
        return Ok(());
    }
    let run = &plan.header().run;
    let model: String = run.model.chars().take(10).collect();
    writeln!(
        stdout,
        "plan {}\n  made by      {}\n  for          model {model}, {}, {} evaluations, guidance {}, {}\n  computes     {:.1} % of {} sites",
        plan.hash().chars().take(10).collect::<String>(),
        plan.header().provenance,
        run.sampler,
        run.steps,
        run.guidance_scale,
        run.dtype,
        plan.computed_share() * 100.0,
        plan.sites().len(),
    )?;
    if let Some(harm) = plan.header().validation {
        writeln!(
            stdout,
            "  harm         median {:.1} dB, 5 % below {:.1} dB, worst {:.1} dB, of {} held-out pictures",
            harm.median, harm.fifth_percentile, harm.worst, harm.pictures
        )?;
    }
    writeln!(stdout, "{}", map.to_text(style()).trim_end())?;
    Ok(())
}

fn usage_because_of_disk(error: refrain_media::MediaError) -> anyhow::Error {
    if matches!(error, refrain_media::MediaError::Write { .. }) {
        crate::errors::resources(error.to_string())
    } else {
        usage_because(error)
    }
}

fn style() -> TextStyle {
    if !std::io::stdout().is_terminal() {
        return TextStyle { colours: Colours::None, columns: PLAIN_COLUMNS };
    }
    let colours = match detect(|name| std::env::var(name).ok()) {
        Protocol::Blocks(colours) => colours,
        Protocol::None => Colours::None,
        _ => Colours::True,
    };
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(PLAIN_COLUMNS);
    TextStyle { colours, columns }
}

/// Rows are sites, block by block; columns are steps. A site that a step does not visit counts as covered.
fn heat_map(plan: &Plan) -> HeatMap {
    let cell = |action: Planned| match action {
        Planned::Compute => Cell::Compute,
        Planned::Reuse => Cell::Reuse,
        Planned::Forecast(_) => Cell::Forecast,
        Planned::Covered | Planned::Absent => Cell::Covered,
    };
    // What encloses other sites and always computes says nothing.
    let telling = |column: usize| (0..plan.steps()).any(|step| plan.at(step, column).is_skip());
    let sites = plan.sites().iter().enumerate().filter(|(column, site)| !site.part.encloses() || telling(*column));
    let rows = sites.map(|(column, site)| HeatRow {
        label: site.to_string(),
        group: usize::from(site.block),
        cells: (0..plan.steps()).map(|step| cell(plan.at(step, column))).collect(),
    });
    let mut rows: Vec<HeatRow> = rows.collect();
    // Sites sort by branch first; a picture reads better block by block.
    rows.sort_by_key(|row| row.group);
    HeatMap { title: plan.header().provenance.clone(), rows }
}
