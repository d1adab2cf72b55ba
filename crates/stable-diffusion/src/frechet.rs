//! How far two sets of pictures are from each other.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

/// The mean and the covariance of features.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureStatistics {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

/// Features of which there is no mean and covariance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// There are too few.
    #[error("{found} pictures have no covariance; at least 2 do")]
    Few {
        /// How many there are.
        found: usize,
    },
    /// One is NaN or infinite.
    #[error("feature {feature} of picture {picture} is not finite")]
    NonFinite {
        /// Of which picture.
        picture: usize,
        /// Which.
        feature: usize,
    },
}

impl FeatureStatistics {
    /// Of rows of `width` features: the mean, and the covariance with `n - 1` below the sum, as NumPy's `cov`.
    ///
    /// # Errors
    ///
    /// If there are fewer than two rows, or a feature is not finite.
    ///
    /// # Panics
    ///
    /// If the rows are not whole.
    pub fn of(features: &[f32], width: usize) -> Result<Self, FeatureError> {
        assert!(
            width > 0 && features.len().is_multiple_of(width),
            "{} features are no rows of {width}",
            features.len()
        );
        let count = features.len() / width;
        if count < 2 {
            return Err(FeatureError::Few { found: count });
        }
        if let Some(at) = features.iter().position(|x| !x.is_finite()) {
            return Err(FeatureError::NonFinite {
                picture: at / width,
                feature: at % width,
            });
        }
        let rows = DMatrix::from_row_iterator(count, width, features.iter().map(|&x| f64::from(x)));
        let mean = rows.row_mean().transpose();
        let mut centered = rows;
        for mut row in centered.row_iter_mut() {
            row -= mean.transpose();
        }
        let covariance = centered.tr_mul(&centered) / (count - 1) as f64;
        Ok(Self { mean, covariance })
    }

    /// The squared Fréchet distance of two normal distributions with these means and covariances.
    ///
    /// ```text
    /// |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)        tr (Σ₁ Σ₂)^½ = tr (Σ₁^½ Σ₂ Σ₁^½)^½
    /// ```
    ///
    /// The second form is of a symmetric matrix, whose eigenvalues are real; those that rounding made negative count as zero.
    /// A distance depends on the network whose features these are: with Inception's it is the FID, and with any other it
    /// cannot be compared with published FIDs.
    ///
    /// Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
    /// arXiv:1706.08500, equation 6; Dowson and Landau, "The Fréchet distance between multivariate normal distributions",
    /// 1982.
    ///
    /// # Panics
    ///
    /// If they are of different numbers of features.
    pub fn distance(&self, other: &Self) -> f64 {
        assert_eq!(self.mean.len(), other.mean.len(), "features of one kind");
        let root = {
            let SymmetricEigen {
                eigenvalues,
                eigenvectors,
            } = SymmetricEigen::new(self.covariance.clone());
            let roots = eigenvalues.map(|value| value.max(0.0).sqrt());
            &eigenvectors * DMatrix::from_diagonal(&roots) * eigenvectors.transpose()
        };
        let product = &root * &other.covariance * &root;
        let symmetric = (&product + product.transpose()) / 2.0;
        let roots = SymmetricEigen::new(symmetric).eigenvalues;
        let of_product: f64 = roots.iter().map(|value| value.max(0.0).sqrt()).sum();
        let between = (&self.mean - &other.mean).norm_squared();
        // Rounding may leave a little below zero of two that are the same.
        (between + self.covariance.trace() + other.covariance.trace() - 2.0 * of_product).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mean: &[f64], covariance: &[f64]) -> FeatureStatistics {
        let n = mean.len();
        FeatureStatistics {
            mean: DVector::from_row_slice(mean),
            covariance: DMatrix::from_row_slice(n, n, covariance),
        }
    }

    /// f64, three by three.
    const TOLERANCE: f64 = 1e-10;

    #[test]
    fn distances_of_commuting_covariances_are_closed_forms() {
        // With diagonal covariances it is Σ (μ₁ - μ₂)² + (σ₁ - σ₂)².
        let a = of(&[1.0, -2.0], &[4.0, 0.0, 0.0, 0.25]);
        let b = of(&[0.5, 1.0], &[1.0, 0.0, 0.0, 9.0]);
        let expected = 0.25 + 9.0 + 1.0 + 6.25;
        assert!((a.distance(&b) - expected).abs() < TOLERANCE);
        assert!((b.distance(&a) - expected).abs() < TOLERANCE);
        assert!(a.distance(&a) < TOLERANCE);
        // Turned by the same angle it is the same.
        let (sin, cos) = 0.7_f64.sin_cos();
        let turn = DMatrix::from_row_slice(2, 2, &[cos, -sin, sin, cos]);
        let turned = |it: &FeatureStatistics| FeatureStatistics {
            mean: &turn * &it.mean,
            covariance: &turn * &it.covariance * turn.transpose(),
        };
        assert!((turned(&a).distance(&turned(&b)) - expected).abs() < TOLERANCE);
    }

    /// Of NumPy 2.4.6 and `scipy.linalg.sqrtm` of SciPy 1.17.1: `tests/golden/torch/record_frechet.py`.
    #[test]
    fn a_distance_is_scipys() {
        let row = |i: i32| {
            let t = f64::from(i);
            [
                t.sin(),
                (1.3 * t).cos() * 2.0,
                (0.7 * t).sin() + 0.1 * t.cos(),
            ]
        };
        let other = |i: i32| {
            let t = f64::from(i);
            [
                (0.9 * t).cos() + 0.3,
                (1.1 * t).sin(),
                (0.4 * t).cos() * 1.5 - 0.2,
            ]
        };
        let rows = |of: &dyn Fn(i32) -> [f64; 3]| {
            let features: Vec<f32> = (0..50).flat_map(of).map(|x| x as f32).collect();
            FeatureStatistics::of(&features, 3).expect("fifty rows")
        };
        let distance = rows(&row).distance(&rows(&other));
        // Features are f32.
        assert!((distance - SCIPY).abs() < 1e-6, "{distance}");
    }

    const SCIPY: f64 = 0.847_788_279_790_336_7;

    #[test]
    fn what_has_no_covariance_is_an_error() {
        assert_eq!(
            FeatureStatistics::of(&[1.0, 2.0], 2),
            Err(FeatureError::Few { found: 1 })
        );
        assert_eq!(
            FeatureStatistics::of(&[1.0, 2.0, 3.0, f32::NAN], 2),
            Err(FeatureError::NonFinite {
                picture: 1,
                feature: 1
            })
        );
    }
}
