//! A small random denoiser with every kind of site, and a sampling loop around it.

use candle_core::{Device, Result, Tensor};

use crate::{Branch, Context, Guard, Policy, RunHeader, Site, Step};

pub(super) const TOKENS: usize = 4;
pub(super) const WIDTH: usize = 8;

/// Blocks of attention, cross-attention and feed-forward, each a gated random nonlinear map.
pub(super) struct Toy {
    weights: Vec<[Tensor; 3]>,
    /// Whether the blocks lie inside two nested stages, as those of a U-Net do.
    staged: bool,
}

/// Numbers in [-1, 1) that a seed and a place decide.
pub(super) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    // The first numbers of close seeds are close: leave them out.
    (0..count + 8).map(|_| next()).skip(8).collect()
}

pub(super) fn latents(seed: u64) -> Tensor {
    Tensor::from_vec(numbers(seed + 77, TOKENS * WIDTH), (1, TOKENS, WIDTH), &Device::Cpu).unwrap()
}

impl Toy {
    pub(super) fn new(seed: u64, blocks: usize) -> Self {
        let weight = |seed| Tensor::from_vec(numbers(seed, WIDTH * WIDTH), (WIDTH, WIDTH), &Device::Cpu).unwrap();
        let block = |block: usize| std::array::from_fn(|part| weight(seed * 1000 + 3 * block as u64 + part as u64));
        Self { weights: (0..blocks).map(block).collect(), staged: false }
    }

    /// The same blocks inside stages 0 and 1.
    pub(super) fn staged(seed: u64, blocks: usize) -> Self {
        Self { staged: true, ..Self::new(seed, blocks) }
    }

    pub(super) fn blocks(&self) -> usize {
        self.weights.len()
    }

    fn part(&self, block: usize, part: usize, hidden: &Tensor, timestep: f32) -> Result<Tensor> {
        let mixed = hidden.broadcast_matmul(&self.weights[block][part])?;
        (mixed + f64::from(timestep))?.tanh()
    }

    fn gate(part: usize, timestep: f32) -> f64 {
        0.2 + 0.1 * part as f64 + 0.1 * f64::from(timestep)
    }

    fn block(&self, cx: &mut Context, block: usize, mut hidden: Tensor, timestep: f32) -> Result<Tensor> {
        let sites = [Site::attention(block), Site::cross_attention(block), Site::feed_forward(block)];
        for (part, site) in sites.into_iter().enumerate() {
            let value = cx.run(site, |_| self.part(block, part, &hidden, timestep))?;
            hidden = (hidden + (value * Self::gate(part, timestep))?)?;
        }
        Ok(hidden)
    }

    /// Through a context, as a model does it.
    pub(super) fn forward(&self, cx: &mut Context, input: &Tensor, timestep: f32) -> Result<Tensor> {
        cx.model(input, |cx| {
            let stack = |cx: &mut Context, hidden: &Tensor| {
                cx.blocks(self.blocks(), hidden.clone(), |cx, index, hidden| self.block(cx, index, hidden, timestep))
            };
            if !self.staged {
                return stack(cx, input)? - (input * 0.5)?;
            }
            let outer = cx.stage(0, input, |cx| {
                let skip = (input * f64::from(timestep).cos())?;
                let inner = cx.stage(1, &skip, |cx| stack(cx, &skip))?;
                inner + (input * 0.25)?
            })?;
            outer - (input * 0.5)?
        })
    }

    /// The same mathematics without any context.
    pub(super) fn forward_plain(&self, input: &Tensor, timestep: f32) -> Result<Tensor> {
        let mut hidden = if self.staged { (input * f64::from(timestep).cos())? } else { input.clone() };
        for block in 0..self.blocks() {
            for part in 0..3 {
                let value = self.part(block, part, &hidden, timestep)?;
                hidden = (hidden + (value * Self::gate(part, timestep))?)?;
            }
        }
        if self.staged {
            hidden = (hidden + (input * 0.25)?)?;
        }
        hidden - (input * 0.5)?
    }
}

pub(super) fn step(index: usize, count: usize) -> Step {
    let timestep = 1.0 - index as f32 / count.max(1) as f32;
    Step { index, count, timestep, sigma: timestep }
}

/// One Euler step of the toy's flow.
pub(super) fn advance(latents: &Tensor, output: &Tensor, count: usize) -> Tensor {
    (latents - (output * (0.5 / count as f64)).unwrap()).unwrap()
}

/// A run with one trajectory per branch, in turn at every step, on one context.
pub(super) fn sample(cx: &mut Context, toy: &Toy, steps: usize, branches: &[(Branch, u64)]) -> Vec<Vec<f32>> {
    sample_watched(cx, toy, steps, branches, |_| ())
}

pub(super) fn sample_watched(
    cx: &mut Context,
    toy: &Toy,
    steps: usize,
    branches: &[(Branch, u64)],
    mut watch: impl FnMut(&Context),
) -> Vec<Vec<f32>> {
    let mut states: Vec<Tensor> = branches.iter().map(|&(_, seed)| latents(seed)).collect();
    for index in 0..steps {
        let now = step(index, steps);
        cx.begin_step(now);
        for (state, &(branch, _)) in states.iter_mut().zip(branches) {
            cx.set_branch(branch);
            let output = toy.forward(cx, state, now.timestep).unwrap();
            *state = advance(state, &output, steps);
            watch(cx);
        }
        cx.end_step(&states[0]).unwrap();
        watch(cx);
    }
    states.iter().map(values).collect()
}

pub(super) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(super) fn header(steps: usize) -> RunHeader {
    RunHeader { model: "toy".into(), sampler: "euler".into(), steps, guidance_scale: 4.0, dtype: "f32".into() }
}

pub(super) fn context(policy: Box<dyn Policy>, steps: usize) -> Context {
    Context::new(policy, Guard::default(), header(steps)).unwrap()
}

/// A policy by its spelling.
pub(super) fn policy(text: &str) -> Box<dyn Policy> {
    crate::policies::parse(text).unwrap().policy()
}

/// One of each kind, with options that make each skip something on the toy.
pub(super) const SKIPPING: &[&str] = &[
    "interval:n=2",
    "interval:n=3+attention=2+feed-forward=1",
    "interval:n=1+model=2",
    "mask:ultra",
    "mask:ultra+keep=residual",
    "dbcache:threshold=10",
    "dbcache:threshold=10+fn=1+bn=1+max_consecutive=2+order=1",
    "dbcache:threshold=10+order=2+max_consecutive=1+warmup=3",
    "deepcache",
    "deepcache:n=2+branch=1",
    "deepcache:n=3+center=4",
    "taylor:n=2+order=0",
    "taylor:n=3",
    "taylor:n=3+order=2",
    "taylor:n=4+order=2+basis=newton+warmup=4",
    "easycache:threshold=10+start=0.2",
    "easycache:threshold=10+start=0.2+keep=output",
    "motion:spike=10",
    "motion:n=3+still=10+spike=20",
];
