//! The table of a bench: medians per policy, and its three spellings.

use serde::Serialize;

/// One contender, over all prompts, seeds and rounds.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Row {
    /// As spelled in `--policies`.
    pub(crate) policy: String,
    /// Median wall seconds of the denoising loop.
    pub(crate) seconds_per_image: f64,
    /// Seconds of `off` over these seconds.
    pub(crate) speedup: f64,
    /// Share of the uncached run's sites that were computed.
    pub(crate) computed_share: f64,
    /// Share of the uncached run's operations that were computed.
    pub(crate) flops_share: f64,
    /// Median peak signal-to-noise ratio to the uncached picture of the same seed, dB; at most 100.
    pub(crate) psnr: f64,
    /// Median structural similarity to it.
    pub(crate) ssim: f64,
    /// Median relative L2 distance of the final latents to it.
    pub(crate) rel_l2: f64,
    /// Largest number of bytes of features held at once.
    pub(crate) feature_bytes: u64,
    /// Fastest image.
    pub(crate) seconds_min: f64,
    /// Slowest image.
    pub(crate) seconds_max: f64,
    /// Lowest PSNR of any picture.
    pub(crate) psnr_min: f64,
    /// PSNR that 95 % of the pictures reach.
    pub(crate) psnr_p5: f64,
    /// Decibels above the best other kind of contender at this speed.
    pub(crate) margin: Option<f64>,
    /// Images measured.
    pub(crate) images: usize,
}

/// Where and on what the figures were measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Setting {
    /// Version of the program.
    pub(crate) version: String,
    /// Processor name.
    pub(crate) processor: String,
    /// Cores that the process may use.
    pub(crate) cores: usize,
    /// Threads that computed.
    pub(crate) threads: usize,
    /// Arithmetic of the weights.
    pub(crate) dtype: String,
    /// Model name and hash.
    pub(crate) model: String,
    /// First characters of the model's hash.
    pub(crate) model_hash: String,
    /// Sampler of the uncached run.
    pub(crate) sampler: String,
    /// Steps of the uncached run.
    pub(crate) steps: usize,
    /// Classifier-free guidance.
    pub(crate) guidance_scale: f64,
    /// Picture size.
    pub(crate) size: String,
    /// Prompts.
    pub(crate) prompts: usize,
    /// Seeds per prompt.
    pub(crate) seeds: usize,
    /// Rounds over everything.
    pub(crate) rounds: usize,
}

/// Setting and rows: what `table.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Table {
    /// Where and on what.
    pub(crate) setting: Setting,
    /// One per contender, `off` first.
    pub(crate) rows: Vec<Row>,
}

impl Setting {
    /// One line for people.
    pub(crate) fn line(&self) -> String {
        format!(
            "{} ({}), {}, {} {} steps, guidance {}, {}; {} on {} of {} cores; {} prompts x {} seeds x {} rounds; refrain {}",
            self.model,
            self.model_hash,
            self.size,
            self.sampler,
            self.steps,
            self.guidance_scale,
            self.dtype,
            self.processor,
            self.threads,
            self.cores,
            self.prompts,
            self.seeds,
            self.rounds,
            self.version
        )
    }
}

impl Table {
    /// A Markdown table with its setting.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "| policy | s/image (min–max) | speed-up | computed | FLOPs | PSNR dB (5 %, min) | margin dB | SSIM | rel. L2 | features |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            text.push_str(&format!(
                "| {} | {:.3} ({:.3}–{:.3}) | {:.2}× | {:.0} % | {:.0} % | {:.1} ({:.1}, {:.1}) | {} | {:.3} | {:.4} | {} |\n",
                row.policy,
                row.seconds_per_image,
                row.seconds_min,
                row.seconds_max,
                row.speedup,
                row.computed_share * 100.0,
                row.flops_share * 100.0,
                row.psnr,
                row.psnr_p5,
                row.psnr_min,
                row.margin.map_or("–".to_owned(), |margin| format!("{margin:+.1}")),
                row.ssim,
                row.rel_l2,
                indicatif::HumanBytes(row.feature_bytes)
            ));
        }
        format!(
            "{text}\n{}. PSNR 100 means identical to `off`. Margin: above the best other \
             kind of contender at the same speed.\n",
            self.setting.line()
        )
    }

    /// Comma-separated values with a header line.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::from(
            "policy,seconds_per_image,speedup,computed_share,flops_share,psnr,ssim,rel_l2,feature_bytes,seconds_min,\
             seconds_max,psnr_min,images,psnr_p5,margin\n",
        );
        for row in &self.rows {
            text.push_str(&format!(
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
                row.policy,
                row.seconds_per_image,
                row.speedup,
                row.computed_share,
                row.flops_share,
                row.psnr,
                row.ssim,
                row.rel_l2,
                row.feature_bytes,
                row.seconds_min,
                row.seconds_max,
                row.psnr_min,
                row.images,
                row.psnr_p5,
                row.margin.map(|margin| margin.to_string()).unwrap_or_default()
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_hold_every_row() {
        let row = Row {
            policy: "taylor:n=2".into(),
            seconds_per_image: 0.3,
            speedup: 1.5,
            computed_share: 0.5,
            flops_share: 0.55,
            psnr: 31.0,
            ssim: 0.97,
            rel_l2: 0.02,
            feature_bytes: 1 << 20,
            seconds_min: 0.29,
            seconds_max: 0.33,
            psnr_min: 28.0,
            psnr_p5: 28.5,
            margin: Some(1.0),
            images: 4,
        };
        let table = Table { setting: Setting::default(), rows: vec![row.clone(), row] };
        assert_eq!(table.csv().lines().count(), 3);
        assert_eq!(table.csv().lines().next().map(|line| line.split(',').count()), Some(15));
        assert!(
            table.markdown().contains("| taylor:n=2 | 0.300 (0.290\u{2013}0.330) | 1.50\u{d7} |"),
            "{}",
            table.markdown()
        );
    }
}
