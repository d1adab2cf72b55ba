//! Which inputs an output of a convolution sees.

/// `y[first + step · t] = Σ_j W_j x[origin + stride · t + j]` for `t` in `0..positions`, with `x` zero outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Where the first output's first tap lies; before the input where there is padding.
    pub(crate) origin: isize,
    /// The distance between the inputs of two outputs.
    pub(crate) stride: usize,
    /// How many outputs there are.
    pub(crate) positions: usize,
    /// Where the first output lies.
    pub(crate) first: usize,
    /// The distance between two outputs.
    pub(crate) step: usize,
}

impl Window {
    /// The window of a linear layer.
    pub(crate) fn point(positions: usize) -> Self {
        Self {
            origin: 0,
            stride: 1,
            positions,
            first: 0,
            step: 1,
        }
    }

    /// The window of a convolution over `length` inputs.
    ///
    /// # Panics
    ///
    /// If the input with its padding is shorter than the kernel.
    pub(crate) fn convolution(length: usize, taps: usize, stride: usize, padding: usize) -> Self {
        let padded = length + 2 * padding;
        assert!(
            padded >= taps,
            "a kernel of {taps} does not fit into {length} values with a padding of {padding}"
        );
        Self {
            origin: -padding.cast_signed(),
            stride,
            positions: (padded - taps) / stride + 1,
            first: 0,
            step: 1,
        }
    }

    /// The taps of a transposed convolution that meet in every `stride`-th output, in the order of their inputs.
    ///
    /// An output at `stride · q + phase - padding` is `Σ_m W[phase + stride · m] x[q - m]`: a convolution of its own.
    pub(crate) fn taps_of_phase(taps: usize, stride: usize, phase: usize) -> Vec<usize> {
        let mut taps: Vec<usize> = (phase..taps).step_by(stride).collect();
        taps.reverse();
        taps
    }

    /// The window of a phase of a transposed convolution; `None` where it has no output.
    pub(crate) fn phase(
        length: usize,
        taps: usize,
        stride: usize,
        padding: usize,
        phase: usize,
    ) -> Option<Self> {
        let output = (stride * (length - 1) + taps).saturating_sub(2 * padding);
        let meeting = taps.saturating_sub(phase).div_ceil(stride);
        // The first `q` whose output is not cut off.
        let q = padding.saturating_sub(phase).div_ceil(stride);
        let first = stride * q + phase - padding;
        (first < output).then(|| Self {
            origin: q.cast_signed() + 1 - meeting.cast_signed(),
            stride: 1,
            positions: (output - first).div_ceil(stride),
            first,
            step: stride,
        })
    }
}
