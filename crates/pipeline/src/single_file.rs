//! A Stable Diffusion 1.x model in one safetensors file, as its authors published it.
//!
//! Such a file holds tensors alone, under names of its own. Dimensions are read from the tensors' shapes; what shapes do not
//! tell (heads, the noise schedule, epsilon prediction) is that of Stable Diffusion 1.x. The tokenizer comes from the folder
//! beside the file, `tokenizer/`; a `config.json` of a component found there takes the place of the one read from the shapes.

mod names;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Tensor};
use refrain_models::{TensorSource, Weights};
use refrain_ops::mapped::MappedFile;
use serde_json::{Value, json};

use crate::{
    checkpoint::Shard,
    error::{PipelineError, Result},
    source::Content,
};
use names::{COMPONENTS, Layout, translated};

/// Where the whole file is listed, so that a hash over all components reads it once.
pub(crate) const LISTED: &str = "unet/diffusion_pytorch_model.safetensors";
/// The one document that a folder beside the file does not replace: it may be another pipeline's.
const INDEX: &str = "model_index.json";
/// Heads of every attention of Stable Diffusion 1.x.
const HEADS: usize = 8;
/// Width of a head of its text encoder.
const TEXT_HEAD_WIDTH: usize = 64;
/// Most of anything that is counted by looking for names.
const MOST: usize = 64;

/// A file of one piece, its header read.
pub struct SingleFile {
    path: PathBuf,
    shard: Arc<Shard>,
    content: Content,
    layout: Layout,
    /// Configurations read from the shapes, by their path in a diffusers folder.
    documents: Vec<(&'static str, String)>,
}

impl fmt::Debug for SingleFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SingleFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SingleFile {
    /// Opens a file and reads the dimensions of its models.
    ///
    /// # Errors
    /// If it cannot be read, is no safetensors file, or holds something else than Stable Diffusion 1.x.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let mapped = MappedFile::open(path).map_err(|error| PipelineError::Io {
            file: file.clone(),
            source: std::io::Error::other(error.to_string()),
        })?;
        let content = Content::Mapped(Arc::new(mapped));
        let shard = Shard::parse(file, content.clone())?;
        let shapes = Shapes::of(&shard);
        let (layout, documents) = shapes
            .documents()
            .map_err(|problem| PipelineError::Safetensors { file: path.display().to_string(), problem })?;
        Ok(Self { path: path.to_owned(), shard: Arc::new(shard), content, layout, documents })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file's bytes.
    pub(crate) fn content(&self) -> Content {
        self.content.clone()
    }

    /// What lies beside the file under this path of a diffusers folder.
    pub(crate) fn beside(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// The configuration read from the shapes.
    pub(crate) fn document(&self, path: &str) -> Option<&str> {
        self.documents.iter().find(|(known, _)| *known == path).map(|(_, text)| text.as_str())
    }

    /// Whether a file beside this one takes the place of what was read from the shapes.
    pub(crate) fn overrides(&self, path: &str) -> bool {
        path != INDEX && self.beside(path).is_file()
    }

    /// Names of the files of a component, sorted.
    pub(crate) fn list(&self, component: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.beside(component)).into_iter().flatten().flatten();
        let beside = entries
            .filter(|entry| entry.path().is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.ends_with(".safetensors"));
        let made = self.documents.iter().map(|(path, _)| *path).chain([LISTED]);
        let made = made.filter_map(|path| path.strip_prefix(component)?.strip_prefix('/').map(str::to_owned));
        beside.chain(made).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A component's tensors under their diffusers names.
    pub(crate) fn weights(&self, component: &str) -> Weights {
        let prefix = COMPONENTS.iter().find(|(known, _)| *known == component).map_or("", |(_, prefix)| prefix);
        let places = self
            .shard
            .names()
            .into_iter()
            .filter_map(|original| {
                let name = translated(component, original.strip_prefix(prefix)?, self.layout)?;
                Some((name, original))
            })
            .collect();
        Weights::new(Arc::new(Translated { shard: self.shard.clone(), places }))
    }
}

/// Tensors under other names than those in the file.
struct Translated {
    shard: Arc<Shard>,
    /// Name in the file by diffusers name.
    places: HashMap<String, String>,
}

/// Products of the autoencoder's attention are stored as 1×1 convolutions, and read as matrices.
fn as_read(name: &str, mut shape: Vec<usize>) -> Vec<usize> {
    if name.contains("mid_block.attentions.0.to_") && shape.len() == 4 && shape.ends_with(&[1, 1]) {
        shape.truncate(2);
    }
    shape
}

impl TensorSource for Translated {
    fn file(&self, _: &str) -> String {
        self.shard.file().to_owned()
    }

    fn info(&self, name: &str) -> Option<(Vec<usize>, std::result::Result<DType, String>)> {
        let (shape, dtype) = self.shard.info(self.places.get(name)?)?;
        Some((as_read(name, shape), dtype))
    }

    fn read(&self, name: &str) -> candle_core::Result<Tensor> {
        let original = self.places.get(name).ok_or_else(|| candle_core::Error::Msg(format!("no tensor `{name}`")))?;
        let tensor = self.shard.read(original)?;
        let shape = as_read(name, tensor.dims().to_vec());
        tensor.reshape(shape)
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }
}

/// Shapes of a file's tensors, and what follows from them.
struct Shapes {
    shapes: HashMap<String, Vec<usize>>,
}

type Reading<T> = std::result::Result<T, String>;

impl Shapes {
    fn of(shard: &Shard) -> Self {
        let shape = |name: String| shard.info(&name).map(|(shape, _)| (name, shape));
        Self { shapes: shard.names().into_iter().filter_map(shape).collect() }
    }

    fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// One dimension of a tensor that must be there.
    fn dimension(&self, name: &str, axis: usize) -> Reading<usize> {
        let shape = self
            .shapes
            .get(name)
            .ok_or_else(|| format!("tensor `{name}` is missing: not a Stable Diffusion 1.x model"))?;
        shape.get(axis).copied().ok_or_else(|| format!("tensor `{name}` has shape {shape:?}, expected more dimensions"))
    }

    /// How many of the numbered `names` there are.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..MOST).take_while(|&number| self.has(&name(number))).count()
    }

    fn documents(&self) -> Reading<(Layout, Vec<(&'static str, String)>)> {
        let later = [
            "cond_stage_model.model.ln_final.weight",
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
        ];
        if later.iter().any(|name| self.has(name)) {
            return Err("a later model than Stable Diffusion 1.x: give its diffusers folder instead".to_owned());
        }
        let (layers, unet) = self.unet()?;
        let (levels, vae) = self.autoencoder()?;
        let documents = vec![
            ("model_index.json", index().to_string()),
            ("scheduler/scheduler_config.json", scheduler().to_string()),
            ("text_encoder/config.json", self.text_encoder()?.to_string()),
            ("unet/config.json", unet.to_string()),
            ("vae/config.json", vae.to_string()),
        ];
        Ok((Layout { layers, levels }, documents))
    }

    /// Layers of a level, and the configuration.
    fn unet(&self) -> Reading<(usize, Value)> {
        let unit = |unit: usize, rest: &str| format!("model.diffusion_model.input_blocks.{unit}.{rest}");
        let channels = self.dimension(&unit(0, "0.weight"), 1)?;
        let (mut widths, mut attends, mut layers) = (Vec::new(), Vec::new(), 0);
        let mut level_begins = true;
        for index in 1..MOST {
            if self.has(&unit(index, "0.op.weight")) {
                level_begins = true;
                continue;
            }
            let convolution = unit(index, "0.out_layers.3.weight");
            if !self.has(&convolution) {
                break;
            }
            if std::mem::take(&mut level_begins) {
                widths.push(self.dimension(&convolution, 0)?);
                attends.push(self.has(&unit(index, "1.norm.weight")));
            }
            layers += usize::from(widths.len() == 1);
        }
        let text = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight";
        let text_width = self.dimension(text, 1)?;
        let depth =
            self.count(|block| format!("model.diffusion_model.middle_block.1.transformer_blocks.{block}.norm1.weight"));
        let kind = |attends: bool, way: &str| format!("{}{way}Block2D", if attends { "CrossAttn" } else { "" });
        let config = json!({
            "_class_name": "UNet2DConditionModel",
            "in_channels": channels,
            "out_channels": self.dimension("model.diffusion_model.out.2.weight", 0)?,
            "sample_size": 64,
            "block_out_channels": widths,
            "layers_per_block": layers,
            "transformer_layers_per_block": depth,
            "cross_attention_dim": text_width,
            "attention_head_dim": HEADS,
            "use_linear_projection": self.shapes.get("model.diffusion_model.middle_block.1.proj_in.weight").is_some_and(|shape| shape.len() == 2),
            "down_block_types": attends.iter().map(|&attends| kind(attends, "Down")).collect::<Vec<_>>(),
            "up_block_types": attends.iter().rev().map(|&attends| kind(attends, "Up")).collect::<Vec<_>>(),
        });
        Ok((layers, config))
    }

    /// Levels, and the configuration.
    fn autoencoder(&self) -> Reading<(usize, Value)> {
        let block =
            |level: usize, block: usize| format!("first_stage_model.encoder.down.{level}.block.{block}.conv2.weight");
        let levels = self.count(|level| block(level, 0));
        let widths = (0..levels).map(|level| self.dimension(&block(level, 0), 0)).collect::<Reading<Vec<_>>>()?;
        let repeat = |name: &str| vec![name.to_owned(); levels];
        let config = json!({
            "_class_name": "AutoencoderKL",
            "latent_channels": self.dimension("first_stage_model.post_quant_conv.weight", 0)?,
            "in_channels": self.dimension("first_stage_model.encoder.conv_in.weight", 1)?,
            "out_channels": self.dimension("first_stage_model.decoder.conv_out.weight", 0)?,
            "block_out_channels": widths,
            "layers_per_block": self.count(|number| block(0, number)),
            "down_block_types": repeat("DownEncoderBlock2D"),
            "up_block_types": repeat("UpDecoderBlock2D"),
            "scaling_factor": 0.18215,
        });
        Ok((levels, config))
    }

    fn text_encoder(&self) -> Reading<Value> {
        let place = |rest: &str| format!("cond_stage_model.transformer.text_model.{rest}");
        let width = self.dimension(&place("embeddings.token_embedding.weight"), 1)?;
        Ok(json!({
            "architectures": ["CLIPTextModel"],
            "vocab_size": self.dimension(&place("embeddings.token_embedding.weight"), 0)?,
            "hidden_size": width,
            "max_position_embeddings": self.dimension(&place("embeddings.position_embedding.weight"), 0)?,
            "num_hidden_layers": self.count(|layer| place(&format!("encoder.layers.{layer}.layer_norm1.weight"))),
            "num_attention_heads": (width / TEXT_HEAD_WIDTH).max(1),
            "intermediate_size": self.dimension(&place("encoder.layers.0.mlp.fc1.weight"), 0)?,
            "hidden_act": "quick_gelu",
        }))
    }
}

fn index() -> Value {
    json!({
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

/// The noise schedule of Stable Diffusion 1.x.
fn scheduler() -> Value {
    json!({
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": false,
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "prediction_type": "epsilon",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tensors of Stable Diffusion 1.5 that tell its dimensions.
    fn stable_diffusion_1_5() -> HashMap<String, Vec<usize>> {
        let mut shapes = HashMap::new();
        let mut add = |name: String, shape: &[usize]| {
            shapes.insert(name, shape.to_vec());
        };
        let unit = |unit: usize, rest: &str| format!("model.diffusion_model.input_blocks.{unit}.{rest}");
        add(unit(0, "0.weight"), &[320, 4, 3, 3]);
        for (index, width) in [320, 320, 0, 640, 640, 0, 1280, 1280, 0, 1280, 1280].into_iter().enumerate() {
            match width {
                0 => add(unit(index + 1, "0.op.weight"), &[640, 640, 3, 3]),
                width => add(unit(index + 1, "0.out_layers.3.weight"), &[width, width, 3, 3]),
            }
            if width > 0 && index < 8 {
                add(unit(index + 1, "1.norm.weight"), &[width]);
            }
        }
        add("model.diffusion_model.out.2.weight".into(), &[4, 320, 3, 3]);
        let middle = "model.diffusion_model.middle_block.1";
        add(format!("{middle}.proj_in.weight"), &[1280, 1280, 1, 1]);
        add(format!("{middle}.transformer_blocks.0.norm1.weight"), &[1280]);
        add(format!("{middle}.transformer_blocks.0.attn2.to_k.weight"), &[1280, 768]);
        add("first_stage_model.post_quant_conv.weight".into(), &[4, 4, 1, 1]);
        add("first_stage_model.encoder.conv_in.weight".into(), &[128, 3, 3, 3]);
        add("first_stage_model.decoder.conv_out.weight".into(), &[3, 128, 3, 3]);
        for (level, width) in [128, 256, 512, 512].into_iter().enumerate() {
            for block in 0..2 {
                let name = format!("first_stage_model.encoder.down.{level}.block.{block}.conv2.weight");
                add(name, &[width, width, 3, 3]);
            }
        }
        let text = "cond_stage_model.transformer.text_model";
        add(format!("{text}.embeddings.token_embedding.weight"), &[49_408, 768]);
        add(format!("{text}.embeddings.position_embedding.weight"), &[77, 768]);
        for layer in 0..12 {
            add(format!("{text}.encoder.layers.{layer}.layer_norm1.weight"), &[768]);
        }
        add(format!("{text}.encoder.layers.0.mlp.fc1.weight"), &[3072, 768]);
        shapes
    }

    #[test]
    fn dimensions_of_stable_diffusion_1_5_are_read_from_its_shapes() -> std::result::Result<(), String> {
        let (layout, documents) = Shapes { shapes: stable_diffusion_1_5() }.documents()?;
        assert_eq!(layout, Layout { layers: 2, levels: 4 });
        let document = |path: &str| -> Value {
            let text = documents.iter().find(|(known, _)| *known == path).map_or("", |(_, text)| text);
            serde_json::from_str(text).unwrap_or_default()
        };
        let unet = document("unet/config.json");
        assert_eq!(unet["block_out_channels"], json!([320, 640, 1280, 1280]));
        assert_eq!((&unet["layers_per_block"], &unet["cross_attention_dim"]), (&json!(2), &json!(768)));
        let down = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"];
        assert_eq!(unet["down_block_types"], json!(down));
        assert_eq!(unet["up_block_types"][0], "UpBlock2D");
        assert_eq!((&unet["attention_head_dim"], &unet["use_linear_projection"]), (&json!(8), &json!(false)));
        let vae = document("vae/config.json");
        assert_eq!((&vae["block_out_channels"], &vae["layers_per_block"]), (&json!([128, 256, 512, 512]), &json!(2)));
        let text = document("text_encoder/config.json");
        assert_eq!((&text["num_hidden_layers"], &text["num_attention_heads"]), (&json!(12), &json!(12)));
        Ok(())
    }

    #[test]
    fn what_is_no_stable_diffusion_1_is_said() {
        let mut shapes = stable_diffusion_1_5();
        shapes.insert("cond_stage_model.model.ln_final.weight".into(), vec![1024]);
        let later = Shapes { shapes }.documents().err().unwrap_or_default();
        assert!(later.contains("later model"), "{later}");
        let empty = Shapes { shapes: HashMap::new() }.documents().err().unwrap_or_default();
        assert!(empty.contains("input_blocks.0.0.weight` is missing"), "{empty}");
    }
}
