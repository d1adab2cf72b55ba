//! The residual block of U-Net and autoencoder.

use burn::module::Module;
use burn::prelude::*;
use clearway_layers::{
    Activation, Conv2d, Conv2dConfig, Epilogue, GroupNorm, GroupNormConfig, Linear, LinearConfig,
    Modulation, PackReport, Packing, Prologue,
};

use crate::bands::normalize_and_convolve;

/// Makes a [`ResnetBlock`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResnetBlockConfig {
    pub(crate) channels_in: usize,
    pub(crate) channels: usize,
    /// The features of the embedded time; none in an autoencoder.
    pub(crate) time: Option<usize>,
    pub(crate) n_groups: usize,
    pub(crate) epsilon: f64,
}

/// ```text
/// h = conv₁(silu(norm₁(x))) + W silu(time)
/// y = conv₂(silu(norm₂(h))) + shortcut(x)
/// ```
#[derive(Module, Debug)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlockConfig {
    pub(crate) fn init(&self, device: &Device) -> ResnetBlock {
        let Self {
            channels_in,
            channels,
            n_groups,
            epsilon,
            ..
        } = *self;
        let norm = |channels| {
            GroupNormConfig {
                n_groups,
                channels,
                epsilon,
            }
            .init(device)
        };
        ResnetBlock {
            norm1: norm(channels_in),
            conv1: Conv2dConfig::same(channels_in, channels, 3).init(device),
            time_emb_proj: self.time.map(|d_input| {
                LinearConfig {
                    d_input,
                    d_output: channels,
                    bias: true,
                }
                .init(device)
            }),
            norm2: norm(channels),
            conv2: Conv2dConfig::same(channels, channels, 3).init(device),
            conv_shortcut: (channels_in != channels)
                .then(|| Conv2dConfig::same(channels_in, channels, 1).init(device)),
        }
    }
}

/// `silu(norm(x))`.
pub(crate) fn normalized(norm: &GroupNorm) -> Prologue<'_> {
    Prologue {
        normalization: Some(norm),
        activation: Activation::Silu,
        ..Prologue::default()
    }
}

impl ResnetBlock {
    /// Applies the block; `time` is `silu` of the embedded time, one row or one a sample.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, channels_in, height, width]`
    /// - time: `[batch or 1, features]`
    /// - returns: `[batch, channels, height, width]`
    pub(crate) fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        let mut x = x;
        let modulation = match (&self.time_emb_proj, time) {
            (Some(project), Some(time)) => Some(Modulation {
                values: project.forward(time.clone()),
                scales: false,
            }),
            _ => None,
        };
        let h = self.conv1.forward_keeping(
            normalized(&self.norm1),
            &mut x,
            Epilogue {
                modulation,
                ..Epilogue::default()
            },
        );
        let shortcut = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        let epilogue = Epilogue {
            residual: Some(shortcut),
            ..Epilogue::default()
        };
        self.conv2
            .forward_between(normalized(&self.norm2), h, epilogue)
    }

    pub(crate) fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let time = self.time_emb_proj.as_mut();
        let time = time.map(|it| it.pack(to.of("time_emb_proj")));
        let shortcut = self.conv_shortcut.as_mut();
        let shortcut = shortcut.map(|it| it.pack(to.of("conv_shortcut")));
        self.norm1.pack()
            + self.conv1.pack(to.of("conv1"))
            + time.unwrap_or_default()
            + self.norm2.pack()
            + self.conv2.pack(to.of("conv2"))
            + shortcut.unwrap_or_default()
    }

    /// [`forward`](Self::forward) without a time, over bands of rows.
    ///
    /// Packed convolutions lay out little by themselves: they are not cut.
    pub(crate) fn forward_in_bands(&self, x: Tensor<4>, rows: usize) -> Tensor<4> {
        if self.conv1.is_packed() {
            return self.forward(x, None);
        }
        let h = normalize_and_convolve(x.clone(), rows, &self.norm1, &self.conv1, |band, _| band);
        normalize_and_convolve(h, rows, &self.norm2, &self.conv2, |band, start| {
            let x = x.clone().narrow(2, start, band.dims()[2]);
            match &self.conv_shortcut {
                Some(shortcut) => band + shortcut.forward(x),
                None => band + x,
            }
        })
    }
}
