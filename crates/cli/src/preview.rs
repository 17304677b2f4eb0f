//! Pictures of a picture that is still forming: every k steps, in the terminal and in a file.
//!
//! Shown is the sampler's estimate of the clean picture, not the noisy latents: it means something from the first step.

use std::io::{self, Write as _};
use std::path::PathBuf;

use candle_core::Tensor;
use refrain_media::terminal::{self, Bounds, Protocol};
use refrain_media::{Picture, save_picture};

use crate::errors::usage;
use crate::events::Console;
use crate::progress::Progress;
use crate::projection::LatentProjection;

/// Smallest side of a preview file: latents are tiny.
const SMALLEST_SIDE: u32 = 128;

/// How latents become a preview.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreviewMode {
    /// Linear projection of the latents.
    Projection,
    /// The autoencoder.
    Autoencoder,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct PreviewRequest {
    pub(crate) mode: PreviewMode,
    /// Steps between two previews.
    pub(crate) interval: usize,
    /// File to keep the latest preview in.
    pub(crate) path: Option<PathBuf>,
}

impl PreviewRequest {
    /// Reads the flags; `None` when there is nothing to show or nowhere to show it.
    ///
    /// # Errors
    /// An interval of 0, a file that is no PNG, or a place to show without something to show (exit 2).
    pub(crate) fn parse(
        mode: Option<&str>,
        interval: Option<usize>,
        path: Option<PathBuf>,
    ) -> anyhow::Result<Option<Self>> {
        let mode = match mode.unwrap_or("none") {
            "none" if path.is_some() || interval.is_some() => {
                return Err(usage("--preview-path and --preview-interval need --preview proj or --preview vae"));
            }
            "none" => return Ok(None),
            "vae" => PreviewMode::Autoencoder,
            _ => PreviewMode::Projection,
        };
        let interval = interval.unwrap_or(1);
        if interval == 0 {
            return Err(usage("--preview-interval must be at least 1"));
        }
        if let Some(path) = &path
            && path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("png"))
        {
            return Err(usage(format!("--preview-path {}: name a .png file", path.display())));
        }
        Ok(Some(Self { mode, interval, path }))
    }
}

/// Shows previews of one picture.
pub(crate) struct Previewer {
    request: PreviewRequest,
    protocol: Protocol,
    projection: Option<LatentProjection>,
    shown: usize,
    rows_shown: u32,
}

impl Previewer {
    /// A previewer; the terminal is used when stderr is one.
    pub(crate) fn new(request: PreviewRequest, console: &Console) -> Self {
        let protocol =
            if console.wants_progress() { terminal::detect(|name| std::env::var(name).ok()) } else { Protocol::None };
        Self { request, protocol, projection: None, shown: 0, rows_shown: 0 }
    }

    /// Whether a preview is due behind step `index` (from 0) of `count`; the last one is left to the picture itself.
    pub(crate) fn is_due(&self, index: usize, count: usize) -> bool {
        (index + 1).is_multiple_of(self.request.interval) && index + 1 < count
    }

    /// Shows the estimate `denoised` `[1, c, h, w]`; `decode` is the autoencoder, to `[1, 3, H, W]` in 0..1. Gives the
    /// file written.
    ///
    /// # Errors
    /// What decoding or the disk says.
    pub(crate) fn show(
        &mut self,
        denoised: &Tensor,
        decode: &dyn Fn(&Tensor) -> anyhow::Result<Tensor>,
        progress: &Progress,
    ) -> anyhow::Result<Option<PathBuf>> {
        let picture = match self.request.mode {
            PreviewMode::Autoencoder => picture_of(&decode(denoised)?)?,
            PreviewMode::Projection => {
                self.shown += 1;
                match self.projection.as_mut() {
                    None => self.projection = Some(LatentProjection::fit(denoised, &decode(denoised)?)?),
                    // The fit is refreshed at the 2nd, 4th, 8th, … preview, as the picture gains detail.
                    Some(projection) if self.shown.is_power_of_two() => {
                        projection.learn(denoised, &decode(denoised)?)?
                    }
                    Some(_) => {}
                }
                let projection = self.projection.as_ref().ok_or_else(|| anyhow::anyhow!("no projection"))?;
                projection.picture(denoised)?
            }
        };
        if let Some(path) = &self.request.path {
            save_picture(path, &enlarged(&picture))?;
        }
        self.print(&picture, progress)?;
        Ok(self.request.path.clone())
    }

    fn print(&mut self, picture: &Picture, progress: &Progress) -> anyhow::Result<()> {
        if self.protocol == Protocol::None {
            return Ok(());
        }
        let preview = terminal::render(&enlarged(picture), self.protocol, Bounds::default())?;
        progress.suspended(|| {
            let mut stderr = io::stderr().lock();
            if self.rows_shown > 0 {
                // Over the previous one: up by its lines, to the first column.
                let _ = write!(stderr, "\x1b[{}A\r", self.rows_shown);
            }
            let _ = stderr.write_all(&preview.bytes).and_then(|()| stderr.flush());
        });
        self.rows_shown = preview.rows;
        Ok(())
    }
}

/// A decoded picture `[1, 3, H, W]` in 0..1 as pixels.
///
/// # Errors
/// Another shape.
pub(crate) fn picture_of(image: &Tensor) -> anyhow::Result<Picture> {
    let (_, _, height, width) = image.dims4()?;
    let values = image.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(Picture::from_planar_unit(u32::try_from(width)?, u32::try_from(height)?, &values)?)
}

/// Latent pixels as squares that can be seen.
fn enlarged(picture: &Picture) -> Picture {
    let smaller = picture.width().min(picture.height());
    let factor = SMALLEST_SIDE.div_ceil(smaller.max(1)).max(1);
    picture.resized(picture.width() * factor, picture.height() * factor)
}
