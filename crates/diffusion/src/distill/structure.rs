use burn::tensor::Tensor;

use crate::{Network, Point};

/// A network whose blocks can be looked at: for students whose blocks learn what their teacher's do.
pub trait Features<const D: usize>: Network<D> {
    /// One pass, and what the blocks that a student has too answer, in the order of use.
    ///
    /// # Shapes
    ///
    /// - x, returns: `[batch, ..]`
    /// - points: one for all samples, or one a sample
    fn forward_with_features(
        &self,
        x: Tensor<D>,
        points: &[Point],
        prepared: &Self::Prepared,
    ) -> (Tensor<D>, Vec<Tensor<D>>);
}

/// `Σ mean (f_student − f_teacher)²` over pairs of blocks: what is added to the loss of a [`Lesson`](super::Lesson) where a
/// smaller student keeps its teacher's channels.
///
/// Kim et al., "BK-SDM: A Lightweight, Fast, and Cheap Version of Stable Diffusion", 2023, arXiv:2305.15798, equation 3.
///
/// # Panics
///
/// If there are other blocks, or of other shapes.
pub fn feature_loss<const D: usize>(student: &[Tensor<D>], teacher: &[Tensor<D>]) -> Tensor<1> {
    assert!(!student.is_empty(), "a loss of no features");
    assert_eq!(student.len(), teacher.len(), "features of other blocks");
    let losses = student.iter().zip(teacher).map(|(ours, theirs)| {
        assert_eq!(ours.dims(), theirs.dims(), "features of another shape");
        (ours.clone() - theirs.clone()).square().mean()
    });
    losses
        .reduce(|sum, loss| sum + loss)
        .expect("there is a feature")
}
