//! How the endpoints' features are held, and what that takes, known before anything is inverted.

use std::fmt;
use std::str::FromStr;

use refrain_cache::Storage;

use crate::error::{MorphError, Result};
use crate::schedule::InjectionTable;

/// The rungs of the ladder, from exact and fast to frugal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rung {
    /// One depth group per step, exact.
    F32,
    /// The same rounded to bf16.
    Bf16,
    /// The same in 8 bits.
    Int8,
    /// 8 bits, and every second step only.
    Int8Stride2,
    /// Exact, in a temporary file.
    File,
    /// Nothing is kept but the endpoints' latents: their features are computed again for every batch of frames.
    Recompute,
}

impl Rung {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 6] = [Self::F32, Self::Bf16, Self::Int8, Self::Int8Stride2, Self::File, Self::Recompute];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int8Stride2 => "int8-stride2",
            Self::File => "file",
            Self::Recompute => "recompute",
        }
    }

    /// How features are stored on it; a recomputed step's are exact.
    pub fn storage(self) -> Storage {
        match self {
            Self::F32 | Self::Recompute => Storage::F32,
            Self::Bf16 => Storage::Bf16,
            Self::Int8 | Self::Int8Stride2 => Storage::Int8,
            Self::File => Storage::File,
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Rung {
    type Err = MorphError;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|rung| rung.name() == name).ok_or_else(|| MorphError::Setting {
            what: "cache storage",
            expected: Self::ALL.map(Self::name).join(", "),
            value: name.to_owned(),
        })
    }
}

/// What a run must remember.
#[derive(Clone, Copy)]
pub struct Need<'a> {
    /// What is injected.
    pub table: &'a InjectionTable,
    /// Values of a site's feature for one row.
    pub values: &'a dyn Fn(refrain_cache::Site) -> usize,
    /// Keyframes.
    pub endpoints: usize,
    /// Inversion steps.
    pub inversion_steps: usize,
    /// Values of the latents of one picture.
    pub latent_values: usize,
}

impl Need<'_> {
    /// Exact bytes of memory on a rung: of features, and of latents where these are kept to recompute from.
    pub fn bytes(&self, rung: Rung) -> usize {
        let of = |table: &InjectionTable| -> usize {
            table.reads().iter().map(|(_, site)| rung.storage().bytes((self.values)(*site))).sum::<usize>()
                * self.endpoints
        };
        match rung {
            Rung::F32 | Rung::Bf16 | Rung::Int8 | Rung::File => of(self.table),
            Rung::Int8Stride2 => of(&self.table.clone().thinned()),
            Rung::Recompute => {
                let step = |sites: &[refrain_cache::Site]| -> usize {
                    sites.iter().map(|site| rung.storage().bytes((self.values)(*site))).sum()
                };
                let largest = self.table.steps.iter().map(|entry| step(&entry.sites)).max().unwrap_or(0);
                2 * largest + 4 * self.latent_values * self.inversion_steps * self.endpoints
            }
        }
    }

    /// The first rung within `limit` bytes; without a limit the first of all.
    ///
    /// # Errors
    /// [`MorphError::Memory`] with the need of every rung.
    pub fn choose(&self, limit: Option<usize>) -> Result<Rung> {
        let Some(limit) = limit else { return Ok(Rung::F32) };
        let fits = |rung: &Rung| self.bytes(*rung) <= limit;
        Rung::ALL.into_iter().find(fits).ok_or_else(|| {
            let ladder: Vec<String> =
                Rung::ALL.iter().map(|rung| format!("{rung} needs {} bytes", self.bytes(*rung))).collect();
            MorphError::Memory { limit, ladder: ladder.join(", ") }
        })
    }
}
