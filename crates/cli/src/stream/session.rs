//! A loaded stream: pictures in, restyled pictures out.

use candle_core::{Device, Tensor};
use refrain_cache::{Context, RunHeader};
use refrain_media::Picture;
use refrain_pipeline::RestylePipeline;
use refrain_stream::{
    ChunkNoise, FewSteps, HeldNoise, KvOptions, Mode, NoiseControl, NoiseSource, Prediction, RestyleModel,
    RestyleOptions, Restyled, Restyler, StreamOptions,
};

use super::work::Settings;
use crate::errors::{usage, usage_because};

/// The restyler of a call, and the size it works at.
pub(crate) struct Session<'a> {
    pipeline: &'a RestylePipeline,
    restyler: Restyler<'a>,
    width: u32,
    height: u32,
}

impl<'a> Session<'a> {
    /// Sets a stream up.
    ///
    /// # Errors
    /// Options or a size that do not fit the model (exit 2).
    pub(crate) fn begin(settings: &Settings, pipeline: &'a RestylePipeline) -> anyhow::Result<Self> {
        // A stream without a cache needs no fingerprint, which takes reading all weights.
        let context = match settings.cache.is_off() {
            true => Context::off(),
            false => settings.cache.context(&run_header(settings, pipeline)?, settings.seed, false)?,
        };
        Self::under(settings, pipeline, context)
    }

    /// As [`Session::begin`], under a context of the caller's.
    ///
    /// # Errors
    /// As [`Session::begin`].
    pub(crate) fn under(settings: &Settings, pipeline: &'a RestylePipeline, context: Context) -> anyhow::Result<Self> {
        let defaults = pipeline.defaults();
        let side = |flag: &str, asked: Option<usize>| -> anyhow::Result<u32> {
            let multiple = pipeline.size_multiple();
            match asked.unwrap_or(defaults.side) {
                side if side > 0 && side <= 4096 && side.is_multiple_of(multiple) => Ok(side as u32),
                side => Err(usage(format!("{flag} {side}: expected a multiple of {multiple} up to 4096"))),
            }
        };
        let (width, height) = (side("--width", settings.size.0)?, side("--height", settings.size.1)?);
        let scale = settings.strength.unwrap_or(defaults.noise_scale);
        let options = RestyleOptions {
            stream: stream_options(settings, pipeline, scale)?,
            control: settings.noise_control.then(|| NoiseControl::published(scale)),
        };
        let noise: Box<dyn NoiseSource + Send> = match settings.fresh_noise {
            true => Box::new(ChunkNoise { seed: settings.seed }),
            false => Box::new(HeldNoise::new(settings.seed)),
        };
        let model = RestyleModel { transformer: pipeline.transformer(), autoencoder: pipeline.autoencoder() };
        let about = (pipeline.prepare_text(&settings.prompt)?, context);
        let size = (height as usize, width as usize);
        let restyler = Restyler::new(model, options, about, noise, size).map_err(usage_because)?;
        Ok(Self { pipeline, restyler, width, height })
    }

    /// Changes the prompt from the next picture on.
    ///
    /// # Errors
    /// A text that cannot be encoded.
    pub(crate) fn set_prompt(&mut self, prompt: &str) -> anyhow::Result<()> {
        self.restyler.set_prompt(self.pipeline.prepare_text(prompt)?);
        Ok(())
    }

    /// Takes a picture of any size; gives the number, in order of coming, and the picture of the one that is finished.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn push(&mut self, picture: &Picture) -> anyhow::Result<Option<(u64, Picture)>> {
        self.restyle(picture)?.map(|restyled| self.picture(&restyled)).transpose()
    }

    /// As [`Session::push`], as tensors.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn restyle(&mut self, picture: &Picture) -> anyhow::Result<Option<Restyled>> {
        let scaled = picture.covering(self.width, self.height);
        let shape = (1, 3, self.height as usize, self.width as usize);
        let tensor = Tensor::from_vec(scaled.to_planar_unit(), shape, &Device::Cpu)?;
        Ok(self.restyler.push(&tensor)?)
    }

    /// Finishes a picture in flight.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn flush(&mut self) -> anyhow::Result<Option<(u64, Picture)>> {
        self.restyler.flush()?.map(|restyled| self.picture(&restyled)).transpose()
    }

    /// Share of the work that was computed rather than reused.
    pub(crate) fn computed_share(&self) -> f64 {
        self.restyler.context().report().computed_share
    }

    fn picture(&self, restyled: &Restyled) -> anyhow::Result<(u64, Picture)> {
        let values = restyled.picture.flatten_all()?.to_vec1::<f32>()?;
        Ok((restyled.frame, Picture::from_planar_unit(self.width, self.height, &values)?))
    }
}

/// Noise levels fall evenly from the noise scale.
fn stream_options(settings: &Settings, pipeline: &RestylePipeline, scale: f64) -> anyhow::Result<StreamOptions> {
    let defaults = pipeline.defaults();
    let level = |step: usize| (1000.0 * scale * (settings.steps - step) as f64 / settings.steps as f64) as f32;
    let timesteps: Vec<f32> = (0..settings.steps).map(level).collect();
    let length = settings.window.unwrap_or(defaults.window);
    let kv = KvOptions { length, sinks: settings.sinks, policy: settings.kv };
    Ok(StreamOptions {
        kv: kv.checked().map_err(usage_because)?,
        steps: FewSteps::new(&timesteps, 1.0).map_err(usage_because)?,
        prediction: if defaults.predicts_sample { Prediction::Sample } else { Prediction::Velocity },
        mode: if settings.batch { Mode::Batch } else { Mode::Sequential },
        copy_first_chunk: false,
        clean_pass: false,
    })
}

/// The run that a plan belongs to. A stream has no last step: its plans repeat, and are made for a model, the steps a frame
/// and the way these are evaluated.
///
/// # Errors
/// Files of the model that can no longer be read.
pub(crate) fn run_header(settings: &Settings, pipeline: &RestylePipeline) -> anyhow::Result<RunHeader> {
    Ok(RunHeader {
        model: pipeline.fingerprint()?.to_owned(),
        sampler: if settings.batch { "stream-batch" } else { "stream" }.to_owned(),
        steps: settings.steps,
        guidance_scale: 1.0,
        dtype: settings.precision.to_string(),
    })
}
