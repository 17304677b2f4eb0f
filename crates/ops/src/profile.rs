//! Where the time of an evaluation goes.
//!
//! Off, an operation reads one flag. On ([`start`]), the time of each operation is added up by its kind on the thread that
//! called it, threads that help included by their waiting: so the shares of one sampling thread add up to its own time.
//! What no operation of this crate accounts for (reshaping, tables, the sampler) is the rest of the wall time.
//!
//! A guided step of DiT-XL/2 at 256x256 in bf16 (2-core AMD Zen 3, 2026-11-25): 92.2 % matrix products, 6.2 % attention,
//! 0.5 % norms, 0.9 % pointwise, 0.3 % the rest (`benches/peers/inside.py`, table in `benches/peers/results/inside.md`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What an operation spends its time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Matrix products of linear layers, with what is fused into their ends.
    Product,
    /// Convolutions, with what is fused into their ends.
    Convolution,
    /// Attention: two products with a softmax between them.
    Attention,
    /// Norms, with what is fused into them.
    Norm,
    /// Sums, gates, activations, rotations.
    Pointwise,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Product, Self::Convolution, Self::Attention, Self::Norm, Self::Pointwise];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Product => "matrix products",
            Self::Convolution => "convolutions",
            Self::Attention => "attention",
            Self::Norm => "norms",
            Self::Pointwise => "pointwise",
        }
    }
}

/// Calls and time of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which operations.
    pub kind: Kind,
    /// How often.
    pub calls: u64,
    /// How long, together.
    pub time: Duration,
}

static ON: AtomicBool = AtomicBool::new(false);
static CALLS: [AtomicU64; Kind::ALL.len()] = [const { AtomicU64::new(0) }; Kind::ALL.len()];
static NANOSECONDS: [AtomicU64; Kind::ALL.len()] = [const { AtomicU64::new(0) }; Kind::ALL.len()];

/// Begins to add up, from zero.
pub fn start() {
    for counter in CALLS.iter().chain(&NANOSECONDS) {
        counter.store(0, Ordering::Relaxed);
    }
    ON.store(true, Ordering::Relaxed);
}

/// Ends it and gives what was added up, one entry for each kind.
pub fn stop() -> [Share; Kind::ALL.len()] {
    ON.store(false, Ordering::Relaxed);
    Kind::ALL.map(|kind| Share {
        kind,
        calls: CALLS[kind as usize].load(Ordering::Relaxed),
        time: Duration::from_nanos(NANOSECONDS[kind as usize].load(Ordering::Relaxed)),
    })
}

/// Adds the time until it is dropped to a kind.
pub(crate) struct Timed(Option<(Kind, Instant)>);

/// Begins an operation. Operations within operations are not timed apart: only the outermost calls this.
pub(crate) fn timed(kind: Kind) -> Timed {
    Timed(ON.load(Ordering::Relaxed).then(|| (kind, Instant::now())))
}

impl Drop for Timed {
    fn drop(&mut self) {
        if let Some((kind, start)) = self.0.take() {
            CALLS[kind as usize].fetch_add(1, Ordering::Relaxed);
            let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            NANOSECONDS[kind as usize].fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happens_in_between_counts() {
        drop(timed(Kind::Norm));
        start();
        for _ in 0..3 {
            drop(timed(Kind::Norm));
        }
        let shares = stop();
        drop(timed(Kind::Norm));
        // Other tests may run operations meanwhile.
        assert!(shares[Kind::Norm as usize].calls >= 3);
        assert_eq!(shares.map(|share| share.kind), Kind::ALL);
        assert_eq!(stop()[Kind::Norm as usize].calls, shares[Kind::Norm as usize].calls);
    }
}
