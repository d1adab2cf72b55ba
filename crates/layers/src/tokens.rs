//! What packed transformers compute on.

use burn::tensor::{Device, Tensor};

use crate::kernel::{self, Heads, Level};
use crate::parameter::{tensor, values};

/// Vectors of features, `[batch, n, features]`, on the CPU.
///
/// Between the layers of a packed transformer they are lent and written over, where a tensor that is read and kept has to
/// be copied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    pub(crate) values: Vec<f32>,
    dims: [usize; 3],
}

impl Tokens {
    /// Zeros.
    pub fn zeros(dims: [usize; 3]) -> Self {
        Self {
            values: vec![0.0; dims.iter().product()],
            dims,
        }
    }

    /// As many tokens, of so many features, all zero.
    #[must_use]
    pub fn with_features(&self, features: usize) -> Self {
        let [batch, n, _] = self.dims;
        Self::zeros([batch, n, features])
    }

    /// `[batch, n, features]`.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Becomes `a + b`, row by row; one row of either goes with all of the other's.
    ///
    /// # Shapes
    ///
    /// - a, b: `[1, rows or 1, features]`
    ///
    /// # Panics
    ///
    /// If the shapes do not go together.
    pub fn sum(&mut self, a: &Self, b: &Self) {
        let ([_, of_a, features], [_, of_b, _]) = (a.dims, b.dims);
        let rows = of_a.max(of_b);
        assert!(
            a.dims == [1, of_a, features]
                && b.dims == [1, of_b, features]
                && [of_a, of_b].iter().all(|&it| it == rows || it == 1),
            "tokens {:?} and {:?} do not add up",
            a.dims,
            b.dims
        );
        self.resize([1, rows, features]);
        for (index, to) in self.values.chunks_exact_mut(features.max(1)).enumerate() {
            let [a, b] = [a, b].map(|it| {
                let row = if it.dims[1] == 1 { 0 } else { index };
                &it.values[row * features..][..features]
            });
            for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
                *to = a + b;
            }
        }
    }

    /// Becomes several's rows, one after the other.
    ///
    /// # Panics
    ///
    /// If their features differ.
    pub fn stack<'a>(&mut self, all: impl IntoIterator<Item = &'a Self>) {
        self.values.clear();
        let (mut rows, mut features) = (0, None);
        for it in all {
            let [batch, n, width] = it.dims;
            assert_eq!(
                *features.get_or_insert(width),
                width,
                "rows of other features"
            );
            rows += batch * n;
            self.values.extend_from_slice(&it.values);
        }
        self.dims = [1, rows, features.unwrap_or(0)];
    }

    /// The values, row-major.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Takes a shape; what the values are is not known then.
    pub(crate) fn resize(&mut self, dims: [usize; 3]) {
        self.dims = dims;
        self.values.resize(dims.iter().product(), 0.0);
    }

    /// The tensor.
    pub fn into_tensor(self, device: &Device) -> Tensor<3> {
        tensor(self.values, self.dims, device)
    }

    pub(crate) fn new(values: Vec<f32>, dims: [usize; 3]) -> Self {
        assert_eq!(
            values.len(),
            dims.iter().product::<usize>(),
            "tokens of {dims:?}"
        );
        Self { values, dims }
    }

    /// For the kernel: the features of each of so many heads by themselves.
    fn split(&self, heads: usize) -> Heads<'_> {
        Heads {
            values: &self.values,
            n: self.dims[1],
            d: self.dims[2] / heads,
        }
    }

    /// As many tokens as here, or it panics.
    pub(crate) fn assert_like(&self, other: &Self, features: [usize; 2]) {
        let [batch, n, _] = self.dims;
        assert!(
            self.dims[2] == features[0] && other.dims == [batch, n, features[1]],
            "tokens {:?} do not become tokens {:?} in a layer of {features:?} features",
            self.dims,
            other.dims
        );
    }
}

impl From<Tensor<3>> for Tokens {
    /// # Panics
    ///
    /// If the values are not f32.
    fn from(x: Tensor<3>) -> Self {
        let dims = x.dims();
        Self::new(values(x), dims)
    }
}

/// [`attention`](crate::attention) of several heads, which lie side by side in the features of a token:
/// `softmax(Q Kᵀ / √d) V`, in one kernel that stores no scores. A row with no score above -∞, or with one that is NaN or
/// +∞, is NaN.
///
/// # Shapes
///
/// - q: `[batch, queries, heads · d]`
/// - k: `[batch or 1, keys, heads · d]`
/// - v: `[batch or 1, keys, heads · d_value]`
/// - y: `[batch, queries, heads · d_value]`
///
/// # Panics
///
/// If the shapes do not go together.
pub fn attend(q: &Tokens, k: &Tokens, v: &Tokens, heads: usize, y: &mut Tokens) {
    check(q, k, v, heads, y);
    kernel::attention(
        Level::detected(),
        [q.dims[0], heads],
        q.split(heads),
        k.split(heads),
        v.split(heads),
        false,
        &mut y.values,
    );
}

/// [`attend`] with products of whole codes, beside layers whose weights are codes: of eight bits for queries and keys, with a
/// step for each row of a head; of twelve for weights and thirteen for values. The softmax is in f32.
///
/// Of numbers that are distributed normally, an output is wrong by less than a hundredth of the outputs' size. A query with a
/// number that is not finite makes its row NaN, a key all rows of its head, and a value its feature in all rows of its head.
///
/// # Shapes
///
/// As [`attend`].
///
/// # Panics
///
/// If the shapes do not go together.
pub fn attend_in_codes(q: &Tokens, k: &Tokens, v: &Tokens, heads: usize, y: &mut Tokens) {
    check(q, k, v, heads, y);
    kernel::attention_in_codes(
        Level::detected(),
        [q.dims[0], heads],
        q.split(heads),
        k.split(heads),
        v.split(heads),
        &mut y.values,
    );
}

/// [`attend`] in which a query reads no value behind its own place; values there must be finite.
///
/// # Shapes
///
/// - q, k: `[batch, n, heads · d]`
/// - v, y: `[batch, n, heads · d_value]`
///
/// # Panics
///
/// If the shapes do not go together.
pub fn attend_causally(q: &Tokens, k: &Tokens, v: &Tokens, heads: usize, y: &mut Tokens) {
    check(q, k, v, heads, y);
    kernel::attention(
        Level::detected(),
        [q.dims[0], heads],
        q.split(heads),
        k.split(heads),
        v.split(heads),
        true,
        &mut y.values,
    );
}

fn check(q: &Tokens, k: &Tokens, v: &Tokens, heads: usize, y: &Tokens) {
    let [batch, n, features] = q.dims;
    assert!(
        heads > 0
            && features.is_multiple_of(heads)
            && v.dims[2].is_multiple_of(heads)
            && k.dims[2] == features
            && k.dims[..2] == v.dims[..2]
            && (k.dims[0] == batch || k.dims[0] == 1)
            && y.dims == [batch, n, v.dims[2]],
        "queries {:?}, keys {:?} and values {:?} do not make {:?} with {heads} heads",
        q.dims,
        k.dims,
        v.dims,
        y.dims
    );
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::{attention, causal_attention};

    #[test]
    fn attention_of_tokens_is_attention() {
        let device = Device::flex();
        let (heads, n, keys, d, d_value) = (3, 50, 40, 7, 5);
        let random = |dims| Tensor::<3>::random(dims, Distribution::Normal(0.0, 1.0), &device);
        let split = |x: &Tensor<3>| {
            let [batch, n, features] = x.dims();
            let x = x.clone().reshape([batch, n, heads, features / heads]);
            x.swap_dims(1, 2)
        };
        for causal in [false, true] {
            let keys = if causal { n } else { keys };
            let q = random([2, n, heads * d]);
            let k = random([if causal { 2 } else { 1 }, keys, heads * d]);
            let v = random([k.dims()[0], keys, heads * d_value]);
            let [of_q, of_k, of_v] = [&q, &k, &v].map(split);
            let plain = if causal {
                causal_attention(of_q, of_k, of_v)
            } else {
                attention(of_q, of_k, of_v)
            };
            let plain = plain.swap_dims(1, 2).reshape([2, n, heads * d_value]);
            let [q, k, v] = [q, k, v].map(Tokens::from);
            let mut y = q.with_features(heads * d_value);
            if !causal {
                attend_in_codes(&q, &k, &v, heads, &mut y);
                let difference = (y.clone().into_tensor(&device) - plain.clone()).abs().max();
                let difference: f32 = difference.into_scalar();
                // Means of numbers of order one, whose weights are wrong by some hundredths.
                assert!(difference < 0.1, "in codes: {difference:e}");
            }
            if causal {
                attend_causally(&q, &k, &v, heads, &mut y);
            } else {
                attend(&q, &k, &v, heads, &mut y);
            }
            let difference = (y.into_tensor(&device) - plain).abs().max();
            let difference: f32 = difference.into_scalar();
            // Means of numbers of order one, from f32 in another order.
            assert!(difference < 3e-6, "causal {causal}: {difference:e}");
        }
    }
}
