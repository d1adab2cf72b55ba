//! The layers in which a pass spends its time, at the sizes of the shipped policy and of Stable Diffusion 1.5.
//!
//! Elements are floating-point operations where a layer multiplies matrices, and values of the output elsewhere; bytes
//! are the weights, the input and the output, each once. A layer that comes near to the memory's bandwidth has no more
//! to gain from arithmetic, and one that is far from both spends its time on neither.

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use clearway_diffusion::{Seeded, normal};
use clearway_layers::activation::mish;
use clearway_layers::{
    Activation, Conv1dConfig, Conv2dConfig, Epilogue, GroupNormConfig, LinearConfig, Modulation,
    Precision, Prologue, Tokens, attend,
};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};

/// As in the `clearway` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCHES: [usize; 2] = [1, 64];

/// The horizon of 16 actions, halved at each level.
const LENGTHS: [usize; 3] = [16, 8, 4];

fn input<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    normal(&mut Seeded::new(0, shape[0]), shape, &Device::flex())
}

/// Says how much work a call is: `elements`, and so many `f32` read or written.
fn work(group: &mut BenchmarkGroup<'_, WallTime>, elements: usize, values: usize) {
    group.throughput(Throughput::ElementsAndBytes {
        elements: elements as u64,
        bytes: 4 * values as u64,
    });
}

/// The convolutions of the blocks: five taps, as many channels out as in. 256 is the bottom of the shipped network; 2048
/// is that of LeRobot's default, whose 84 MB of weights are for one sample a matter of memory.
fn conv1d(c: &mut Criterion) {
    const TAPS: usize = 5;
    let mut group = c.benchmark_group("conv1d");
    let small = BATCHES
        .into_iter()
        .flat_map(|batch| LENGTHS.map(|time| (256, batch, time)));
    for (channels, batch, time) in small.chain([(2048, 1, 4)]) {
        let layer = Conv1dConfig {
            channels_in: channels,
            channels_out: channels,
            kernel_size: TAPS,
            stride: 1,
            padding: TAPS / 2,
        }
        .init(&Device::flex());
        let x = input([batch, channels, time]);
        let weights = channels * channels * TAPS;
        work(
            &mut group,
            2 * weights * time * batch,
            weights + 2 * channels * time * batch,
        );
        let id = format!("{channels}->{channels}, batch {batch}, length");
        group.bench_function(BenchmarkId::new(id, time), |b| {
            b.iter(|| layer.forward(black_box(x.clone())));
        });
    }
    group.finish();
}

/// A whole block as packed layers compute it: convolution, group norm, Mish, modulation and residual in one sweep. The
/// first three are the levels of the shipped network, the last is the bottom of LeRobot's default, whose weights take
/// 84 MB in f32 and 42 MB in bf16: memory is all that matters there.
fn packed_block(c: &mut Criterion) {
    const TAPS: usize = 5;
    let device = Device::flex();
    let mut group = c.benchmark_group("packed block");
    for precision in [Precision::F32, Precision::Bf16] {
        for batch in [1, 8] {
            for (channels, time) in [(64, 16), (128, 8), (256, 4), (2048, 4)] {
                let mut conv = Conv1dConfig {
                    channels_in: channels,
                    channels_out: channels,
                    kernel_size: TAPS,
                    stride: 1,
                    padding: TAPS / 2,
                }
                .init(&device);
                let mut norm = GroupNormConfig {
                    n_groups: 8,
                    channels,
                    epsilon: 1e-5,
                }
                .init(&device);
                let bytes = (conv.pack(precision) + norm.pack()).bytes;
                let x = input([batch, channels, time]);
                let modulation = Modulation {
                    values: input([batch, 2 * channels]),
                    scales: true,
                };
                group.throughput(Throughput::ElementsAndBytes {
                    elements: (2 * channels * channels * TAPS * time * batch) as u64,
                    bytes: (bytes + 4 * 3 * channels * time * batch) as u64,
                });
                let id = format!("{channels} channels, length {time}, {precision}, batch");
                group.bench_function(BenchmarkId::new(id, batch), |b| {
                    b.iter(|| {
                        let epilogue = Epilogue {
                            normalization: Some(&norm),
                            activation: Activation::Mish,
                            modulation: Some(modulation.clone()),
                            residual: Some(x.clone()),
                        };
                        conv.forward_then(black_box(x.clone()), epilogue)
                    });
                });
            }
        }
    }
    group.finish();
}

/// The convolutions of Stable Diffusion 1.5's U-Net on the way down, and of its decoder's last stage, with the normalization
/// before them. Operations are counted as the layer is defined; minimal filters do a quarter of the products.
fn packed_picture(c: &mut Criterion) {
    let device = Device::flex();
    let mut group = c.benchmark_group("packed picture");
    group.sample_size(10);
    for precision in [Precision::F32, Precision::Bf16] {
        for (channels, side, taps) in [
            (320, 64, 3),
            (640, 32, 3),
            (1280, 16, 3),
            (1280, 8, 3),
            (128, 512, 3),
            (320, 64, 1),
        ] {
            let mut conv = Conv2dConfig::same(channels, channels, taps).init(&device);
            let mut norm = GroupNormConfig {
                n_groups: 32,
                channels,
                epsilon: 1e-5,
            }
            .init(&device);
            let bytes = (conv.pack(precision) + norm.pack()).bytes;
            let x = input([1, channels, side, side]);
            group.throughput(Throughput::ElementsAndBytes {
                elements: (2 * channels * channels * taps * taps * side * side) as u64,
                bytes: (bytes + 4 * 2 * channels * side * side) as u64,
            });
            let id = format!("{channels} channels, {taps} x {taps}, {precision}, side");
            group.bench_function(BenchmarkId::new(id, side), |b| {
                b.iter(|| {
                    let prologue = Prologue {
                        normalization: Some(&norm),
                        activation: Activation::Silu,
                        ..Prologue::default()
                    };
                    conv.forward_between(prologue, black_box(x.clone()), Epilogue::default())
                });
            });
        }
    }
    group.finish();
}

/// The attention of Stable Diffusion 1.5: its U-Net's over pixels and over a text, and its decoder's.
fn packed_attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("packed attention");
    group.sample_size(10);
    for (queries, keys, heads, d) in [
        (4096, 4096, 8, 40),
        (1024, 1024, 8, 80),
        (256, 256, 8, 160),
        (4096, 77, 8, 40),
        (4096, 4096, 1, 512),
    ] {
        let tokens = |n| Tokens::from(input::<3>([1, n, heads * d]));
        let (q, k, v) = (tokens(queries), tokens(keys), tokens(keys));
        let mut y = Tokens::zeros(q.dims());
        let products = 2 * queries * keys * heads * d;
        work(&mut group, 2 * products, 2 * (queries + keys) * heads * d);
        let id = format!("{queries} queries, {heads} heads of {d}, keys");
        group.bench_function(BenchmarkId::new(id, keys), |b| {
            b.iter(|| attend(black_box(&q), &k, &v, heads, &mut y));
        });
    }
    group.finish();
}

/// The modulation of a block at the bottom: an embedded time of 128 and a condition of 36 become a scale and a shift of
/// 256 channels. `step` is what each pass computes of it, since the condition's share is prepared.
fn linear(c: &mut Criterion) {
    const STEP: usize = 128;
    const CONDITION: usize = 36;
    const OUTPUT: usize = 512;
    let layer = LinearConfig {
        d_input: STEP + CONDITION,
        d_output: OUTPUT,
        bias: true,
    }
    .init(&Device::flex());
    let mut group = c.benchmark_group("linear");
    for batch in BATCHES {
        for (name, d_input) in [("whole", STEP + CONDITION), ("step", STEP)] {
            let x = input([batch, d_input]);
            work(
                &mut group,
                2 * d_input * OUTPUT * batch,
                d_input * OUTPUT + (d_input + OUTPUT) * batch,
            );
            group.bench_function(BenchmarkId::new(format!("{name}, batch"), batch), |b| {
                b.iter(|| {
                    let x = black_box(x.clone());
                    if d_input == STEP {
                        layer.forward_part(x, 0)
                    } else {
                        layer.forward(x)
                    }
                });
            });
        }
    }
    group.finish();
}

/// Normalization over eight groups. Every level has as many values, 1024 a sample: channels double where time is halved.
fn group_norm(c: &mut Criterion) {
    element_wise(c, "group norm", |channels| {
        let layer = GroupNormConfig {
            n_groups: 8,
            channels,
            epsilon: 1e-5,
        }
        .init(&Device::flex());
        move |x| layer.forward(x)
    });
}

fn activation(c: &mut Criterion) {
    element_wise(c, "mish", |_| mish);
}

/// What reads a tensor and writes one like it, at the top and the bottom of the shipped network.
fn element_wise<F: Fn(Tensor<3>) -> Tensor<3>>(
    c: &mut Criterion,
    name: &str,
    layer: impl Fn(usize) -> F,
) {
    let mut group = c.benchmark_group(name);
    for batch in BATCHES {
        for (channels, time) in [(64, 16), (256, 4)] {
            let x = input([batch, channels, time]);
            let layer = layer(channels);
            let values = batch * channels * time;
            work(&mut group, values, 2 * values);
            let id = format!("{channels} channels, length {time}, batch");
            group.bench_function(BenchmarkId::new(id, batch), |b| {
                b.iter(|| layer(black_box(x.clone())));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(50);
    targets = conv1d, packed_block, packed_picture, packed_attention, linear, group_norm, activation
}
criterion_main!(benches);
