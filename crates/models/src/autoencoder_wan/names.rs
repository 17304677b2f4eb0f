//! Tensor names of Wan's autoencoder: asked for in diffusers' spelling, found in the original one (`Wan2.1_VAE.pth`) where
//! the file has it.

use crate::weights::Weights;

/// The same place with names translated to those of the file. `residual_blocks` are those of an encoder's level.
pub(super) fn any_layout(weights: &Weights, residual_blocks: usize) -> Weights {
    if weights.contains("encoder.conv1.weight") || weights.contains("decoder.conv1.weight") {
        weights.renamed(move |name| original(name, residual_blocks))
    } else {
        weights.clone()
    }
}

fn original(name: &str, residual_blocks: usize) -> String {
    let Some((half, rest)) = name.split_once('.') else { return name.to_owned() };
    match half {
        "quant_conv" => format!("conv1.{rest}"),
        "post_quant_conv" => format!("conv2.{rest}"),
        _ => format!("{half}.{}", inside(rest, residual_blocks)),
    }
}

fn inside(name: &str, residual_blocks: usize) -> String {
    const PLACES: [(&str, &str); 6] = [
        ("conv_in.", "conv1."),
        ("norm_out.", "head.0."),
        ("conv_out.", "head.2."),
        ("mid_block.resnets.0.", "middle.0."),
        ("mid_block.attentions.0.", "middle.1."),
        ("mid_block.resnets.1.", "middle.2."),
    ];
    if let Some((theirs, rest)) =
        PLACES.iter().find_map(|(ours, theirs)| name.strip_prefix(ours).map(|rest| (theirs, rest)))
    {
        return format!("{theirs}{}", layer(rest));
    }
    if let Some((index, rest)) = name.strip_prefix("down_blocks.").and_then(|rest| rest.split_once('.')) {
        return format!("downsamples.{index}.{}", layer(rest));
    }
    let parts = name.strip_prefix("up_blocks.").map(|rest| rest.splitn(4, '.').collect::<Vec<_>>());
    match parts.as_deref() {
        Some(&[level, kind, index, rest]) => {
            let number = |text: &str| text.parse::<usize>().unwrap_or_default();
            let within = if kind == "resnets" { number(index) } else { residual_blocks + 1 };
            format!("upsamples.{}.{}", number(level) * (residual_blocks + 2) + within, layer(rest))
        }
        _ => name.to_owned(),
    }
}

fn layer(name: &str) -> String {
    const LAYERS: [(&str, &str); 5] = [
        ("norm1.", "residual.0."),
        ("conv1.", "residual.2."),
        ("norm2.", "residual.3."),
        ("conv2.", "residual.6."),
        ("conv_shortcut.", "shortcut."),
    ];
    LAYERS
        .iter()
        .find_map(|(ours, theirs)| name.strip_prefix(ours).map(|rest| format!("{theirs}{rest}")))
        .unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_name_translates() {
        for (ours, theirs) in [
            ("encoder.conv_in.weight", "encoder.conv1.weight"),
            ("encoder.down_blocks.5.time_conv.bias", "encoder.downsamples.5.time_conv.bias"),
            ("encoder.down_blocks.3.conv_shortcut.weight", "encoder.downsamples.3.shortcut.weight"),
            ("encoder.mid_block.attentions.0.to_qkv.weight", "encoder.middle.1.to_qkv.weight"),
            ("encoder.mid_block.resnets.1.norm2.gamma", "encoder.middle.2.residual.3.gamma"),
            ("encoder.norm_out.gamma", "encoder.head.0.gamma"),
            ("decoder.up_blocks.0.resnets.2.conv2.bias", "decoder.upsamples.2.residual.6.bias"),
            ("decoder.up_blocks.1.upsamplers.0.resample.1.weight", "decoder.upsamples.7.resample.1.weight"),
            ("decoder.up_blocks.3.resnets.0.conv1.weight", "decoder.upsamples.12.residual.2.weight"),
            ("quant_conv.bias", "conv1.bias"),
            ("post_quant_conv.weight", "conv2.weight"),
        ] {
            assert_eq!(original(ours, 2), theirs);
        }
    }
}
