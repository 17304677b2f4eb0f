//! DiT's own checkpoints (`DiT-XL-2-256x256.pt`, arXiv 2212.09748): tensors of a PyTorch archive under the names that
//! diffusers gave them. The archive's pickle is read as data; nothing in it is executed.
//!
//! Three things differ besides names: queries, keys and values are one matrix, all blocks share one embedder of timestep
//! and class, and files from training hold the averaged weights under `ema`.

use std::path::PathBuf;

use candle_core::{DType, Result as TensorResult, Tensor, pickle::PthTensors};
use refrain_models::TensorSource;

use crate::error::{PipelineError, Result};

/// An archive, answering to diffusers' names.
pub(crate) struct OriginalDit {
    file: String,
    archive: PthTensors,
    blocks: usize,
}

/// A stored tensor, or one of the three equal parts of its rows.
#[derive(Debug, PartialEq)]
struct Place {
    stored: String,
    third: Option<usize>,
}

impl OriginalDit {
    /// Opens the archive; no tensor is read yet.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let file = path.display().to_string();
        let broken = |problem: String| PipelineError::TorchArchive { file: file.clone(), problem };
        let has_blocks = |archive: &PthTensors| archive.tensor_infos().contains_key("blocks.0.attn.qkv.weight");
        let plain = PthTensors::new(&path, None).map_err(|error| broken(first_line(&error)))?;
        let archive = if has_blocks(&plain) {
            plain
        } else {
            let averaged = PthTensors::new(&path, Some("ema")).ok().filter(has_blocks);
            averaged.ok_or_else(|| {
                broken("holds no `blocks.0.attn.qkv.weight`, neither plain nor under `ema`: not a DiT".to_owned())
            })?
        };
        let numbers = archive.tensor_infos().keys().filter_map(|name| name.strip_prefix("blocks.")?.split('.').next());
        let blocks = numbers.filter_map(|number| number.parse::<usize>().ok()).max().map_or(0, |last| last + 1);
        Ok(Self { file, archive, blocks })
    }

    fn stored(&self, place: &Place) -> Option<(Vec<usize>, DType)> {
        let info = self.archive.tensor_infos().get(&place.stored)?;
        let mut shape = info.layout.dims().to_vec();
        if let (Some(_), Some(rows)) = (place.third, shape.first_mut()) {
            if !rows.is_multiple_of(3) {
                return None;
            }
            *rows /= 3;
        }
        Some((shape, info.dtype))
    }
}

/// The first line of an error: the others are a trace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Where the archive holds diffusers' `name`.
fn place(name: &str) -> Option<Place> {
    let whole = |stored: String| Some(Place { stored, third: None });
    let (module, kind) = name.rsplit_once('.')?;
    match module {
        "pos_embed.proj" => return whole(format!("x_embedder.proj.{kind}")),
        "proj_out_1" => return whole(format!("final_layer.adaLN_modulation.1.{kind}")),
        "proj_out_2" => return whole(format!("final_layer.linear.{kind}")),
        _ => {}
    }
    let (block, part) = module.strip_prefix("transformer_blocks.")?.split_once('.')?;
    let third = match part {
        "attn1.to_q" => 0,
        "attn1.to_k" => 1,
        "attn1.to_v" => 2,
        _ => {
            return whole(match part {
                "norm1.emb.timestep_embedder.linear_1" => format!("t_embedder.mlp.0.{kind}"),
                "norm1.emb.timestep_embedder.linear_2" => format!("t_embedder.mlp.2.{kind}"),
                "norm1.emb.class_embedder.embedding_table" => format!("y_embedder.embedding_table.{kind}"),
                "norm1.linear" => format!("blocks.{block}.adaLN_modulation.1.{kind}"),
                "attn1.to_out.0" => format!("blocks.{block}.attn.proj.{kind}"),
                "ff.net.0.proj" => format!("blocks.{block}.mlp.fc1.{kind}"),
                "ff.net.2" => format!("blocks.{block}.mlp.fc2.{kind}"),
                _ => return None,
            });
        }
    };
    Some(Place { stored: format!("blocks.{block}.attn.qkv.{kind}"), third: Some(third) })
}

impl TensorSource for OriginalDit {
    fn file(&self, _: &str) -> String {
        self.file.clone()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, std::result::Result<DType, String>)> {
        let (shape, dtype) = self.stored(&place(name)?)?;
        Some((shape, Ok(dtype)))
    }

    fn read(&self, name: &str) -> TensorResult<Tensor> {
        let unreadable = || candle_core::Error::Msg(format!("{}: tensor `{name}` cannot be read", self.file));
        let place = place(name).ok_or_else(unreadable)?;
        // The archive's own errors name no file.
        let tensor = self.archive.get(&place.stored).ok().flatten().ok_or_else(unreadable)?;
        match place.third {
            None => Ok(tensor),
            Some(third) => {
                let rows = tensor.dim(0)? / 3;
                // A copy: a view would keep all three parts alive.
                tensor.narrow(0, third * rows, rows)?.force_contiguous()
            }
        }
    }

    /// The names that a model of as many blocks asks for.
    fn names(&self) -> Vec<String> {
        let shared = ["timestep_embedder.linear_1", "timestep_embedder.linear_2", "class_embedder.embedding_table"];
        let parts =
            ["norm1.linear", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"];
        let blocks = (0..self.blocks)
            .flat_map(|block| parts.iter().map(move |part| format!("transformer_blocks.{block}.{part}")));
        let embedders = shared.iter().map(|part| format!("transformer_blocks.0.norm1.emb.{part}"));
        let edges = ["pos_embed.proj", "proj_out_1", "proj_out_2"].map(str::to_owned);
        let modules = blocks.chain(embedders).chain(edges);
        let names = modules.flat_map(|module| ["weight", "bias"].map(|kind| format!("{module}.{kind}")));
        names.filter(|name| self.info(name).is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diffusers_names_have_a_place() {
        for (name, stored, third) in [
            ("pos_embed.proj.weight", "x_embedder.proj.weight", None),
            ("transformer_blocks.27.attn1.to_k.bias", "blocks.27.attn.qkv.bias", Some(1)),
            ("transformer_blocks.3.norm1.emb.timestep_embedder.linear_2.bias", "t_embedder.mlp.2.bias", None),
            ("transformer_blocks.3.ff.net.0.proj.weight", "blocks.3.mlp.fc1.weight", None),
            ("proj_out_2.bias", "final_layer.linear.bias", None),
        ] {
            assert_eq!(place(name), Some(Place { stored: stored.to_owned(), third }), "{name}");
        }
        for name in ["", "weight", "transformer_blocks.0.norm3.weight", "transformer_blocks.x"] {
            assert_eq!(place(name), None, "{name}");
        }
    }
}
