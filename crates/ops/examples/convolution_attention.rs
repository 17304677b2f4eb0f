//! Times convolutions and attentions on demand, for `benches/peers/convolution_attention.py`, which runs a peer in turn.
//!
//! Each line of standard input is a command, each answered by one line: `ceiling f32|bf16` (GFLOP/s),
//! `convolution BATCH IN OUT SIZE KERNEL STRIDE UPSAMPLED PRECISION`, `attention BATCH HEADS WIDTH QUERIES KEYS PRECISION`,
//! `group_norm BATCH CHANNELS SIZE GROUPS`, `layer_norm BATCH ROWS COLUMNS`, `gelu ROWS COLUMNS`,
//! `run REPETITIONS` (seconds of each).
#![allow(missing_docs, reason = "an example has no users")]

#[path = "../benches/shared/ceiling.rs"]
mod ceiling;

use std::hint::black_box;
use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use candle_core::{Device, Result, Tensor, bail};
use refrain_ops::{Activation, AttentionOptions, Conv2d, GroupNorm, Precision};

/// The binary's allocator: large results come and go at every operation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Operation = Box<dyn Fn() -> Result<Tensor> + Send + Sync>;

fn random(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

fn operation(words: &[&str]) -> Result<Operation> {
    let (name, numbers) = words.split_first().unwrap_or((&"", &[]));
    let precision: Precision = words.last().and_then(|word| word.parse().ok()).unwrap_or_default();
    let numbers: Vec<usize> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
    Ok(match (*name, &numbers[..]) {
        ("convolution", &[batch, input, out, size, kernel, stride, upsampled]) => {
            let (weight, bias) = (random(&[out, input, kernel, kernel])?, random(&[out])?);
            let layer = Conv2d::new(&weight, Some(&bias), stride, kernel / 2, precision)?;
            let picture = random(&[batch, input, size, size])?;
            Box::new(move || if upsampled == 1 { layer.forward_upsampled(&picture) } else { layer.forward(&picture) })
        }
        ("attention", &[batch, heads, width, queries, keys]) => {
            let query = random(&[batch, queries, heads * width])?;
            let (key, value) = (random(&[batch, keys, heads * width])?, random(&[batch, keys, heads * width])?);
            let options = AttentionOptions::new(heads).with_precision(precision);
            Box::new(move || refrain_ops::attention(&query, &key, &value, None, &options))
        }
        ("group_norm", &[batch, channels, size, groups]) => {
            let norm = GroupNorm::new(groups, &random(&[channels])?, &random(&[channels])?, 1e-5)?;
            let picture = random(&[batch, channels, size, size])?;
            Box::new(move || norm.forward(&picture, Activation::Silu))
        }
        ("layer_norm", &[batch, rows, columns]) => {
            let (input, shift) = (random(&[batch, rows, columns])?, random(&[batch, columns])?);
            Box::new(move || refrain_ops::layer_norm_modulate(&input, &shift, &shift, 1e-6))
        }
        ("gelu", &[rows, columns]) => {
            let input = random(&[rows, columns])?;
            Box::new(move || refrain_ops::gelu_tanh(&input))
        }
        _ => bail!("unknown operation {words:?}"),
    })
}

fn run(operation: &Operation, repetitions: usize) -> Result<Vec<String>> {
    (0..repetitions)
        .map(|_| {
            let start = Instant::now();
            black_box(operation()?);
            Ok(format!("{:.9}", start.elapsed().as_secs_f64()))
        })
        .collect()
}

fn main() -> Result<()> {
    refrain_ops::memory::keep_pages();
    let mut current = None;
    for line in stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["ceiling", name] => ceiling::measure(name == "bf16").map_or("none".to_owned(), |rate| rate.to_string()),
            ["run", repetitions] => match &current {
                // Inside the pool, as the binary runs.
                Some(operation) => rayon::scope(|_| run(operation, repetitions.parse().unwrap_or(1)))?.join(" "),
                None => bail!("`run` before an operation"),
            },
            _ => {
                current = Some(operation(&words)?);
                "ready".to_owned()
            }
        };
        println!("{answer}");
        stdout().flush()?;
    }
    Ok(())
}
