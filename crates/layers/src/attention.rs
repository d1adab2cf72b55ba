//! Attention.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor};

/// The most scores that exist at a time, over all samples and heads: 32 MB in f32.
///
/// All 4096 by 4096 scores of eight heads, which a picture of 512 by 512 asks for, would be 512 MB.
const MAX_SCORES: usize = 1 << 23;

/// `softmax(Q Kᵀ / √d) V`: every query reads a mean of the values, weighted by how well their keys fit.
///
/// The queries are taken in blocks, so that memory grows with their number and not with the number of scores. A row of
/// the softmax depends on its own query alone: blocks change nothing.
///
/// # Shapes
///
/// - q: `[batch, heads, queries, d]`
/// - k: `[batch or 1, heads, keys, d]`
/// - v: `[batch or 1, heads, keys, d_value]`
/// - returns: `[batch, heads, queries, d_value]`
///
/// # Panics
///
/// If the shapes do not go together.
///
/// "Attention Is All You Need", Vaswani et al., 2017, arXiv:1706.03762, equation 1.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    blocks(q, k, v, |scores, _| scores)
}

/// [`attention`] in which a query reads no value behind its own place, as in a text encoder.
///
/// # Shapes
///
/// - q, k: `[batch, heads, n, d]`
/// - v: `[batch, heads, n, d_value]`
/// - returns: `[batch, heads, n, d_value]`
///
/// # Panics
///
/// If the shapes do not go together.
pub fn causal_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let device = q.device();
    let [_, _, n, _] = q.dims();
    assert_eq!(n, k.dims()[2], "a query needs a key at its own place");
    blocks(q, k, v, |scores, start| {
        let [_, _, rows, keys] = scores.dims();
        // True above the diagonal, which lies `start` places to the right in a later block.
        let later =
            Tensor::<2, Bool>::triu_mask([rows, keys], start.cast_signed() as i64 + 1, &device);
        scores.mask_fill(later.bool_not().unsqueeze(), f32::NEG_INFINITY)
    })
}

/// Attention block by block of queries; `mask` changes a block's scores, and is told where the block begins.
fn blocks(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: impl Fn(Tensor<4>, usize) -> Tensor<4>,
) -> Tensor<4> {
    let [batch, heads, queries, d] = q.dims();
    let [k_batch, k_heads, keys, k_d] = k.dims();
    let [v_batch, v_heads, v_keys, _] = v.dims();
    assert!(
        (k_batch == batch || k_batch == 1)
            && v_batch == k_batch
            && [k_heads, k_d] == [heads, d]
            && [v_heads, v_keys] == [heads, keys],
        "queries {:?}, keys {:?} and values {:?} do not go together",
        q.dims(),
        k.dims(),
        v.dims()
    );
    // Scaling the queries costs less than scaling the scores.
    let q = q.mul_scalar(1.0 / (d as f64).sqrt());
    let k = k.swap_dims(2, 3);
    let attend = move |q: Tensor<4>, start: usize| {
        softmax(mask(q.matmul(k.clone()), start), 3).matmul(v.clone())
    };
    let rows = (MAX_SCORES / (batch * heads * keys).max(1)).max(1);
    if rows >= queries {
        return attend(q, 0);
    }
    let blocks = (0..queries).step_by(rows).map(|start| {
        let block = q.clone().narrow(2, start, rows.min(queries - start));
        attend(block, start)
    });
    Tensor::cat(blocks.collect(), 2)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    /// The definition in f64, one query at a time.
    fn expected(
        q: &Tensor<4>,
        k: &Tensor<4>,
        v: &Tensor<4>,
        reads: impl Fn(usize, usize) -> bool,
    ) -> Vec<f64> {
        let [batch, heads, queries, d] = q.dims();
        let [_, _, keys, d_value] = v.dims();
        let host = |x: &Tensor<4>| -> Vec<f32> {
            let x = x.clone().into_data();
            x.try_to_vec().expect("f32")
        };
        let (q, k, v) = (host(q), host(k), host(v));
        let mut out = Vec::new();
        for head in 0..batch * heads {
            for i in 0..queries {
                let weights: Vec<f64> = (0..keys)
                    .map(|j| {
                        let dot: f64 = (0..d)
                            .map(|c| {
                                f64::from(q[(head * queries + i) * d + c])
                                    * f64::from(k[(head * keys + j) * d + c])
                            })
                            .sum();
                        if reads(i, j) {
                            (dot / (d as f64).sqrt()).exp()
                        } else {
                            0.0
                        }
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                out.extend((0..d_value).map(|c| {
                    (0..keys)
                        .map(|j| weights[j] / sum * f64::from(v[(head * keys + j) * d_value + c]))
                        .sum::<f64>()
                }));
            }
        }
        out
    }

    fn assert_near(found: Tensor<4>, expected: &[f64]) {
        let found: Vec<f32> = found.into_data().try_to_vec().expect("f32");
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            // f32, sums of a few dozen terms of order one.
            assert!(
                (f64::from(*found) - expected).abs() < 5e-6,
                "{found} {expected}"
            );
        }
    }

    fn random(shape: [usize; 4]) -> Tensor<4> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    #[test]
    fn it_is_a_mean_weighted_by_fit() {
        let (q, k, v) = (
            random([2, 3, 5, 4]),
            random([2, 3, 7, 4]),
            random([2, 3, 7, 6]),
        );
        let expected = expected(&q, &k, &v, |_, _| true);
        assert_near(attention(q, k, v), &expected);
    }

    #[test]
    fn nothing_reads_what_comes_later() {
        let (q, k, v) = (
            random([2, 2, 9, 4]),
            random([2, 2, 9, 4]),
            random([2, 2, 9, 4]),
        );
        let expected = expected(&q, &k, &v, |i, j| j <= i);
        assert_near(causal_attention(q, k, v), &expected);
    }

    #[test]
    fn many_queries_go_in_blocks() {
        // 3000² scores are more than fit at once; the last block is not a whole one.
        let n = 3000;
        assert!(n * n > MAX_SCORES && !n.is_multiple_of(MAX_SCORES / n));
        let (q, k, v) = (
            random([1, 1, n, 2]),
            random([1, 1, n, 2]),
            random([1, 1, n, 1]),
        );
        for (found, expected) in [
            (
                attention(q.clone(), k.clone(), v.clone()),
                expected(&q, &k, &v, |_, _| true),
            ),
            (
                causal_attention(q.clone(), k.clone(), v.clone()),
                expected(&q, &k, &v, |i, j| j <= i),
            ),
        ] {
            assert_near(found, &expected);
        }
    }

    #[test]
    fn one_set_of_keys_serves_all_samples() {
        let (q, k, v) = (
            random([3, 2, 5, 4]),
            random([1, 2, 7, 4]),
            random([1, 2, 7, 4]),
        );
        let all = |x: &Tensor<4>| Tensor::cat(vec![x.clone(); 3], 0);
        let expected = expected(&q, &all(&k), &all(&v), |_, _| true);
        assert_near(attention(q, k, v), &expected);
    }
}
