//! A model as a table of its cacheable sites, with what each costs.

use std::io::Write as _;

use refrain_models::SiteInfo;
use refrain_pipeline::{LoadOptions, Pipeline};
use serde_json::json;

use crate::arguments::InspectOptions;
use crate::builtin::NamedModel;
use crate::errors::usage;

/// Prints the model.
///
/// # Errors
/// A folder that is no model, a size that it cannot make.
pub(crate) fn show(options: &InspectOptions) -> anyhow::Result<()> {
    let model = NamedModel::find(Some(&options.subject))?;
    let pipeline = Pipeline::load(&model.source, LoadOptions::default())?;
    let (height, width) = pipeline.default_size();
    let (height, width) = (options.height.unwrap_or(height), options.width.unwrap_or(width));
    let tokens = pipeline.text_encoder().map_or(0, |text| text.limit());
    let shape = pipeline.latent_shape(height, width, tokens).map_err(|error| usage(error.to_string()))?;
    let denoiser = pipeline.denoiser();
    let sites = denoiser.sites(&shape);
    let whole = denoiser.flops(&shape);
    let facts = denoiser.facts();
    let summary = Summary {
        name: &model.name,
        class: pipeline.class_name(),
        family: facts.family,
        hash: pipeline.fingerprint()?,
        blocks: facts.blocks,
        parameters: facts.parameters,
        size: (width, height),
        latents: (facts.latent_channels, shape.height, shape.width),
        tokens,
        flops: whole,
        sampler: pipeline
            .default_sampler()
            .map_or_else(|_| "none of its own".to_owned(), |sampler| sampler.to_string()),
    };
    let text = if options.json { as_json(&summary, &sites)? } else { for_people(&summary, &sites) };
    writeln!(std::io::stdout().lock(), "{text}")?;
    Ok(())
}

/// What is said of the whole model.
struct Summary<'a> {
    name: &'a str,
    class: &'a str,
    family: &'a str,
    hash: &'a str,
    blocks: usize,
    parameters: usize,
    size: (usize, usize),
    latents: (usize, usize, usize),
    tokens: usize,
    flops: u64,
    sampler: String,
}

fn as_json(summary: &Summary<'_>, sites: &[SiteInfo]) -> anyhow::Result<String> {
    let rows: Vec<_> = sites
        .iter()
        .map(|info| {
            json!({
                "site": info.site,
                "block": info.site.block,
                "part": info.site.part.group(),
                "parameters": info.parameters,
                "flops": info.flops,
                "feature_values": info.output_values,
            })
        })
        .collect();
    let (channels, height, width) = summary.latents;
    Ok(serde_json::to_string_pretty(&json!({
        "model": summary.name,
        "class": summary.class,
        "family": summary.family,
        "model_hash": summary.hash,
        "blocks": summary.blocks,
        "parameters": summary.parameters,
        "width": summary.size.0,
        "height": summary.size.1,
        "latents": [channels, height, width],
        "text_tokens": summary.tokens,
        "flops": summary.flops,
        "sampler": summary.sampler,
        "sites": rows,
    }))?)
}

fn for_people(summary: &Summary<'_>, sites: &[SiteInfo]) -> String {
    let (channels, height, width) = summary.latents;
    let mut lines = vec![
        format!("{} ({}, hash {})", summary.name, summary.class, summary.hash.chars().take(10).collect::<String>()),
        format!(
            "  denoiser     {}, {} blocks, {} parameters",
            summary.family,
            summary.blocks,
            short(summary.parameters as f64)
        ),
        format!(
            "  picture      {}x{}, latents {channels}x{height}x{width}, {} text tokens",
            summary.size.0, summary.size.1, summary.tokens
        ),
        format!(
            "  evaluation   {}FLOP a row (guidance evaluates two), sampler {}",
            short(summary.flops as f64),
            summary.sampler
        ),
        String::new(),
        format!("  {:<22} {:>12} {:>12} {:>7} {:>12}", "site", "parameters", "FLOP", "share", "feature KiB"),
    ];
    let whole = summary.flops.max(1) as f64;
    for info in sites {
        lines.push(format!(
            "  {:<22} {:>12} {:>12} {:>6.2}% {:>12.1}",
            info.site.to_string(),
            short(info.parameters as f64),
            short(info.flops as f64),
            info.flops as f64 / whole * 100.0,
            info.output_values as f64 * 4.0 / 1024.0
        ));
    }
    let cacheable: u64 = sites.iter().map(|info| info.flops).sum();
    lines.push(format!(
        "  cacheable: {:.1} % of the operations in {} sites",
        cacheable as f64 / whole * 100.0,
        sites.len()
    ));
    lines.join("\n")
}

/// `13.4 M`
fn short(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    match UNITS.iter().find(|(size, _)| value >= *size) {
        Some((size, unit)) => format!("{:.2}{unit}", value / size),
        None => format!("{value:.0}"),
    }
}
