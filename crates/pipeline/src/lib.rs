//! Checkpoint folders to a running pipeline: text or class to latents to pixels.
//!
//! ```text
//! let source = ModelSource::Folder("weights/emoji".into());
//! let pipeline = Pipeline::load(&source, LoadOptions::default())?;
//! let request = ImageRequest { prompt: "a red fox".into(), ..ImageRequest::default() };
//! let picture = pipeline.generate(&request, &mut Context::off(), &mut ignore)?;
//! ```
//!
//! The format is the diffusers folder: `model_index.json` names the components, each has its `config.json` and its
//! safetensors. All of it is outside data: a wrong, truncated or hostile file gives one line that names the file and what
//! was expected.

mod autoencoder;
mod checkpoint;
mod classes;
mod clip_tokenizer;
mod error;
mod fingerprint;
mod generate;
mod index;
mod original_dit;
mod pipeline;
mod request;
mod restyle;
mod single_file;
mod source;
mod text;
mod torch_archive;
mod video;

pub use autoencoder::Autoencoder;
pub use classes::ClassNames;
pub use error::{PipelineError, Result};
pub use generate::Observe;
pub use index::PipelineClass;
pub use pipeline::{LoadOptions, Pipeline};
pub use request::{GeneratedImage, ImageRequest, InitialPicture, Noise, Progress, Seconds};
pub use restyle::{RestyleDefaults, RestylePipeline};
pub use single_file::SingleFile;
pub use source::{EmbeddedFile, ModelSource};
pub use text::{TextCoverage, TextEncoder};
pub use torch_archive::{open_tensor_file, wan_from_file};
pub use video::{ClipDecoder, GeneratedVideo, VideoAutoencoder, VideoPipeline, VideoRequest};

/// An observer that sees nothing and never stops.
pub fn ignore(_: &Progress<'_>) -> std::ops::ControlFlow<()> {
    std::ops::ControlFlow::Continue(())
}
