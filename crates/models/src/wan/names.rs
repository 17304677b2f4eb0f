//! Tensor names of Wan checkpoints: asked for in diffusers' spelling, found in the original one where the file has it.

use crate::weights::Weights;

/// Prefixes under which training frameworks nest the transformer.
const PREFIXES: [&str; 6] =
    ["", "model.", "generator_ema.model.", "generator.model.", "generator_ema.", "state_dict.model."];

/// The same place with names translated to those of the file: diffusers' own, Wan's, or Wan's under a prefix such as
/// `model.` (CausVid, Self-Forcing, StreamDiffusionV2).
pub(super) fn any_layout(weights: &Weights) -> Weights {
    const FIRST: &str = "patch_embedding.weight";
    const ORIGINAL: &str = "time_projection.1.weight";
    let Some(prefix) = PREFIXES.into_iter().find(|prefix| weights.contains(format!("{prefix}{FIRST}"))) else {
        return weights.clone();
    };
    match (weights.contains(format!("{prefix}{ORIGINAL}")), prefix) {
        (true, _) => weights.renamed(move |name| format!("{prefix}{}", original(name))),
        (false, "") => weights.clone(),
        (false, _) => weights.renamed(move |name| format!("{prefix}{name}")),
    }
}

/// Wan's name of a tensor.
fn original(name: &str) -> String {
    const HEADS: [(&str, &str); 7] = [
        ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
        ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
        ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
        ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
        ("condition_embedder.time_proj.", "time_projection.1."),
        ("proj_out.", "head.head."),
        ("scale_shift_table", "head.modulation"),
    ];
    const IN_BLOCK: [(&str, &str); 12] = [
        ("attn1.to_q.", "self_attn.q."),
        ("attn1.to_k.", "self_attn.k."),
        ("attn1.to_v.", "self_attn.v."),
        ("attn1.to_out.0.", "self_attn.o."),
        ("attn2.to_q.", "cross_attn.q."),
        ("attn2.to_k.", "cross_attn.k."),
        ("attn2.to_v.", "cross_attn.v."),
        ("attn2.to_out.0.", "cross_attn.o."),
        ("norm2.", "norm3."),
        ("ffn.net.0.proj.", "ffn.0."),
        ("ffn.net.2.", "ffn.2."),
        ("scale_shift_table", "modulation"),
    ];
    let replaced = |name: &str, table: &[(&str, &str)]| {
        table.iter().find_map(|(ours, theirs)| name.strip_prefix(ours).map(|rest| format!("{theirs}{rest}")))
    };
    if let Some((index, rest)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        let rest = replaced(rest, &IN_BLOCK).unwrap_or_else(|| {
            // What is left are the norms of queries and keys.
            rest.replacen("attn1.", "self_attn.", 1).replacen("attn2.", "cross_attn.", 1)
        });
        return format!("blocks.{index}.{rest}");
    }
    replaced(name, &HEADS).unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_name_translates() {
        for (ours, theirs) in [
            ("patch_embedding.bias", "patch_embedding.bias"),
            ("condition_embedder.time_proj.weight", "time_projection.1.weight"),
            ("condition_embedder.text_embedder.linear_2.bias", "text_embedding.2.bias"),
            ("blocks.12.attn1.to_out.0.weight", "blocks.12.self_attn.o.weight"),
            ("blocks.0.attn2.norm_k.weight", "blocks.0.cross_attn.norm_k.weight"),
            ("blocks.3.norm2.weight", "blocks.3.norm3.weight"),
            ("blocks.3.ffn.net.0.proj.bias", "blocks.3.ffn.0.bias"),
            ("blocks.3.scale_shift_table", "blocks.3.modulation"),
            ("scale_shift_table", "head.modulation"),
            ("proj_out.weight", "head.head.weight"),
        ] {
            assert_eq!(original(ours), theirs);
        }
    }
}
