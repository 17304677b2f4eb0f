//! What concerns the whole process: its log, its threads, and the machine it runs on.

use anyhow::Context as _;

use crate::arguments::Voice;
use crate::errors::{resources, usage};

/// More threads than any machine has are a typing error, and each costs memory.
const MOST_THREADS: usize = 4096;

/// Sends the libraries' log to stderr with `-vv`, or as `REFRAIN_LOG` says.
pub(crate) fn log(voice: Voice) {
    let filter = match std::env::var("REFRAIN_LOG") {
        Ok(filter) => filter,
        Err(_) if voice.verbose >= 2 => "refrain=debug".to_owned(),
        Err(_) => return,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .finish();
    // A second subscriber in one process is a programming error without harm to the user.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Settles the number of threads for the whole process; all libraries compute in this one pool.
///
/// # Errors
/// A number that makes no sense (exit 2), or threads that the system refuses.
pub(crate) fn set_threads(threads: Option<usize>) -> anyhow::Result<()> {
    let Some(threads) = threads else { return Ok(()) };
    if threads == 0 || threads > MOST_THREADS {
        return Err(usage(format!("--threads must be between 1 and {MOST_THREADS}, got {threads}")));
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("cannot start the threads")
}

/// Only the CPU is built in; everything else is refused before any work.
///
/// # Errors
/// Any device but `cpu` (exit 2).
pub(crate) fn check_device(device: Option<&str>) -> anyhow::Result<()> {
    match device {
        None | Some("cpu") => Ok(()),
        Some(other) => Err(usage(format!("--device {other}: this build computes on the cpu only; use --device cpu"))),
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Name of the processor, for people who compare figures.
pub(crate) fn processor() -> String {
    let named = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        text.lines().find_map(|line| {
            line.strip_prefix("model name").map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        })
    });
    named.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Refuses work that needs more memory than can be had, before it is begun: running out of it would end in a killed
/// process instead of a message.
///
/// # Errors
/// Too little memory (exit 3).
pub(crate) fn require_memory(needed: u64, what: &str) -> anyhow::Result<()> {
    match available_memory() {
        Some(available) if needed > available => {
            let (needed, available) = (indicatif::HumanBytes(needed), indicatif::HumanBytes(available));
            Err(resources(format!(
                "{what} needs about {needed} of memory, and {available} can be had: make it smaller"
            )))
        }
        _ => Ok(()),
    }
}

/// Bytes of memory that can still be had: what the kernel calls available, or less under a limit of the process.
/// `None` where the system does not say.
fn available_memory() -> Option<u64> {
    let kibibytes = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|value| value * 1024)
    };
    let free = kibibytes("/proc/meminfo", "MemAvailable:");
    let limit = std::fs::read_to_string("/proc/self/limits").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("Max address space"))?;
        line.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    let used = kibibytes("/proc/self/status", "VmSize:").unwrap_or(0);
    let left = limit.map(|limit| limit.saturating_sub(used));
    match (free, left) {
        (Some(free), Some(left)) => Some(free.min(left)),
        (free, left) => free.or(left),
    }
}

/// The most memory that the process ever held, in bytes; `None` where the system does not say.
pub(crate) fn peak_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// Does the work on a thread of the pool: a product that begins there need not wake the pool and wait for it, which
/// saves some microseconds at each of the thousands of products of a picture.
pub(crate) fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
