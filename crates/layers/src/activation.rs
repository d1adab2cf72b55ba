//! Activations.

use burn::tensor::Tensor;

/// Above this, `mish(x) = x` in f32; below it, `e²ˣ` does not overflow.
const MISH_IS_IDENTITY: f32 = 20.0;

/// `mish(x) = x · tanh(ln(1 + eˣ))`, element by element.
///
/// Computed with a single exponential, as `x · n / (n + 2)` with `n = eˣ (eˣ + 2)`, because
/// `tanh(ln u) = (u² - 1) / (u² + 1)` and `u = 1 + eˣ` gives `u² - 1 = n`. Nothing cancels, for `x` of either sign.
///
/// "Mish: A Self Regularized Non-Monotonic Activation Function", Misra, 2019, arXiv:1908.08681.
pub fn mish<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let e = x.clone().clamp_max(MISH_IS_IDENTITY).exp();
    let n = e.clone().add_scalar(2.0) * e;
    let gate = n.clone() / n.add_scalar(2.0);
    x * gate
}

/// `silu(x) = x / (1 + e⁻ˣ)`, element by element, also called swish.
///
/// "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in Reinforcement Learning", Elfwing,
/// Uchibe and Doya, 2018, arXiv:1702.03118.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    burn::tensor::activation::silu(x)
}

/// `relu(x) = max(0, x)`, element by element; NaN stays NaN.
///
/// "Rectified Linear Units Improve Restricted Boltzmann Machines", Nair and Hinton, 2010.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    burn::tensor::activation::relu(x)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;

    #[test]
    fn mish_is_its_definition_everywhere() {
        let values: Vec<f32> = (-2000..=2000)
            .map(|i| i as f32 * 0.05)
            .chain([f32::MAX, f32::MIN, 0.0, 1e-30])
            .collect();
        let x = Tensor::<1>::from_data(
            TensorData::new(values.clone(), [values.len()]),
            &Device::flex(),
        );
        let y: Vec<f32> = mish(x).into_data().try_to_vec().expect("f32");
        for (x, y) in values.iter().zip(y) {
            let exact = f64::from(*x) * f64::from(*x).exp().ln_1p().tanh();
            // f32 rounding of a handful of operations, and of the argument of exp where x is large and negative.
            let tolerance = 1e-6 * exact.abs().max(1e-6) * f64::from(x.abs().clamp(1.0, 100.0));
            assert!(
                (exact - f64::from(y)).abs() <= tolerance,
                "mish({x}) is {exact}, not {y}"
            );
        }
    }
}
