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
    #[cfg(feature = "train")]
    if crate::autodiff::activates(&x, crate::Activation::Mish) {
        return crate::autodiff::activate(x, crate::Activation::Mish);
    }
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
    #[cfg(feature = "train")]
    if crate::autodiff::activates(&x, crate::Activation::Silu) {
        return crate::autodiff::activate(x, crate::Activation::Silu);
    }
    burn::tensor::activation::silu(x)
}

/// `gelu(x) = x · Φ(x) = x/2 · (1 + erf(x/√2))`, element by element: the exact form, as in Stable Diffusion's networks.
///
/// "Gaussian Error Linear Units (GELUs)", Hendrycks and Gimpel, 2016, arXiv:1606.08415.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    burn::tensor::activation::gelu(x)
}

/// `quick_gelu(x) = x / (1 + e^(-1.702 x))`, element by element: the approximation that CLIP was trained with.
///
/// "Gaussian Error Linear Units (GELUs)", Hendrycks and Gimpel, 2016, arXiv:1606.08415, section 2.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let gate = burn::tensor::activation::sigmoid(x.clone().mul_scalar(1.702));
    x * gate
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

    #[test]
    fn gelu_is_exact_and_quick_gelu_is_not() {
        // Φ of a few arguments, and x σ(1.702 x), to ten digits.
        let table = [
            (-3.0_f32, -0.004_049_694_1, -0.018_071_309_7),
            (-1.0, -0.158_655_253_9, -0.154_204_234_1),
            (-0.1, -0.046_017_216_3, -0.045_755_241_9),
            (0.0, 0.0, 0.0),
            (0.5, 0.345_731_230_6, 0.350_388_436_6),
            (2.0, 1.954_499_736_1, 1.935_658_623_1),
        ];
        let x = Tensor::<1>::from_data(table.map(|(x, _, _)| x), &Device::flex());
        let exact: Vec<f32> = gelu(x.clone()).into_data().try_to_vec().expect("f32");
        let quick: Vec<f32> = quick_gelu(x).into_data().try_to_vec().expect("f32");
        for (i, (x, gelu, quick_gelu)) in table.iter().enumerate() {
            // f32 rounding of values of at most 2.
            assert!((f64::from(exact[i]) - gelu).abs() < 3e-7, "gelu({x})");
            assert!(
                (f64::from(quick[i]) - quick_gelu).abs() < 3e-7,
                "quick_gelu({x})"
            );
        }
    }
}
