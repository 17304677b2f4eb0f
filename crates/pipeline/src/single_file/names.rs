//! Names of tensors in a Stable Diffusion file of one piece, as its authors' program wrote it, and in a diffusers folder.

/// A component of a pipeline in such a file: its folder's name, and what its tensors' names begin with.
pub(super) const COMPONENTS: [(&str, &str); 3] = [
    ("unet", "model.diffusion_model."),
    ("vae", "first_stage_model."),
    ("text_encoder", "cond_stage_model.transformer."),
];

/// What a file's layout depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Residual blocks of a level of the U-Net's way down.
    pub(super) layers: usize,
    /// Levels of the autoencoder.
    pub(super) levels: usize,
}

/// The diffusers name of a tensor of `component`, its original name given without the component's prefix; `None` for
/// tensors that no pipeline needs.
pub(super) fn translated(component: &str, name: &str, layout: Layout) -> Option<String> {
    match component {
        "unet" => unet(name, layout.layers + 1),
        "vae" => autoencoder(name, layout.levels),
        _ => Some(name.to_owned()),
    }
}

/// `per_level` units of the numbered lists make a level: residual blocks and, on the way down, what halves the size.
fn unet(name: &str, per_level: usize) -> Option<String> {
    const OUTSIDE: [(&str, &str); 5] = [
        ("time_embed.0.", "time_embedding.linear_1."),
        ("time_embed.2.", "time_embedding.linear_2."),
        ("input_blocks.0.0.", "conv_in."),
        ("out.0.", "conv_norm_out."),
        ("out.2.", "conv_out."),
    ];
    if let Some(outside) = replaced(name, &OUTSIDE) {
        return Some(outside);
    }
    let (list, rest) = name.split_once('.')?;
    if list == "middle_block" {
        let (part, rest) = numbered(rest)?;
        return match part {
            1 => Some(format!("mid_block.attentions.0.{rest}")),
            part => Some(format!("mid_block.resnets.{}.{}", part / 2, residual(rest)?)),
        };
    }
    let (unit, rest) = numbered(rest)?;
    let (part, rest) = numbered(rest)?;
    let (blocks, unit) = match list {
        "input_blocks" => ("down_blocks", unit.checked_sub(1)?),
        "output_blocks" => ("up_blocks", unit),
        _ => return None,
    };
    let (level, layer) = (unit / per_level, unit % per_level);
    if let Some(rest) = rest.strip_prefix("op.") {
        return Some(format!("{blocks}.{level}.downsamplers.0.conv.{rest}"));
    }
    if let Some(rest) = rest.strip_prefix("conv.") {
        return Some(format!("{blocks}.{level}.upsamplers.0.conv.{rest}"));
    }
    match part {
        0 => Some(format!("{blocks}.{level}.resnets.{layer}.{}", residual(rest)?)),
        _ => Some(format!("{blocks}.{level}.attentions.{layer}.{rest}")),
    }
}

fn residual(name: &str) -> Option<String> {
    const PARTS: [(&str, &str); 6] = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    replaced(name, &PARTS)
}

fn autoencoder(name: &str, levels: usize) -> Option<String> {
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_owned());
    }
    let (half, rest) = name.split_once('.')?;
    if !matches!(half, "encoder" | "decoder") {
        return None;
    }
    const PARTS: [(&str, &str); 5] = [
        ("conv_in.", "conv_in."),
        ("conv_out.", "conv_out."),
        ("norm_out.", "conv_norm_out."),
        ("mid.block_1.", "mid_block.resnets.0."),
        ("mid.block_2.", "mid_block.resnets.1."),
    ];
    const ATTENTION: [(&str, &str); 5] =
        [("norm.", "group_norm."), ("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v."), ("proj_out.", "to_out.0.")];
    let place = if let Some(rest) = rest.strip_prefix("mid.attn_1.") {
        format!("mid_block.attentions.0.{}", replaced(rest, &ATTENTION)?)
    } else if let Some(place) = replaced(rest, &PARTS) {
        place
    } else {
        level_of_autoencoder(rest, levels)?
    };
    Some(format!("{half}.{}", place.replace("nin_shortcut.", "conv_shortcut.")))
}

/// The way up is numbered from the finest level, in diffusers from the coarsest.
fn level_of_autoencoder(name: &str, levels: usize) -> Option<String> {
    let (way, rest) = name.split_once('.')?;
    let (level, rest) = numbered(rest)?;
    let (blocks, level, resize) = match way {
        "down" => ("down_blocks", level, ("downsample.", "downsamplers.0.")),
        "up" => ("up_blocks", levels.checked_sub(level + 1)?, ("upsample.", "upsamplers.0.")),
        _ => return None,
    };
    let rest = replaced(rest, &[("block.", "resnets."), resize])?;
    Some(format!("{blocks}.{level}.{rest}"))
}

/// `3.rest` as its number and the rest.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// The name with its beginning exchanged.
fn replaced(name: &str, beginnings: &[(&str, &str)]) -> Option<String> {
    beginnings.iter().find_map(|(from, to)| name.strip_prefix(from).map(|rest| format!("{to}{rest}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of Stable Diffusion 1.5, by hand.
    #[test]
    fn names_of_stable_diffusion_1_5() {
        let layout = Layout { layers: 2, levels: 4 };
        for (component, original, expected) in [
            ("unet", "time_embed.2.bias", "time_embedding.linear_2.bias"),
            ("unet", "input_blocks.0.0.weight", "conv_in.weight"),
            ("unet", "input_blocks.1.0.in_layers.0.weight", "down_blocks.0.resnets.0.norm1.weight"),
            ("unet", "input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            ("unet", "input_blocks.4.0.skip_connection.bias", "down_blocks.1.resnets.0.conv_shortcut.bias"),
            (
                "unet",
                "input_blocks.5.1.transformer_blocks.0.attn2.to_k.weight",
                "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k.weight",
            ),
            ("unet", "input_blocks.11.0.out_layers.3.weight", "down_blocks.3.resnets.1.conv2.weight"),
            ("unet", "middle_block.1.proj_in.weight", "mid_block.attentions.0.proj_in.weight"),
            ("unet", "middle_block.2.emb_layers.1.bias", "mid_block.resnets.1.time_emb_proj.bias"),
            ("unet", "output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("unet", "output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
            ("unet", "output_blocks.9.1.norm.weight", "up_blocks.3.attentions.0.norm.weight"),
            ("unet", "output_blocks.11.0.in_layers.2.weight", "up_blocks.3.resnets.2.conv1.weight"),
            ("unet", "out.2.weight", "conv_out.weight"),
            ("vae", "encoder.down.0.block.1.norm2.weight", "encoder.down_blocks.0.resnets.1.norm2.weight"),
            ("vae", "encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
            ("vae", "decoder.up.0.block.2.conv1.weight", "decoder.up_blocks.3.resnets.2.conv1.weight"),
            ("vae", "decoder.up.1.block.0.nin_shortcut.weight", "decoder.up_blocks.2.resnets.0.conv_shortcut.weight"),
            ("vae", "decoder.up.3.upsample.conv.weight", "decoder.up_blocks.0.upsamplers.0.conv.weight"),
            ("vae", "decoder.mid.attn_1.proj_out.weight", "decoder.mid_block.attentions.0.to_out.0.weight"),
            ("vae", "encoder.mid.block_2.conv1.bias", "encoder.mid_block.resnets.1.conv1.bias"),
            ("vae", "encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
            ("vae", "post_quant_conv.weight", "post_quant_conv.weight"),
            ("text_encoder", "text_model.encoder.layers.0.mlp.fc1.bias", "text_model.encoder.layers.0.mlp.fc1.bias"),
        ] {
            assert_eq!(translated(component, original, layout).as_deref(), Some(expected), "{original}");
        }
    }

    #[test]
    fn foreign_names_are_left_out() {
        let layout = Layout { layers: 2, levels: 4 };
        for (component, name) in [
            ("unet", "label_emb.0.0.weight"),
            ("unet", "input_blocks.x.0.weight"),
            ("unet", "input_blocks.0"),
            ("vae", "loss.logvar"),
            ("vae", "decoder.up.4.block.0.norm1.weight"),
            ("vae", "decoder.up.99999999999999999999.block.0.norm1.weight"),
        ] {
            assert_eq!(translated(component, name, layout), None, "{name}");
        }
    }
}
