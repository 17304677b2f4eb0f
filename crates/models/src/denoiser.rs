//! What a pipeline, a trainer or an inspector may ask of any denoiser.

use candle_core::{Result, Tensor};
use refrain_cache::{Context, Part, Site};

use crate::TextStates;

/// What a picture is conditioned on, prepared once and used at every step.
#[derive(Debug, Clone)]
pub enum Conditions {
    /// A text, one row per picture.
    Text(TextStates),
    /// Class labels, one per row.
    Classes(Vec<u32>),
}

/// Size of a denoiser's work: one row of latents and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentShape {
    /// Height of the latents.
    pub height: usize,
    /// Width of the latents.
    pub width: usize,
    /// Tokens of the text; 0 for models without.
    pub text_tokens: usize,
}

/// A cacheable part of a model and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteInfo {
    /// The site, without a branch.
    pub site: Site,
    /// Its parameters.
    pub parameters: usize,
    /// Floating-point operations of one evaluation for one row (a multiply-add counts two).
    pub flops: u64,
    /// Values of its output for one row: what a feature store has to hold.
    pub output_values: usize,
}

impl SiteInfo {
    /// A site whose parameters and operations are counted elsewhere.
    pub fn enclosing(site: Site, output_values: usize) -> Self {
        Self { site, parameters: 0, flops: 0, output_values }
    }
}

/// Which third of a network a site lies in: the way down, the middle and the way up of a U-Net; the first, second and last
/// third of the blocks of a transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Depth {
    /// Down stages, first blocks.
    Early,
    /// Middle.
    Middle,
    /// Up stages, last blocks.
    Late,
}

/// Dimensions of a denoiser that its users ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Name of the family, such as `PixArt`.
    pub family: &'static str,
    /// Channels of the latents that it takes and gives.
    pub latent_channels: usize,
    /// Latent sides must be multiples of this.
    pub patch_size: usize,
    /// Latent side it was trained for: the default size of a picture.
    pub sample_size: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// All its parameters.
    pub parameters: usize,
}

/// A network that predicts noise, velocity or a clean picture from noisy latents.
pub trait Denoiser: Send + Sync {
    /// What does not change from one evaluation to the next.
    fn facts(&self) -> Facts;

    /// Where in the network a site lies.
    fn depth(&self, site: Site) -> Depth {
        if site.part == Part::Model {
            return Depth::Late;
        }
        match 3 * usize::from(site.block) / self.facts().blocks.max(1) {
            0 => Depth::Early,
            1 => Depth::Middle,
            _ => Depth::Late,
        }
    }

    /// The sites of one evaluation, in order of execution.
    fn sites(&self, shape: &LatentShape) -> Vec<SiteInfo>;

    /// Sites that enclose others, which `sites` does not list: their parameters and operations are those of what they
    /// enclose, and not counted again.
    fn enclosing_sites(&self, shape: &LatentShape) -> Vec<SiteInfo> {
        vec![SiteInfo::enclosing(Site::model(), self.facts().latent_channels * shape.height * shape.width)]
    }

    /// Operations of one evaluation for one row; more than the sum over the sites by what is not cacheable.
    fn flops(&self, shape: &LatentShape) -> u64;

    /// One evaluation: `latents` `[b, c, h, w]`, already scaled as the sampler wants, and `timesteps`, one per row or one
    /// for all, to the prediction `[b, c, h, w]`. Parts ask `cx` before they compute.
    ///
    /// # Errors
    /// If the latents do not divide into patches, or the conditions are of another kind or number of rows.
    fn denoise(&self, cx: &mut Context, latents: &Tensor, timesteps: &[f32], conditions: &Conditions)
    -> Result<Tensor>;
}
