//! What lies between two skip connections: the units of a U-Net's way down and up.

use candle_core::{Result, Tensor};
use refrain_cache::{Context, Site};
use refrain_ops::Conv2d;

use super::{
    TransformerConfig, UnetConfig,
    residual::{ResidualBlock, Style, convolution},
    transformer::SpatialTransformer,
};
use crate::{cross_attention::BlockText, error::ModelError, weights::Weights};

/// What all parts read besides the hidden states.
pub(super) struct Told<'a> {
    /// The timestep's embedding behind its SiLU, `[1 or b, width]`.
    pub(super) embedded: &'a Tensor,
    /// Keys and values of every transformer block, in execution order.
    pub(super) text: &'a [BlockText],
}

/// Counts blocks and texts while a model is loaded, so that each part knows its number.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The next block's number.
    pub(super) block: usize,
    /// Transformer blocks so far: where a transformer's texts begin.
    pub(super) texts: usize,
}

/// A residual block and, in levels that attend, the transformer behind it. Both have the same number.
#[derive(Debug)]
pub(super) struct Layer {
    residual: ResidualBlock,
    transformer: Option<SpatialTransformer>,
    /// Where its texts begin.
    text: usize,
}

/// Where a layer's tensors are, and its shape.
pub(super) struct LayerPlace<'a> {
    /// The level or the middle.
    pub(super) level: &'a Weights,
    /// Number of the layer within it.
    pub(super) layer: usize,
    pub(super) channels: (usize, usize),
    pub(super) attention: Option<TransformerConfig>,
}

impl Layer {
    pub(super) fn load(
        place: &LayerPlace<'_>,
        numbers: &mut Numbers,
        (config, style): (&UnetConfig, Style),
    ) -> std::result::Result<Self, ModelError> {
        let (index, text, outputs) = (numbers.block, numbers.texts, place.channels.1);
        let residual = ResidualBlock::load(&place.level.at("resnets").at(place.layer), index, place.channels, style)?;
        let transformer = place
            .attention
            .map(|shape| {
                let weights = place.level.at("attentions").at(place.layer);
                SpatialTransformer::load(&weights, index, (outputs, shape), (config, style))
            })
            .transpose()?;
        let blocks = transformer.as_ref().map_or(0, |transformer| transformer.blocks.len());
        numbers.block += blocks.max(1);
        numbers.texts += blocks;
        Ok(Self { residual, transformer, text })
    }

    pub(super) fn forward(&self, cx: &mut Context, input: &Tensor, told: &Told<'_>) -> Result<Tensor> {
        let hidden = self.residual.forward(cx, input, told.embedded)?;
        match &self.transformer {
            Some(transformer) => transformer.forward(cx, &hidden, told.text.get(self.text..).unwrap_or_default()),
            None => Ok(hidden),
        }
    }

    pub(super) fn prepare_text(&self, states: &Tensor, into: &mut Vec<BlockText>) -> Result<()> {
        for block in self.transformer.iter().flat_map(|transformer| &transformer.blocks) {
            into.push(block.prepare_text(states)?);
        }
        Ok(())
    }

    pub(super) fn out_channels(&self) -> usize {
        self.residual.out_channels()
    }

    /// Sites with parameters, operations and values of the output.
    pub(super) fn costs(&self, work: Work) -> Vec<(Site, usize, u64, usize)> {
        let (tokens, values) = (work.tokens(), work.tokens() * self.out_channels());
        let residual = &self.residual;
        let first =
            (Site::residual(residual.index), residual.parameters(), residual.flops((work.height, work.width)), values);
        let rest = self.transformer.iter().flat_map(|transformer| transformer.costs(tokens, work.text_tokens));
        std::iter::once(first).chain(rest.map(|(site, parameters, flops)| (site, parameters, flops, values))).collect()
    }

    /// Operations outside its sites.
    pub(super) fn edge_flops(&self, work: Work) -> u64 {
        self.transformer.as_ref().map_or(0, |transformer| transformer.edge_flops(work.tokens()))
    }
}

/// Size of the hidden states somewhere in the model, and of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) text_tokens: usize,
}

impl Work {
    pub(super) fn tokens(self) -> usize {
        self.height * self.width
    }
}

/// From one skip connection to the next.
#[derive(Debug)]
pub(super) enum DownUnit {
    Layer(Layer),
    Halve(Conv2d),
}

impl DownUnit {
    pub(super) fn halve(
        weights: &Weights,
        channels: usize,
        (padding, style): (usize, Style),
    ) -> std::result::Result<Self, ModelError> {
        let place = weights.at("downsamplers.0.conv");
        Ok(Self::Halve(convolution(&place, (channels, channels), (3, 2, padding), style.precision)?))
    }

    pub(super) fn forward(&self, cx: &mut Context, input: &Tensor, told: &Told<'_>) -> Result<Tensor> {
        match self {
            Self::Layer(layer) => layer.forward(cx, input, told),
            Self::Halve(convolution) if convolution.output_size(2, 2) == (1, 1) => convolution.forward(input),
            // Unpadded convolutions get a row and a column at the far sides, as the reference gives them.
            Self::Halve(convolution) => convolution.forward(&input.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?),
        }
    }

    pub(super) fn out_channels(&self) -> usize {
        match self {
            Self::Layer(layer) => layer.out_channels(),
            Self::Halve(convolution) => convolution.out_channels(),
        }
    }

    /// Size behind it.
    pub(super) fn next(&self, work: Work) -> Work {
        match self {
            Self::Layer(_) => work,
            Self::Halve(_) => Work { height: work.height.div_ceil(2), width: work.width.div_ceil(2), ..work },
        }
    }

    pub(super) fn layer(&self) -> Option<&Layer> {
        match self {
            Self::Layer(layer) => Some(layer),
            Self::Halve(_) => None,
        }
    }

    pub(super) fn edge_flops(&self, work: Work) -> u64 {
        match self {
            Self::Layer(layer) => layer.edge_flops(work),
            Self::Halve(convolution) => convolution.flops(work.height, work.width),
        }
    }
}

/// Takes what comes from below and one skip connection; the last of a level also enlarges.
#[derive(Debug)]
pub(super) struct UpUnit {
    pub(super) layer: Layer,
    pub(super) enlarge: Option<Conv2d>,
}

impl UpUnit {
    pub(super) fn enlargement(
        weights: &Weights,
        channels: usize,
        style: Style,
    ) -> std::result::Result<Conv2d, ModelError> {
        convolution(&weights.at("upsamplers.0.conv"), (channels, channels), (3, 1, 1), style.precision)
    }

    /// `below` and `skip` `[b, .., h, w]` to `[b, out, h, w]`.
    pub(super) fn forward(
        &self,
        cx: &mut Context,
        (below, skip): (&Tensor, &Tensor),
        told: &Told<'_>,
    ) -> Result<Tensor> {
        self.layer.forward(cx, &Tensor::cat(&[below, skip], 1)?, told)
    }

    /// Enlarges to the size of `like`, the next skip connection: twice, or a trifle less where sides are odd.
    pub(super) fn enlarged(&self, hidden: Tensor, like: &Tensor) -> Result<Tensor> {
        let Some(convolution) = &self.enlarge else { return Ok(hidden) };
        let (_, _, height, width) = hidden.dims4()?;
        let (_, _, to_height, to_width) = like.dims4()?;
        if (to_height, to_width) == (2 * height, 2 * width) {
            return convolution.forward_upsampled(&hidden);
        }
        // Rows and columns taken by number, which a gradient can pass at any factor.
        let nearest = |to: usize, from: usize| {
            let sources: Vec<u32> = (0..to).map(|place| (place * from / to) as u32).collect();
            Tensor::from_vec(sources, to, hidden.device())
        };
        let rows = hidden.index_select(&nearest(to_height, height)?, 2)?;
        convolution.forward(&rows.index_select(&nearest(to_width, width)?, 3)?)
    }
}
