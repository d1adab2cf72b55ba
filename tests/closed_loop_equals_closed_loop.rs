//! Our policy in our physics does what LeRobot's does in gym-pusht.
//!
//! 50 recorded episodes, the recorded noise of every replan: see `golden/lerobot/README.md`.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use burn::tensor::Device;
use clearway_planner::{Budget, History, Observation, Planner, Problem};
use clearway_sim::{PushT, pusht};
use clearway_tests::repository;
use safetensors::{Dtype, SafeTensors};

type Failure = Box<dyn std::error::Error>;

/// Replans, of eight steps each, over which states are compared: contacts amplify rounding for ever.
const REPLANS: usize = 8;
/// At least so many of the 50 episodes stay within so many pixels over so many replans.
const CLAIMS: [(usize, f64, usize); 2] = [(3, 1e-2, 45), (REPLANS, 0.5, 47)];

struct Recorded {
    noise: Vec<f32>,
    states: Vec<f64>,
    lengths: Vec<i64>,
    seeds: Vec<u64>,
}

/// The most replans of an episode, and the size of one's noise.
const SLOTS: usize = 38;
const NOISE: usize = 16 * 2;
const STATES: usize = 301 * 5;

fn read(path: &Path) -> Result<Recorded, Failure> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let tensor = |name: &str, dtype: Dtype| -> Result<_, Failure> {
        let tensor = file.tensor(name)?;
        assert_eq!(tensor.dtype(), dtype, "{name}");
        Ok(tensor.data().to_vec())
    };
    let floats = tensor("noise", Dtype::F32)?;
    let doubles = tensor("states", Dtype::F64)?;
    let lengths: Vec<i64> = match file.tensor("lengths")?.dtype() {
        Dtype::I64 => tensor("lengths", Dtype::I64)?
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| i64::from_le_bytes(*b))
            .collect(),
        _ => tensor("lengths", Dtype::I32)?
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| i32::from_le_bytes(*b).into())
            .collect(),
    };
    Ok(Recorded {
        noise: floats
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        states: doubles
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect(),
        seeds: (100_000..).take(lengths.len()).collect(),
        lengths,
    })
}

fn observe(step: u32, seen: &pusht::Observation) -> Observation {
    Observation::new(Duration::from_millis(100) * step)
        .with("observation.state", seen.agent)
        .with("observation.environment_state", seen.key_points)
}

/// The distance of two states: agent and block in pixels, the block's angle by what it moves 100 px away.
fn distance(ours: [f64; 5], theirs: &[f64]) -> f64 {
    let angle = (ours[4] - theirs[4]).rem_euclid(std::f64::consts::TAU);
    let angle = angle.min(std::f64::consts::TAU - angle) * 100.0;
    (0..4)
        .map(|i| (ours[i] - theirs[i]).abs())
        .fold(angle, f64::max)
}

#[test]
fn fifty_episodes_with_the_same_noise() -> Result<(), Failure> {
    let recorded = read(&repository("tests/golden/lerobot/closed_loop.safetensors"))?;
    let episodes = recorded.seeds.len();
    assert_eq!(episodes, 50);
    let planner = Planner::load(
        &repository("models/pusht"),
        Duration::from_millis(100),
        &Device::flex(),
    )?;
    let mut worlds: Vec<PushT> = recorded
        .seeds
        .iter()
        .map(|&seed| PushT::reset(seed))
        .collect();
    let mut histories: Vec<History> = worlds
        .iter()
        .map(|world| History::new(vec![observe(0, &world.observation())]))
        .collect::<Result<_, _>>()?;
    let mut worst = vec![0.0_f64; episodes];
    let mut within: HashMap<usize, Vec<f64>> = HashMap::new();
    for replan in 0..REPLANS {
        let problems: Vec<Problem<'_>> = histories
            .iter()
            .enumerate()
            .map(|(episode, history)| {
                let start = (episode * SLOTS + replan) * NOISE;
                Problem::new(history).with_noise(&recorded.noise[start..start + NOISE])
            })
            .collect();
        let plans = planner.plan_batch(&problems, Budget::default(), &recorded.seeds);
        for (episode, plan) in plans.into_iter().enumerate() {
            for action in plan?.trajectory.waypoints() {
                let world = &mut worlds[episode];
                if world.steps() >= usize::try_from(recorded.lengths[episode])? {
                    break;
                }
                let seen =
                    world.step([0, 1].map(|i| action.position[i].clamp(0.0, pusht::SIZE)))?;
                let steps = world.steps();
                histories[episode].push(observe(u32::try_from(steps)?, &seen))?;
                let theirs = &recorded.states[episode * STATES + steps * 5..][..5];
                worst[episode] = worst[episode].max(distance(seen.state(), theirs));
            }
        }
        within.insert(replan + 1, worst.clone());
    }
    for (replans, pixels, least) in CLAIMS {
        let errors = &within[&replans];
        let close = errors.iter().filter(|&&error| error < pixels).count();
        let largest = errors.iter().fold(0.0, |a: f64, &b| a.max(b));
        println!(
            "{replans} replans: {close} of {episodes} within {pixels} px, the farthest {largest:.2e} px"
        );
        assert!(
            close >= least,
            "{close} of {episodes} episodes within {pixels} px over {replans} replans, not {least}"
        );
    }
    Ok(())
}
