//! Clearway's side of `plan_latency.py`: loads a policy and times what each line on standard input asks for.
//!
//! | line | what is timed, N times |
//! |---|---|
//! | `pass N` | one network pass, batch 1 |
//! | `plan N` | a whole plan, from raw observations to the checked trajectory |
//! | `weights N` | reading as many bytes as the weights have: no pass that reads them takes less |
//! | `memory N` | reading 1 GiB |
//!
//! Each line is answered by a JSON list of N milliseconds. Before the first one comes an object that says what was
//! loaded, and a plan by which the two sides can see that they do the same work: from no noise, with `100 + 10 i + s` for
//! the `i`-th value of each feature at step `s`.
//!
//! The process stays warm between lines and sleeps while it waits. `RAYON_NUM_THREADS` sets its threads.

use std::cell::LazyCell;
use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use clearway_diffusion::{Network as _, Seeded, normal};
use clearway_layers::Memory;
use clearway_planner::{Budget, History, Observation, Planner, Problem};

/// As in the `clearway` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const GIB: usize = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or("which policy? clearway_latency FOLDER")?;
    let device = Device::flex();
    let planner = Planner::load(&folder, Duration::from_millis(100), &device)?;
    let policy = planner.policy();
    let config = policy.config();
    let history = history(&planner)?;

    let problem = Problem::new(&history);
    let silence = vec![0.0; config.horizon * config.action.len];
    let check = planner.plan(&problem.with_noise(&silence), Budget::default(), 0)?;
    let actions: Vec<Vec<f64>> = check
        .trajectory
        .waypoints()
        .map(|action| action.position.iter().copied().collect())
        .collect();

    let condition =
        Tensor::<1>::from_floats(policy.condition(&history)?.as_slice(), &device).unsqueeze::<2>();
    let prepared = policy.network().prepare(&condition);
    let points = [planner.stages()[0].at];
    let x = normal(
        &mut Seeded::new(0, 1),
        [1, config.horizon, config.action.len],
        &device,
    );

    let bytes = 4 * policy.parameters();
    // Laid out when it is first asked for.
    let memory = LazyCell::new(|| Memory::new(GIB.max(bytes)));

    let mut out = std::io::stdout().lock();
    let ready = serde_json::json!({
        "threads": rayon::current_num_threads(),
        "parameters": policy.parameters(),
        "sampling": planner.sampling().to_string(),
        "timestep": points[0].t,
        "actions": actions,
    });
    writeln!(out, "{ready}")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (what, times) = line
            .split_once(' ')
            .ok_or("a line is a word and a number")?;
        let times = times.parse()?;
        let milliseconds = match what {
            "pass" => time(times, || {
                policy.network().forward(x.clone(), &points, &prepared)
            }),
            "plan" => time(times, || planner.plan(&problem, Budget::default(), 7)),
            "weights" => time(times, || memory.read(bytes)),
            "memory" => time(times, || memory.read(GIB)),
            _ => return Err(format!("`{what}` is none of pass, plan, weights and memory").into()),
        };
        writeln!(out, "{}", serde_json::json!(milliseconds))?;
    }
    Ok(())
}

/// As many observations as the policy wants, each feature filled by the rule above.
fn history(planner: &Planner) -> Result<History, Box<dyn Error>> {
    let (policy, config) = (planner.policy(), planner.policy().config());
    let mut history = History::default();
    for step in 0..config.n_obs_steps {
        let mut observation = Observation::new(planner.period() * u32::try_from(step)?);
        for (feature, name) in config.inputs.iter().zip(policy.observed_names()) {
            let values: Vec<f64> = (0..feature.len)
                .map(|i| (100 + 10 * i + step) as f64)
                .collect();
            observation = observation.with(name.clone(), values);
        }
        history.push(observation)?;
    }
    Ok(history)
}

/// The milliseconds of each call.
fn time<T>(times: usize, mut call: impl FnMut() -> T) -> Vec<f64> {
    let one = |_| {
        let begun = Instant::now();
        let result = black_box(call());
        let elapsed = begun.elapsed();
        drop(result);
        elapsed.as_secs_f64() * 1e3
    };
    (0..times).map(one).collect()
}
