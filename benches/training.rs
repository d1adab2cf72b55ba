//! One training step of the shipped policy's network, and its parts: the other side of `peers/training_step.py`.
//!
//! ```sh
//! cargo bench --bench training -- [STEPS] [BATCH]
//! ```
#![allow(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use clearway_diffusion::{Discrete, Network, Point, Schedule, Seeded, normal};
use clearway_layers::{AdamW, in_pool};
use clearway_planner::Policy;

/// As in the `clearway` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps that are not counted: memory is touched, threads start.
const WARM_UP: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .map(|argument| argument.parse::<usize>());
    let steps = arguments.next().transpose()?.unwrap_or(50);
    let batch = arguments.next().transpose()?.unwrap_or(128);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht");
    let policy = Policy::load(&path, &Device::flex())?;
    let config = policy.config();
    let device = Device::flex();
    let mut network = policy.network().clone().train();
    let mut optimizer = AdamW {
        betas: [0.95, 0.999],
        weight_decay: 1e-6,
        ..AdamW::default()
    }
    .init();
    let mut random = Seeded::new(0, 1);
    let mut draw = |columns: usize| {
        normal(&mut random, [1, batch * columns], &device).reshape([batch, columns])
    };
    let (width, horizon) = (config.action.len, config.horizon);
    let action = [batch, horizon, width];
    let x = draw(horizon * width).reshape(action);
    let noise = draw(horizon * width).reshape(action);
    let condition = draw(config.condition_dim());
    let schedule = Discrete::squared_cosine(100)?;
    let points: Vec<Point> = (0..batch)
        .map(|i| {
            let t = (i * 37 % 100) as f64;
            Point {
                t,
                level: schedule.level(t),
            }
        })
        .collect();

    let mut rows: Vec<[f64; 4]> = Vec::with_capacity(steps);
    // In the pool, as a training loop should be: each kernel shares its work out from there.
    in_pool(|| {
        for step in 0..steps + WARM_UP {
            let start = Instant::now();
            let prepared = network.prepare(&condition);
            let estimate = network.forward(x.clone(), &points, &prepared);
            let loss = (estimate - noise.clone()).square().mean();
            let forward = start.elapsed();
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            let backward = start.elapsed();
            network = optimizer.step(1e-5, network, gradients);
            let end = start.elapsed();
            if step >= WARM_UP {
                let [forward, backward, end] =
                    [forward, backward, end].map(|it| 1e3 * it.as_secs_f64());
                rows.push([end, forward, backward - forward, end - backward]);
            }
        }
    });
    println!("{} threads, batch {batch}", rayon::current_num_threads());
    for (i, name) in ["step", "forward", "backward", "update"].iter().enumerate() {
        let mut column: Vec<f64> = rows.iter().map(|row| row[i]).collect();
        column.sort_by(f64::total_cmp);
        let (least, most) = (column[0], column[column.len() - 1]);
        println!(
            "{name:9} {:8.2} ms [{least:.2}, {most:.2}]",
            column[column.len() / 2]
        );
    }
    Ok(())
}
