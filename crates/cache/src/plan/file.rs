//! `*.plan.safetensors`: the table as two tensors, the header as JSON in the metadata.
//!
//! | tensor | dtype | shape | content |
//! |---|---|---|---|
//! | `actions` | u8 | `[steps, sites]` | 0 absent, 1 compute, 2 reuse, 3 covered, 4–7 forecast from 1–4 values |
//! | `coefficients` | f32 | `[steps, sites, 4]` | a forecast's weights, newest value first; all else 0 |
//!
//! Metadata key `refrain.plan`: JSON with `version`, `header` and `sites`. There is one way to write
//! a plan; the reader refuses every other.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{MAX_CELLS, Plan, PlanHeader, Planned, invalid};
use crate::action::MAX_HISTORY;
use crate::{CacheError, Coefficients, Site};

const METADATA_KEY: &str = "refrain.plan";
const VERSION: u32 = 1;
/// Largest file: all cells with their coefficients, and a header.
const MAX_FILE: u64 = (MAX_CELLS * (1 + 4 * MAX_HISTORY) + MAX_HEADER) as u64;
/// Largest JSON header; 65 536 sites of 40 characters fit.
const MAX_HEADER: usize = 8 << 20;
const FORECAST: u8 = 4;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    version: u32,
    header: PlanHeader,
    sites: Vec<Site>,
}

impl Plan {
    /// Writes the plan to a temporary file beside `path` and renames it, so that no half-written
    /// plan is ever seen.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CacheError> {
        let bytes = self.to_bytes()?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let failed = |source: std::io::Error| CacheError::Io { path: path.to_path_buf(), source };
        let mut builder = tempfile::Builder::new();
        // A temporary file is private by default; a plan is made like any other file, under the umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.prefix(".plan-").tempfile_in(folder).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// If the file cannot be read, or is not exactly a plan.
    pub fn load(path: &Path) -> Result<Self, CacheError> {
        let failed = |source: std::io::Error| CacheError::Io { path: path.to_path_buf(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::from_bytes(&bytes).map_err(|error| match error {
            CacheError::BadPlan { reason, .. } => CacheError::BadPlan { path: path.to_path_buf(), reason },
            other => other,
        })
    }

    /// The plan as the bytes of a file; equal plans have equal bytes.
    ///
    /// # Errors
    /// If the table is too large for the format.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CacheError> {
        let metadata = Metadata { version: VERSION, header: self.header.clone(), sites: self.sites.clone() };
        let json = serde_json::to_string(&metadata).map_err(|error| invalid(error.to_string()))?;
        let (actions, coefficients) = encode(self);
        let (steps, sites) = (self.steps, self.sites.len());
        let bad = |error: safetensors::SafeTensorError| invalid(error.to_string());
        let actions = TensorView::new(Dtype::U8, vec![steps, sites], &actions).map_err(bad)?;
        let shape = vec![steps, sites, MAX_HISTORY];
        let coefficients = TensorView::new(Dtype::F32, shape, &coefficients).map_err(bad)?;
        let tensors = [("actions", actions), ("coefficients", coefficients)];
        safetensors::serialize(tensors, Some(HashMap::from([(METADATA_KEY.to_string(), json)]))).map_err(bad)
    }

    /// Reads the bytes of a plan file.
    ///
    /// # Errors
    /// [`CacheError::BadPlan`] if the bytes are not exactly a plan.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CacheError> {
        let file = open(bytes)?;
        let (_, raw) = SafeTensors::read_metadata(bytes).map_err(|error| invalid(clean(&error.to_string())))?;
        let json = raw.metadata().as_ref().and_then(|map| map.get(METADATA_KEY));
        let json = json.ok_or_else(|| invalid(format!("it has no metadata '{METADATA_KEY}'")))?;
        let metadata: Metadata =
            serde_json::from_str(json).map_err(|error| invalid(format!("header: {}", clean(&error.to_string()))))?;
        if metadata.version != VERSION {
            return Err(invalid(format!("format version {}, but this build reads {VERSION}", metadata.version)));
        }
        if file.len() != 2 {
            return Err(invalid(format!("{} tensors, expected actions and coefficients", file.len())));
        }
        let sites = metadata.sites.len();
        let actions = tensor(&file, "actions", Dtype::U8)?;
        let steps = actions.shape().first().copied().unwrap_or(0);
        expect_shape("actions", &actions, &[steps, sites])?;
        let coefficients = tensor(&file, "coefficients", Dtype::F32)?;
        expect_shape("coefficients", &coefficients, &[steps, sites, MAX_HISTORY])?;
        if !metadata.sites.is_sorted() {
            return Err(invalid("its sites are not sorted".to_string()));
        }
        let columns = decode(&metadata.sites, actions.data(), coefficients.data())?;
        Self::new(metadata.header, steps, &columns)
    }
}

/// Opens the container, with limits before anything is allocated.
fn open(bytes: &[u8]) -> Result<SafeTensors<'_>, CacheError> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(invalid(format!("larger than the largest plan, {MAX_FILE} bytes")));
    }
    let length = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    let length = length.ok_or_else(|| invalid("shorter than a safetensors header".to_string()))?;
    if length > MAX_HEADER as u64 {
        return Err(invalid(format!("header of {length} bytes, at most {MAX_HEADER} are read")));
    }
    SafeTensors::deserialize(bytes).map_err(|error| invalid(clean(&error.to_string())))
}

fn tensor<'a>(file: &SafeTensors<'a>, name: &str, dtype: Dtype) -> Result<TensorView<'a>, CacheError> {
    let view = file.tensor(name).map_err(|_| invalid(format!("tensor '{name}' is missing")))?;
    if view.dtype() == dtype {
        Ok(view)
    } else {
        Err(invalid(format!("tensor '{name}' has dtype {:?}, expected {dtype:?}", view.dtype())))
    }
}

fn expect_shape(name: &str, view: &TensorView<'_>, shape: &[usize]) -> Result<(), CacheError> {
    if view.shape() == shape {
        Ok(())
    } else {
        Err(invalid(format!("tensor '{name}' has shape {:?}, expected {shape:?}", view.shape())))
    }
}

/// Text of a foreign error, safe to print: one line, no control characters, not endless.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// The two tensors' bytes.
pub(super) fn encode(plan: &Plan) -> (Vec<u8>, Vec<u8>) {
    let mut actions = Vec::with_capacity(plan.table.len());
    let mut coefficients = Vec::with_capacity(plan.table.len() * MAX_HISTORY * 4);
    for action in &plan.table {
        let mut weights = [0f32; MAX_HISTORY];
        actions.push(match action {
            Planned::Absent => 0,
            Planned::Compute => 1,
            Planned::Reuse => 2,
            Planned::Covered => 3,
            Planned::Forecast(forecast) => {
                let slice = forecast.as_slice();
                weights.iter_mut().zip(slice).for_each(|(slot, weight)| *slot = *weight);
                FORECAST + slice.len() as u8 - 1
            }
        });
        weights.iter().for_each(|weight| coefficients.extend_from_slice(&weight.to_le_bytes()));
    }
    (actions, coefficients)
}

/// Columns of a table. `actions` and `coefficients` have the lengths of their checked shapes.
fn decode(sites: &[Site], actions: &[u8], coefficients: &[u8]) -> Result<Vec<(Site, Vec<Planned>)>, CacheError> {
    let mut columns: Vec<(Site, Vec<Planned>)> = sites.iter().map(|&site| (site, Vec::new())).collect();
    if sites.is_empty() {
        return Ok(columns);
    }
    let cells = actions.iter().zip(coefficients.chunks_exact(4 * MAX_HISTORY));
    for (cell, (&code, weights)) in cells.enumerate() {
        let Some(column) = columns.get_mut(cell % sites.len()) else { continue };
        let action = decode_cell(code, weights)
            .ok_or_else(|| invalid(format!("site {} at step {}: no such action", column.0, cell / sites.len())))?;
        column.1.push(action);
    }
    Ok(columns)
}

fn decode_cell(code: u8, weights: &[u8]) -> Option<Planned> {
    let weights: Vec<f32> =
        weights.chunks_exact(4).filter_map(|bytes| bytes.try_into().ok().map(f32::from_le_bytes)).collect();
    let count = (usize::from(code) + 1).saturating_sub(usize::from(FORECAST));
    let (used, unused) = weights.split_at_checked(count)?;
    if unused.iter().any(|weight| weight.to_bits() != 0) {
        return None;
    }
    match code {
        0 => Some(Planned::Absent),
        1 => Some(Planned::Compute),
        2 => Some(Planned::Reuse),
        3 => Some(Planned::Covered),
        _ => Coefficients::new(used).map(Planned::Forecast),
    }
}
