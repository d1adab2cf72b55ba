//! What a plan costs, and what it is made of: network passes, the engine around them, loading, and a step of the world.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use clearway_diffusion::{
    Ddim, Discrete, End, Gaussian, Grid, Network, Sampler, Seeded, Solver, Stage, normal, timesteps,
};
use clearway_planner::{Budget, History, Observation, Planner, Policy, Problem};
use clearway_sim::{PushT, pusht};
use criterion::{
    BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};

/// As in the `clearway` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The policy that the repository ships.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht")
}

fn planner() -> Planner {
    let period = Duration::from_secs_f64(pusht::CONTROL_PERIOD);
    Planner::load(&shipped(), period, &Device::flex()).expect("the shipped policy loads")
}

/// Two observations, a step apart.
fn history() -> History {
    let mut world = PushT::reset(0);
    let mut history = History::default();
    for step in 0..2_u32 {
        let seen = match step {
            0 => world.observation(),
            _ => world.step([256.0, 256.0]).expect("inside of the square"),
        };
        let observation = Observation::new(Duration::from_millis(100) * step)
            .with("observation.state", seen.agent)
            .with("observation.environment_state", seen.key_points);
        history.push(observation).expect("time goes on");
    }
    history
}

/// One pass of the shipped policy's network; what it prepares of the condition is prepared before.
///
/// Bytes are those of the weights, each of which a pass reads at least once; elements are samples.
fn pass(c: &mut Criterion) {
    let (device, planner) = (Device::flex(), planner());
    let policy = planner.policy();
    let config = policy.config();
    let condition = policy.condition(&history()).expect("what the policy wants");
    let condition = Tensor::<1>::from_floats(condition.as_slice(), &device).unsqueeze::<2>();
    let points = [planner.stages()[0].at];
    let mut group = c.benchmark_group("network pass");
    for batch in [1, 8, 64] {
        let prepared = policy
            .network()
            .prepare(&condition.clone().repeat_dim(0, batch));
        let shape = [batch, config.horizon, config.action.len];
        let x = normal(&mut Seeded::new(0, batch), shape, &device);
        group.throughput(Throughput::ElementsAndBytes {
            elements: batch as u64,
            bytes: 4 * policy.parameters() as u64,
        });
        group.bench_function(BenchmarkId::new("batch", batch), |b| {
            b.iter(|| {
                policy
                    .network()
                    .forward(black_box(x.clone()), &points, &prepared)
            });
        });
    }
    group.finish();
}

/// From observations to the trajectory that may be executed, as the shipped policy samples: DDIM, ten passes.
fn plan(c: &mut Criterion) {
    let (planner, history) = (planner(), history());
    c.bench_function(&format!("plan/{}", planner.sampling()), |b| {
        b.iter(|| planner.plan(black_box(&Problem::new(&history)), Budget::default(), 7));
    });
}

/// The engine alone: ten stages whose denoiser is a line of arithmetic.
fn engine(c: &mut Criterion) {
    let device = Device::flex();
    let stages = stages();
    let denoiser = Gaussian {
        mean: 0.1,
        deviation: 0.5,
    };
    c.bench_function("engine/ddim-10", |b| {
        b.iter(|| {
            let mut noise = Seeded::new(7, 1);
            let sampler = Sampler::from_noise(
                &denoiser,
                &(),
                black_box(&stages),
                [1, 16, 2],
                &device,
                &mut noise,
            );
            sampler.finish()
        });
    });
}

fn stages() -> Vec<Stage> {
    let schedule = Discrete::squared_cosine(100).expect("a schedule of the field");
    let times = timesteps::leading(&schedule, 10, 0).expect("ten of a hundred");
    let grid = Grid::at_times(&schedule, &times, End::Clean).expect("times fall");
    Ddim::default()
        .plan(&schedule, &grid)
        .expect("DDIM plans on any grid")
}

/// Reading, checking and hashing the shipped policy's files.
fn load(c: &mut Criterion) {
    let (folder, device) = (shipped(), Device::flex());
    let bytes = std::fs::metadata(folder.join("model.safetensors"))
        .expect("the weights are there")
        .len();
    let mut group = c.benchmark_group("load");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.throughput(Throughput::BytesDecimal(bytes));
    group.bench_function("policy", |b| {
        b.iter(|| Policy::load(black_box(&folder), &device));
    });
    group.finish();
}

/// A step of PushT: 0.1 s of the world, from the same state every time.
fn world(c: &mut Criterion) {
    let mut group = c.benchmark_group("pusht step");
    for (name, agent) in [("free", [100.0, 400.0]), ("pushing", [180.0, 270.0])] {
        let mut world = PushT::at_pose(agent, [256.0, 256.0, 0.0]).expect("inside of the square");
        // The agent arrives at the block, or goes on far from it.
        for _ in 0..2 {
            world
                .step([agent[0] + 60.0, agent[1]])
                .expect("inside of the square");
        }
        let action = [agent[0] + 100.0, agent[1]];
        group.bench_function(name, |b| {
            let start = || world.clone();
            b.iter_batched_ref(
                start,
                |world| world.step(black_box(action)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5))
        .sample_size(50);
    targets = pass, plan, engine, load, world
}
criterion_main!(benches);
