//! A pass of the packed network: on buffers that are used again, without a tensor between its layers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::prelude::*;
use clearway_diffusion::Point;
use clearway_layers::{
    Activation, Level, Linear, Precision, Signal, SignalEpilogue, SignalModulation, Tokens,
};

use super::{ConditionalUnet1d, ConvBlock, ResidualBlock, StepEncoder};

/// How many timesteps a packed network remembers. Schedules have 100 or 1000, of which plans use 10 to 100; of LeRobot's
/// default network one takes 115 kB.
const REMEMBERED_STEPS: usize = 256;

/// The most numbers in a pass's buffers that are kept for the next: 64 MB.
const KEPT_NUMBERS: usize = 1 << 24;
/// How many passes at the same time find buffers.
const KEPT_BUFFERS: usize = 4;

/// What a packed network knows besides, since its weights cannot change. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) precision: Precision,
    shared: Arc<SharedState>,
}

#[derive(Debug, Default)]
struct SharedState {
    /// Each timestep's share of the modulation of all residual blocks, once it was computed: on which level, and the bits of
    /// the timestep.
    steps: Mutex<HashMap<(Level, u64), Arc<Tokens>>>,
    /// What passes compute on, while no pass does.
    idle: Mutex<Vec<Buffers>>,
}

/// What a pass computes on.
#[derive(Debug, Default)]
struct Buffers {
    /// `[1, points or batch, Σ modulations]`
    modulation: Tokens,
    /// What the timesteps contribute to it, where there are several.
    steps: Tokens,
    x: Signal,
    /// Inside a block.
    hidden: Signal,
    residual: Signal,
    /// Between the blocks of a level.
    between: Signal,
    after: Signal,
    /// What a level on the way up reads.
    both: Signal,
    skips: Vec<Signal>,
}

impl Packed {
    pub(super) fn new(precision: Precision) -> Self {
        Self {
            precision,
            shared: Arc::default(),
        }
    }
}

impl Buffers {
    /// How many numbers they hold.
    fn numbers(&self) -> usize {
        let Self {
            modulation,
            steps,
            x,
            hidden,
            residual,
            between,
            after,
            both,
            skips,
        } = self;
        let signals = [x, hidden, residual, between, after, both];
        let dims = (signals.into_iter().chain(skips).map(Signal::dims))
            .chain([modulation, steps].map(Tokens::dims));
        dims.map(|it| it.into_iter().product::<usize>()).sum()
    }
}

/// What is in there is whole, even if a thread panicked meanwhile.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConditionalUnet1d {
    fn condition_encoders(&self) -> Vec<&Linear> {
        self.residual_blocks()
            .map(|block| &block.cond_encoder)
            .collect()
    }

    /// The condition's share of the modulation of all residual blocks, their offsets included.
    pub(super) fn prepare_packed(&self, condition: Tensor<2>) -> Tokens {
        let mut condition = Tokens::from(condition.unsqueeze::<3>());
        Activation::Mish.apply(condition.values_mut());
        let [embed_dim, _] = self.diffusion_step_encoder.contract.weight.dims();
        let mut shares = Tokens::default();
        let layers = self.condition_encoders();
        Linear::write_parts(&layers, &condition, embed_dim, true, &mut shares);
        shares
    }

    /// The timestep's share of the modulation of all residual blocks.
    fn step(&self, packed: &Packed, point: &Point) -> Arc<Tokens> {
        let key = (Level::detected(), point.t.to_bits());
        if let Some(share) = lock(&packed.shared.steps).get(&key) {
            return share.clone();
        }
        let step = self.diffusion_step_encoder.tokens(point);
        let mut share = Tokens::default();
        Linear::write_parts(&self.condition_encoders(), &step, 0, false, &mut share);
        let share = Arc::new(share);
        let mut steps = lock(&packed.shared.steps);
        if steps.len() < REMEMBERED_STEPS {
            steps.insert(key, share.clone());
        }
        share
    }

    /// One pass.
    ///
    /// Shapes: x and the result `[batch, horizon, action_dim]`.
    pub(super) fn packed_pass(
        &self,
        packed: &Packed,
        x: Tensor<3>,
        points: &[Point],
        condition: &Tokens,
    ) -> Tensor<3> {
        let (shape, device) = (x.dims(), x.device());
        let mut buffers = lock(&packed.shared.idle).pop().unwrap_or_default();
        let Buffers {
            modulation, steps, ..
        } = &mut buffers;
        match points {
            [point] => modulation.sum(&self.step(packed, point), condition),
            points => {
                let each: Vec<_> = points.iter().map(|it| self.step(packed, it)).collect();
                steps.stack(each.iter().map(|it| &**it));
                modulation.sum(steps, condition);
            }
        }
        buffers.x = x.into();
        self.run(&mut buffers);
        assert_eq!(
            buffers.x.dims(),
            shape,
            "the horizon is no multiple of two to the number of levels less one"
        );
        let y = buffers.x.to_tensor(&device);
        // Lost where a pass panics, which the next one does not notice.
        let mut idle = lock(&packed.shared.idle);
        if idle.len() < KEPT_BUFFERS && buffers.numbers() <= KEPT_NUMBERS {
            idle.push(buffers);
        }
        y
    }

    /// From the `x` of the buffers to their `x`.
    fn run(&self, buffers: &mut Buffers) {
        let Buffers {
            modulation,
            x,
            hidden,
            residual,
            between,
            after,
            both,
            skips,
            ..
        } = buffers;
        let mut start = 0;
        let mut apply = |block: &ResidualBlock, x: &Signal, y: &mut Signal| {
            let of_block = SignalModulation {
                features: modulation,
                start,
                scales: block.scales,
            };
            let [width, _] = block.cond_encoder.weight.dims();
            start += width;
            block.write(x, of_block, [&mut *hidden, &mut *residual], y);
        };
        skips.resize_with(self.down_modules.len(), Signal::default);
        for (level, skip) in self.down_modules.iter().zip(&mut *skips) {
            apply(&level.resnet, x, between);
            apply(&level.resnet2, between, skip);
            match &level.downsample {
                Some(downsample) => downsample.write(skip, SignalEpilogue::default(), x),
                None => x.copy(skip),
            }
        }
        for block in &self.mid_modules {
            apply(block, x, between);
            std::mem::swap(x, between);
        }
        // The first level's features are not used again: the last level up has no block of its own.
        for (level, skip) in self.up_modules.iter().zip(skips.iter().rev()) {
            both.concatenate(x, skip);
            apply(&level.resnet, both, between);
            apply(&level.resnet2, between, after);
            level.upsample.write(after, x);
        }
        self.final_conv.block.write(x, None, None, between);
        let project = &self.final_conv.project;
        project.write(between, SignalEpilogue::default(), x);
    }
}

impl StepEncoder {
    /// `mish(s)` of a point: `[1, 1, embed_dim]`.
    fn tokens(&self, point: &Point) -> Tokens {
        let embedding = self.embedding().tokens(&[point.t]);
        let layers = [&self.expand, &self.contract];
        layers.into_iter().fold(embedding, |x, layer| {
            let [features, _] = layer.weight.dims();
            let mut y = x.with_features(features);
            layer.write(&x, Activation::Mish, &mut y);
            y
        })
    }
}

impl ConvBlock {
    fn write(
        &self,
        x: &Signal,
        modulation: Option<SignalModulation<'_>>,
        residual: Option<&Signal>,
        y: &mut Signal,
    ) {
        let epilogue = SignalEpilogue {
            normalization: Some(&self.norm),
            activation: Activation::Mish,
            modulation,
            residual,
        };
        self.conv.write(x, epilogue, y);
    }
}

impl ResidualBlock {
    /// Shapes: x `[batch, time, channels_in]`; y becomes `[batch, time, channels]`.
    fn write(
        &self,
        x: &Signal,
        modulation: SignalModulation<'_>,
        [hidden, projected]: [&mut Signal; 2],
        y: &mut Signal,
    ) {
        self.conv1.write(x, Some(modulation), None, hidden);
        let residual = match &self.residual_conv {
            Some(residual) => {
                residual.write(x, SignalEpilogue::default(), projected);
                &*projected
            }
            None => x,
        };
        self.conv2.write(hidden, None, Some(residual), y);
    }
}
