//! Times matrix products on demand, for `benches/peers/products.py`, which runs a peer in turn.
//!
//! Each line of standard input is a command, each answered by one line:
//! `ceiling f32|bf16` (GFLOP/s), `layer ROWS INPUTS OUTPUTS PRECISION`, `run REPETITIONS` (seconds of each).
#![allow(missing_docs, reason = "an example has no users")]

#[path = "../benches/shared/ceiling.rs"]
mod ceiling;

use std::hint::black_box;
use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use candle_core::{Device, Result, Tensor, bail};
use refrain_ops::{Linear, Precision};

/// The binary's allocator: large results come and go at every product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn layer(rows: &str, inputs: &str, outputs: &str, precision: &str) -> Result<(Linear, Tensor)> {
    let number = |text: &str| text.parse::<usize>().map_err(candle_core::Error::wrap);
    let (rows, inputs, outputs) = (number(rows)?, number(inputs)?, number(outputs)?);
    let random = |shape: (usize, usize)| Tensor::randn(0f32, 1.0, shape, &Device::Cpu);
    let precision: Precision = precision.parse()?;
    let bias = Tensor::zeros(outputs, candle_core::DType::F32, &Device::Cpu)?;
    Ok((Linear::new(&random((outputs, inputs))?, Some(&bias), precision)?, random((rows, inputs))?))
}

fn run((layer, input): &(Linear, Tensor), repetitions: usize) -> Result<Vec<String>> {
    (0..repetitions)
        .map(|_| {
            let start = Instant::now();
            black_box(layer.forward(input)?);
            Ok(format!("{:.9}", start.elapsed().as_secs_f64()))
        })
        .collect()
}

fn main() -> Result<()> {
    refrain_ops::memory::keep_pages();
    let mut current = None;
    for line in stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["ceiling", name] => ceiling::measure(name == "bf16").map_or("none".to_owned(), |rate| rate.to_string()),
            ["layer", rows, inputs, outputs, precision] => {
                current = Some(layer(rows, inputs, outputs, precision)?);
                "ready".to_owned()
            }
            ["run", repetitions] => match &current {
                // Inside the pool, as the binary runs.
                Some(layer) => rayon::scope(|_| run(layer, repetitions.parse().unwrap_or(1)))?.join(" "),
                None => bail!("`run` before `layer`"),
            },
            _ => bail!("unknown command `{line}`"),
        };
        println!("{answer}");
        stdout().flush()?;
    }
    Ok(())
}
