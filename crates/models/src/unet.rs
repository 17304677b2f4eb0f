//! The conditional U-Net of Stable Diffusion (arXiv 2112.10752).
//!
//! Its skip connections nest: skip 0 is the first convolution's output, unit `k` of the way down makes skip `k + 1` of skip
//! `k`, and the way up consumes them in reverse. What lies between reading skip `k` on the way down and joining it on the
//! way up is the stage `k`, one cacheable site: leaving it out is DeepCache (arXiv 2312.00858) at branch `k`. Inside are a
//! residual block and the three parts of a transformer block per layer, each a site of its own; a layer's parts carry the
//! layer's number in execution order.

mod config;
mod residual;
mod transformer;
mod units;

use std::ops::Range;

use candle_core::{Result, Tensor};
use refrain_cache::{Context, Part, Site};
use refrain_ops::{Activation, Conv2d, GroupNorm, Precision, TimestepEmbeddingOptions, silu};

pub use config::{LevelConfig, TransformerConfig, UnetConfig};
use residual::{Style, convolution};
use units::{DownUnit, Layer, LayerPlace, Numbers, Told, UpUnit, Work};

use crate::{
    cross_attention::TextStates,
    denoiser::{Conditions, Denoiser, Depth, Facts, LatentShape, SiteInfo},
    error::ModelError,
    transformer::{SinusoidalEmbedder, edge_precision},
    weights::Weights,
};

/// The coarsest part: a layer and, if it attends, another residual block behind the transformer.
#[derive(Debug)]
struct Middle {
    first: Layer,
    second: Option<Layer>,
}

impl Middle {
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.first).chain(&self.second)
    }
}

/// A conditional U-Net, its weights packed.
#[derive(Debug)]
pub struct Unet {
    config: UnetConfig,
    timestep: SinusoidalEmbedder,
    input: Conv2d,
    /// Unit `k` makes skip `k + 1`.
    down: Vec<DownUnit>,
    middle: Middle,
    /// Unit `k` consumes skip `k`.
    up: Vec<UpUnit>,
    output_norm: GroupNorm,
    output: Conv2d,
    /// Number of layers, counted through all transformer blocks.
    layers: usize,
    /// Those in the middle.
    middle_layers: Range<usize>,
    /// As counted in the checkpoint.
    parameters: usize,
}

impl Unet {
    /// Loads the U-Net from the root of its checkpoint.
    ///
    /// # Errors
    /// Names a tensor that is missing or does not fit the configuration.
    pub fn load(weights: &Weights, config: &UnetConfig, precision: Precision) -> std::result::Result<Self, ModelError> {
        let (style, edge) = (Style::new(config, precision), Style::new(config, edge_precision(precision)));
        let first = config.sinusoids();
        let options = TimestepEmbeddingOptions {
            cosines_first: config.cosines_first,
            frequency_shift: config.frequency_shift as f32,
            ..TimestepEmbeddingOptions::default()
        };
        let embedding = (first, config.embedding_width());
        let mut numbers = Numbers::default();
        let down = load_down(&weights.at("down_blocks"), &mut numbers, (config, style))?;
        let middle_start = numbers.block;
        let middle = load_middle(&weights.at("mid_block"), &mut numbers, (config, style))?;
        let middle_layers = middle_start..numbers.block;
        let up = load_up(&weights.at("up_blocks"), &mut numbers, &down, (config, style))?;
        let same = (3, 1, 1);
        Ok(Self {
            timestep: SinusoidalEmbedder::load_sized(&weights.at("time_embedding"), embedding, options)?,
            input: convolution(&weights.at("conv_in"), (config.channels, first), same, edge.precision)?,
            down,
            middle,
            up,
            output_norm: edge.residual_norm(&weights.at("conv_norm_out"), first)?,
            output: convolution(&weights.at("conv_out"), (first, config.channels), same, edge.precision)?,
            layers: numbers.block,
            middle_layers,
            parameters: weights.parameters(),
            config: config.clone(),
        })
    }

    /// Dimensions of this model.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Width of the text states that it takes.
    pub fn text_width(&self) -> usize {
        self.config.text_width
    }

    /// Number of stages: skip connections, each with all that lies below it.
    pub fn stages(&self) -> usize {
        self.up.len()
    }

    /// Computes the keys and values of text states `[b, tokens, text width]`, which are the same at every step.
    ///
    /// # Errors
    /// If the states have another width than [`Unet::text_width`].
    pub fn prepare_text(&self, states: &Tensor) -> Result<TextStates> {
        let (rows, tokens, _) = states.dims3()?;
        let mut blocks = Vec::new();
        for layer in self.layers() {
            layer.prepare_text(states, &mut blocks)?;
        }
        Ok(TextStates { blocks, bias: None, size: None, rows, tokens })
    }

    /// One evaluation: `latents` `[b, c, h, w]` at `timesteps`, one per row or one for all, to the prediction
    /// `[b, c, h, w]`. Sides may be odd, as in the reference.
    ///
    /// # Errors
    /// If the latents are too small, or `text` has another number of rows.
    pub fn forward(&self, cx: &mut Context, latents: &Tensor, timesteps: &[f32], text: &TextStates) -> Result<Tensor> {
        let rows = latents.dim(0)?;
        if rows == 0 || text.rows() != rows || (timesteps.len() != rows && timesteps.len() != 1) {
            candle_core::bail!("{rows} rows of latents with {} of text and {} timesteps", text.rows(), timesteps.len());
        }
        cx.model(latents, |cx| {
            let alike = timesteps.windows(2).all(|pair| pair[0] == pair[1]);
            let embedded = self.timestep.forward(if alike { &timesteps[..1] } else { timesteps })?;
            let told = Told { embedded: &silu(&embedded)?, text: &text.blocks };
            let hidden = self.input.forward(latents)?;
            let hidden = self.join(cx, 0, &hidden, &told)?;
            self.output.forward(&self.output_norm.forward(&hidden, Activation::Silu)?)
        })
    }

    /// Everything from skip `index` on, joined with that skip again.
    fn join(&self, cx: &mut Context, index: usize, skip: &Tensor, told: &Told<'_>) -> Result<Tensor> {
        let below = cx.stage(index, skip, |cx| self.below(cx, index, skip, told))?;
        match self.up.get(index) {
            Some(unit) => unit.forward(cx, (&below, skip), told),
            None => candle_core::bail!("a U-Net of {} stages has no stage {index}", self.up.len()),
        }
    }

    /// The stage: what lies below skip `index`, brought to its size.
    fn below(&self, cx: &mut Context, index: usize, skip: &Tensor, told: &Told<'_>) -> Result<Tensor> {
        let Some(unit) = self.down.get(index) else {
            return self.middle.layers().try_fold(skip.clone(), |hidden, layer| layer.forward(cx, &hidden, told));
        };
        let hidden = unit.forward(cx, skip, told)?;
        let joined = self.join(cx, index + 1, &hidden, told)?;
        match self.up.get(index + 1) {
            Some(unit) => unit.enlarged(joined, skip),
            None => Ok(joined),
        }
    }

    /// All layers in execution order.
    fn layers(&self) -> impl Iterator<Item = &Layer> {
        let down = self.down.iter().filter_map(DownUnit::layer);
        down.chain(self.middle.layers()).chain(self.up.iter().rev().map(|unit| &unit.layer))
    }

    /// All layers in execution order, with the size of the hidden states there; and the operations outside all sites.
    fn work(&self, shape: &LatentShape) -> (Vec<(&Layer, Work)>, u64) {
        let mut work = Work { height: shape.height, width: shape.width, text_tokens: shape.text_tokens };
        let mut edges = self.input.flops(work.height, work.width) + self.output.flops(work.height, work.width);
        let (mut layers, mut skips) = (Vec::new(), vec![work]);
        for unit in &self.down {
            edges += unit.edge_flops(work);
            layers.extend(unit.layer().map(|layer| (layer, work)));
            work = unit.next(work);
            skips.push(work);
        }
        for layer in self.middle.layers() {
            edges += layer.edge_flops(work);
            layers.push((layer, work));
        }
        for (index, unit) in self.up.iter().enumerate().rev() {
            let work = skips.get(index).copied().unwrap_or(work);
            edges += unit.layer.edge_flops(work);
            layers.push((&unit.layer, work));
            if let Some(convolution) = &unit.enlarge {
                edges += convolution.flops(2 * work.height, 2 * work.width);
            }
        }
        (layers, edges)
    }
}

fn load_down(
    weights: &Weights,
    numbers: &mut Numbers,
    (config, style): (&UnetConfig, Style),
) -> std::result::Result<Vec<DownUnit>, ModelError> {
    let mut units = Vec::new();
    let mut channels = config.sinusoids();
    for (index, level) in config.levels.iter().enumerate() {
        let place = weights.at(index);
        for layer in 0..level.layers {
            let place =
                LayerPlace { level: &place, layer, channels: (channels, level.channels), attention: level.down };
            units.push(DownUnit::Layer(Layer::load(&place, numbers, (config, style))?));
            channels = level.channels;
        }
        if index + 1 < config.levels.len() {
            units.push(DownUnit::halve(&place, channels, (config.downsample_padding, style))?);
        }
    }
    Ok(units)
}

fn load_middle(
    weights: &Weights,
    numbers: &mut Numbers,
    (config, style): (&UnetConfig, Style),
) -> std::result::Result<Middle, ModelError> {
    let channels = config.levels.last().map_or(0, |level| level.channels);
    let mut layer = |layer: usize, attention: Option<TransformerConfig>| {
        let place = LayerPlace { level: weights, layer, channels: (channels, channels), attention };
        Layer::load(&place, numbers, (config, style))
    };
    let first = layer(0, config.middle)?;
    Ok(Middle { first, second: config.middle.map(|_| layer(1, None)).transpose()? })
}

/// The units of the way up, by the skip that each consumes.
fn load_up(
    weights: &Weights,
    numbers: &mut Numbers,
    down: &[DownUnit],
    (config, style): (&UnetConfig, Style),
) -> std::result::Result<Vec<UpUnit>, ModelError> {
    let mut skips: Vec<usize> =
        std::iter::once(config.sinusoids()).chain(down.iter().map(DownUnit::out_channels)).collect();
    let mut units = Vec::with_capacity(skips.len());
    let mut channels = config.levels.last().map_or(0, |level| level.channels);
    for (index, level) in config.levels.iter().rev().enumerate() {
        let place = weights.at(index);
        for layer in 0..=level.layers {
            let inputs = channels + skips.pop().unwrap_or_default();
            let shape = LayerPlace { level: &place, layer, channels: (inputs, level.channels), attention: level.up };
            let last = layer == level.layers && index + 1 < config.levels.len();
            units.push(UpUnit {
                layer: Layer::load(&shape, numbers, (config, style))?,
                enlarge: last.then(|| UpUnit::enlargement(&place, level.channels, style)).transpose()?,
            });
            channels = level.channels;
        }
    }
    units.reverse();
    Ok(units)
}

impl Denoiser for Unet {
    fn facts(&self) -> Facts {
        Facts {
            family: "U-Net",
            latent_channels: self.config.channels,
            patch_size: 1,
            sample_size: self.config.sample_size,
            blocks: self.layers,
            parameters: self.parameters,
        }
    }

    fn depth(&self, site: Site) -> Depth {
        let block = usize::from(site.block);
        match site.part {
            // A stage's value leaves it on the way up, but for the coarsest, which is the middle.
            Part::Stage if block + 1 == self.up.len() => return Depth::Middle,
            Part::Stage | Part::Model => return Depth::Late,
            _ => {}
        }
        if block < self.middle_layers.start {
            Depth::Early
        } else if block < self.middle_layers.end {
            Depth::Middle
        } else {
            Depth::Late
        }
    }

    fn sites(&self, shape: &LatentShape) -> Vec<SiteInfo> {
        let (layers, _) = self.work(shape);
        layers
            .into_iter()
            .flat_map(|(layer, work)| layer.costs(work))
            .map(|(site, parameters, flops, output_values)| SiteInfo { site, parameters, flops, output_values })
            .collect()
    }

    fn enclosing_sites(&self, shape: &LatentShape) -> Vec<SiteInfo> {
        let mut work = Work { height: shape.height, width: shape.width, text_tokens: shape.text_tokens };
        let model = SiteInfo::enclosing(Site::model(), self.config.channels * work.tokens());
        let stages = (0..self.up.len()).map(|stage| {
            let channels = match self.up.get(stage + 1) {
                Some(unit) => unit.layer.out_channels(),
                None => self.config.levels.last().map_or(0, |level| level.channels),
            };
            let site = SiteInfo::enclosing(Site::stage(stage), channels * work.tokens());
            work = self.down.get(stage).map_or(work, |unit| unit.next(work));
            site
        });
        stages.chain([model]).collect()
    }

    fn flops(&self, shape: &LatentShape) -> u64 {
        let sites: u64 = self.sites(shape).iter().map(|site| site.flops).sum();
        sites + self.work(shape).1 + 2 * self.timestep.parameters() as u64
    }

    fn denoise(
        &self,
        cx: &mut Context,
        latents: &Tensor,
        timesteps: &[f32],
        conditions: &Conditions,
    ) -> Result<Tensor> {
        match conditions {
            Conditions::Text(text) => self.forward(cx, latents, timesteps, text),
            Conditions::Classes(_) => candle_core::bail!("a U-Net is conditioned on text here, not on classes"),
        }
    }
}
