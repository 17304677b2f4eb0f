//! Rotary position embedding (arXiv 2104.09864) of tokens that lie in groups: video tokens in frames.

use candle_core::{D, Result, Tensor};

use crate::differentiable::{Values, is_plain, tied};
use crate::norm::by_rows;
use crate::profile::{self, Kind};
use crate::types::OpsError;

/// Turns neighbouring pairs of every head by angles that depend on the token's group, then on its place in the group.
///
/// `input` is `[groups, tokens, heads·d]`. `by_group` `[groups, p, 2]` holds cosine and sine of the first `p` pairs of a
/// head (`[1, p, 2]` serves all groups), `by_token` `[tokens, d/2 - p, 2]` those of the remaining ones. A video's groups
/// are its latent frames: their pairs tell the time, the others row and column.
///
/// # Errors
/// When shapes disagree, or the pairs of both tables do not make up heads of even width.
pub fn rotate_pairs(input: &Tensor, by_group: &Tensor, by_token: &Tensor) -> Result<Tensor> {
    let sizes = Sizes::of(input, by_group, by_token)?;
    if ![input, by_group, by_token].into_iter().all(is_plain) {
        return rotate_pairs_reference(input, by_group, by_token);
    }
    let (plain, groups, tokens) = (input.contiguous()?, by_group.contiguous()?, by_token.contiguous()?);
    let output = {
        let (values, groups, tokens) = (Values::of(&plain)?, Values::of(&groups)?, Values::of(&tokens)?);
        let (first, second) = (2 * sizes.by_group, 2 * sizes.by_token);
        let _timed = profile::timed(Kind::Pointwise);
        by_rows(&values, sizes.width, |row, input, output| {
            let group = if sizes.one_group { 0 } else { row / sizes.tokens };
            let angles = (&groups[group * first..][..first], &tokens[row % sizes.tokens * second..][..second]);
            rotate_row(input, output, angles);
        })
    };
    let tables = (by_group.clone(), by_token.clone());
    tied(output, input.shape(), &[input], move |inputs| rotate_pairs_reference(&inputs[0], &tables.0, &tables.1))
}

/// One token: every head in turn.
fn rotate_row(input: &[f32], output: &mut [f32], (first, second): (&[f32], &[f32])) {
    let head = first.len() + second.len();
    for (input, output) in input.chunks_exact(head).zip(output.chunks_exact_mut(head)) {
        let angles = first.as_chunks::<2>().0.iter().chain(second.as_chunks::<2>().0);
        let pairs = input.as_chunks::<2>().0.iter().zip(output.as_chunks_mut::<2>().0);
        for (([real, imaginary], turned), [cosine, sine]) in pairs.zip(angles) {
            *turned = [real * cosine - imaginary * sine, real * sine + imaginary * cosine];
        }
    }
}

struct Sizes {
    width: usize,
    tokens: usize,
    by_group: usize,
    by_token: usize,
    one_group: bool,
}

impl Sizes {
    fn of(input: &Tensor, by_group: &Tensor, by_token: &Tensor) -> Result<Self> {
        let (groups, tokens, width) = input.dims3()?;
        let ((table_groups, first, two), (table_tokens, second, also_two)) = (by_group.dims3()?, by_token.dims3()?);
        let head = 2 * (first + second);
        let wrong = |argument, tensor: &Tensor, expected: String| {
            Err(OpsError::Shape { operation: "rotation", argument, found: tensor.dims().to_vec(), expected }.into())
        };
        if two != 2 || (table_groups != groups && table_groups != 1) {
            return wrong("table by group", by_group, format!("[{groups} or 1, pairs, 2]"));
        }
        if also_two != 2 || table_tokens != tokens {
            return wrong("table by token", by_token, format!("[{tokens}, pairs, 2]"));
        }
        if head == 0 || !width.is_multiple_of(head) {
            return wrong("input", input, format!("[groups, tokens, heads · {head}]"));
        }
        Ok(Self { width, tokens, by_group: first, by_token: second, one_group: table_groups == 1 })
    }
}

/// The plain twin of [`rotate_pairs`].
///
/// # Errors
/// As [`rotate_pairs`].
pub fn rotate_pairs_reference(input: &Tensor, by_group: &Tensor, by_token: &Tensor) -> Result<Tensor> {
    let sizes = Sizes::of(input, by_group, by_token)?;
    let (groups, tokens, width) = input.dims3()?;
    let pairs = sizes.by_group + sizes.by_token;
    let first = by_group.unsqueeze(1)?.broadcast_as((groups, tokens, sizes.by_group, 2))?;
    let second = by_token.unsqueeze(0)?.broadcast_as((groups, tokens, sizes.by_token, 2))?;
    let angles = Tensor::cat(&[first, second], 2)?.unsqueeze(2)?;
    let halves = input.reshape((groups, tokens, width / (2 * pairs), pairs, 2))?;
    let (real, imaginary) = (halves.narrow(D::Minus1, 0, 1)?, halves.narrow(D::Minus1, 1, 1)?);
    let (cosine, sine) = (angles.narrow(D::Minus1, 0, 1)?, angles.narrow(D::Minus1, 1, 1)?);
    let turned_real = (real.broadcast_mul(&cosine)? - imaginary.broadcast_mul(&sine)?)?;
    let turned_imaginary = (real.broadcast_mul(&sine)? + imaginary.broadcast_mul(&cosine)?)?;
    Tensor::cat(&[turned_real, turned_imaginary], 4)?.reshape((groups, tokens, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn random(shape: &[usize]) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn agrees_with_its_twin() {
        for (groups, tokens, heads, first, second) in [(3, 4, 2, 1, 2), (1, 5, 1, 0, 3), (2, 1, 3, 2, 0)] {
            let input = random(&[groups, tokens, heads * 2 * (first + second)]);
            for table_groups in [1, groups] {
                let (by_group, by_token) = (random(&[table_groups, first, 2]), random(&[tokens, second, 2]));
                let fast = rotate_pairs(&input, &by_group, &by_token).unwrap();
                let plain = rotate_pairs_reference(&input, &by_group, &by_token).unwrap();
                assert!(crate::relative_l2(&plain, &fast).unwrap() < 1e-6);
            }
        }
    }

    #[test]
    fn a_quarter_turn_swaps_the_pair() {
        let device = &Device::Cpu;
        let input = Tensor::new(&[[[3f32, 4.0, 5.0, 6.0]]], device).unwrap();
        let (quarter, none) = (Tensor::new(&[[[0f32, 1.0]]], device), Tensor::new(&[[[1f32, 0.0]]], device));
        let turned = rotate_pairs(&input, &quarter.unwrap(), &none.unwrap()).unwrap();
        assert_eq!(turned.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [-4.0, 3.0, 5.0, 6.0]);
    }

    #[test]
    fn crooked_tables_are_refused() {
        let input = random(&[2, 3, 8]);
        for (by_group, by_token) in [([2, 1, 2], [3, 2, 2]), ([3, 2, 2], [3, 2, 2]), ([2, 2, 2], [4, 2, 2])] {
            assert!(rotate_pairs(&input, &random(&by_group), &random(&by_token)).is_err());
        }
    }
}
