//! Router training differentiates whole models with frozen weights: the gradient must reach the latents, and be right.

mod support;

use candle_core::{Tensor, Var};
use refrain_cache::Context;
use refrain_pipeline::{ImageRequest, Pipeline};
use refrain_samplers::noise::counter;
use support::{TestResult, fixture, load};

/// The gradient against a central difference along a random direction.
fn gradient_is_right(pipeline: &Pipeline, shape: &[usize]) -> TestResult {
    let request = ImageRequest { prompt: "cat".to_owned(), class_label: Some(1), ..ImageRequest::default() };
    let conditions = pipeline.conditions(&request)?;
    let (latents, weights, direction) = (counter(1, shape)?, counter(2, shape)?, counter(3, shape)?);
    let objective = |latents: &Tensor| -> candle_core::Result<Tensor> {
        let output = pipeline.denoiser().denoise(&mut Context::off(), latents, &[300.0], &conditions)?;
        (output * &weights)?.sum_all()
    };
    let variable = Var::from_tensor(&latents)?;
    let gradients = objective(variable.as_tensor())?.backward()?;
    let gradient = gradients.get(variable.as_tensor()).ok_or("the gradient does not reach the latents")?;
    let slope: f32 = (gradient * &direction)?.sum_all()?.to_scalar()?;

    const STEP: f64 = 2e-2;
    let value = |sign: f64| -> candle_core::Result<f32> {
        objective(&(&latents + (&direction * (sign * STEP))?)?)?.to_scalar()
    };
    let difference = (value(1.0)? - value(-1.0)?) / (2.0 * STEP as f32);
    let error = (slope - difference).abs() / slope.abs().max(1.0);
    assert!(slope.is_finite() && slope != 0.0 && error < 2e-2, "slope {slope}, by difference {difference}");
    Ok(())
}

#[test]
fn pixart_is_differentiable() -> TestResult {
    gradient_is_right(&load(&fixture("pixart-patch1"))?, &[2, 3, 4, 6])
}

#[test]
fn unets_are_differentiable() -> TestResult {
    gradient_is_right(&load(&fixture("unet-epsilon"))?, &[2, 4, 8, 8])?;
    // A square: candle's gradient of a halving convolution takes the height's remainder for the width's as well.
    gradient_is_right(&load(&fixture("unet-odd"))?, &[2, 3, 11, 11])
}

#[test]
fn dit_is_differentiable() -> TestResult {
    gradient_is_right(&load(&fixture("dit-learned-sigma"))?, &[2, 4, 8, 8])
}
