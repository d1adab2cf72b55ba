//! Clearway's side of `policy_passes.py` and `image_passes.py`: loads one network and times what each line on standard
//! input asks for.
//!
//! `clearway_pass policy|text|unet|decoder PATH f32|bf16|int8|int4|plain INPUTS`, with a folder of LeRobot's or diffusers', and a
//! safetensors file with the inputs of a pass, all f32.
//!
//! | line | what is done | answer |
//! |---|---|---|
//! | `time N` | N passes, of which nothing is known before | N milliseconds |
//! | `cached N` | N passes of a policy within a plan: condition and timestep are known | N milliseconds |
//! | `weights N` | reading as many bytes as the weights have, N times | N milliseconds |
//! | `run FILE` | a pass; what it gives goes into a safetensors file as `out` | the parameters |
//! | `memory` | | the most memory that the process had, in MB |
//!
//! The process stays warm between lines and sleeps while it waits. `RAYON_NUM_THREADS` sets its threads.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Level, Network as _, Point};
use clearway_layers::{Memory, PackReport, Precision, Weights, in_team};
use clearway_planner::Policy;
use clearway_stable_diffusion::{Condition, DECODING_MEMORY, Files};

/// As in the `clearway` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;

/// What a pass gives: its shape and its numbers.
type Output = (Vec<usize>, Vec<f32>);

/// A network with its inputs.
struct Network {
    parameters: usize,
    /// A pass at a timestep that is moved by so much.
    pass: Box<dyn Fn(f64) -> Result<Output, Failure>>,
    /// The same with what can be known before.
    cached: Option<Box<dyn Fn() -> Result<Output, Failure> + Sync>>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, path, precision, inputs] = &arguments[..] else {
        return Err(
            "clearway_pass policy|text|unet|decoder PATH f32|bf16|int8|int4|plain INPUTS".into(),
        );
    };
    let precision = match &**precision {
        "f32" => Some(Precision::F32),
        "bf16" => Some(Precision::Bf16),
        "int8" => Some(Precision::Int8),
        "int4" => Some(Precision::INT4),
        "plain" => None,
        other => {
            return Err(format!("`{other}` is none of f32, bf16, int8, int4 and plain").into());
        }
    };
    let inputs = Inputs(Weights::open(Path::new(inputs))?);
    let path = Path::new(path);
    let network = match &**what {
        "policy" => policy(path, precision, inputs)?,
        "text" => text(path, precision, inputs)?,
        "unet" => unet(path, precision, inputs)?,
        "decoder" => decoder(path, precision, inputs)?,
        other => return Err(format!("`{other}` is no network that is known").into()),
    };
    // Of codes without those layers that are kept in f32: a floor is not more than it may be.
    let sixteenths = match precision {
        Some(Precision::Bf16) => 32,
        Some(Precision::Int8) => 16,
        Some(Precision::Int4 { .. }) => 9,
        _ => 64,
    };
    let bytes = network.parameters * sixteenths / 16;
    let mut memory = None;
    let mut passes = 0_u32;

    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}",
        serde_json::json!({"threads": rayon::current_num_threads()})
    )?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (what, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match what {
            "time" => {
                let pass = || {
                    passes += 1;
                    // Too little to matter, and enough to be another timestep.
                    (network.pass)(f64::from(passes) * 1e-6)
                };
                serde_json::json!(time(argument.parse()?, pass)?)
            }
            "cached" => {
                let cached = network.cached.as_ref().ok_or("only a policy has plans")?;
                // As a plan calls it: its passes follow each other, and the threads stay awake.
                let passes = argument.parse()?;
                serde_json::json!(in_team(|| time(passes, cached))?)
            }
            "weights" => {
                let memory = memory.get_or_insert_with(|| Memory::new(bytes));
                let read = || {
                    memory.read(bytes);
                    Ok(())
                };
                serde_json::json!(time(argument.parse()?, read)?)
            }
            "run" => {
                write(Path::new(argument), &(network.pass)(0.0)?)?;
                serde_json::json!(network.parameters)
            }
            "memory" => serde_json::json!(peak_memory()),
            _ => return Err(format!("`{what}` is no word that is known").into()),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

/// The inputs of a pass.
struct Inputs(Weights);

impl Inputs {
    fn get<const D: usize>(&mut self, key: &str) -> Result<Tensor<D>, Failure> {
        let shape = self.0.shape(key).ok_or("an input is missing")?.to_vec();
        let values = self.0.values(key, &shape)?;
        let data = TensorData::new(values, shape);
        Ok(Tensor::from_data(data, &Device::flex()))
    }

    fn timestep(&mut self) -> Result<f64, Failure> {
        let t = self.get::<1>("t")?.into_data().try_to_vec::<f32>();
        Ok(f64::from(t.map_err(|_| "a timestep is f32")?[0]))
    }
}

fn policy(
    path: &Path,
    precision: Option<Precision>,
    mut inputs: Inputs,
) -> Result<Network, Failure> {
    let mut policy = Policy::load(path, &Device::flex())?;
    if let Some(precision) = precision {
        // What it reports is known.
        let _ = policy.pack(precision);
    }
    let network = policy.network().clone();
    let (x, t) = (inputs.get::<3>("x")?, inputs.timestep()?);
    let condition = inputs.get::<2>("condition")?;
    let prepared = network.prepare(&condition);
    let (x_known, known) = (x.clone(), network.clone());
    Ok(Network {
        parameters: network.parameters(),
        pass: Box::new(move |moved| {
            in_team(|| {
                let prepared = network.prepare(&condition);
                output(network.forward(x.clone(), &[point(t + moved)], &prepared))
            })
        }),
        cached: Some(Box::new(move || {
            output(known.forward(x_known.clone(), &[point(t)], &prepared))
        })),
    })
}

fn text(path: &Path, precision: Option<Precision>, mut inputs: Inputs) -> Result<Network, Failure> {
    let mut network = Files::open(path)?.text_encoder(&Device::flex())?;
    let parameters = network.parameters();
    if let Some(precision) = precision {
        let _: PackReport = network.pack(precision);
    }
    let tokens = inputs.get::<2>("tokens")?;
    let [_, length] = tokens.dims();
    let tokens = output(tokens)?.1;
    let tokens: Vec<Vec<u32>> = tokens
        .chunks(length)
        .map(|text| text.iter().map(|&token| token as u32).collect())
        .collect();
    Ok(Network {
        parameters,
        pass: Box::new(move |_| output(network.encode(&tokens, 0)?)),
        cached: None,
    })
}

fn unet(path: &Path, precision: Option<Precision>, mut inputs: Inputs) -> Result<Network, Failure> {
    let mut network = Files::open(path)?.unet(&Device::flex())?;
    let parameters = network.parameters();
    if let Some(precision) = precision {
        let _: PackReport = network.pack(precision);
    }
    let (x, t) = (inputs.get::<4>("x")?, inputs.timestep()?);
    let condition = Condition::text(inputs.get::<3>("text")?);
    Ok(Network {
        parameters,
        pass: Box::new(move |moved| {
            let prepared = network.prepare(&condition);
            output(network.forward(x.clone(), &[point(t + moved)], &prepared))
        }),
        cached: None,
    })
}

fn decoder(
    path: &Path,
    precision: Option<Precision>,
    mut inputs: Inputs,
) -> Result<Network, Failure> {
    let mut network = Files::open(path)?.autoencoder(&Device::flex())?;
    let parameters = network.parameters();
    if let Some(precision) = precision {
        let _: PackReport = network.pack(precision);
    }
    let z = inputs.get::<4>("z")?;
    Ok(Network {
        parameters,
        pass: Box::new(move |_| output(network.decode_within(z.clone(), DECODING_MEMORY))),
        cached: None,
    })
}

/// The level does not matter to a network.
fn point(t: f64) -> Point {
    Point {
        t,
        level: Level::CLEAN,
    }
}

fn output<const D: usize>(tensor: Tensor<D>) -> Result<Output, Failure> {
    let shape = tensor.dims().to_vec();
    let values = tensor
        .into_data()
        .try_into_vec()
        .map_err(|_| "networks compute in f32")?;
    Ok((shape, values))
}

/// The milliseconds of each call.
fn time<T>(
    times: usize,
    mut call: impl FnMut() -> Result<T, Failure>,
) -> Result<Vec<f64>, Failure> {
    let one = |_| {
        let begun = Instant::now();
        let result = call()?;
        let elapsed = begun.elapsed();
        drop(result);
        Ok(elapsed.as_secs_f64() * 1e3)
    };
    (0..times).map(one).collect()
}

fn write(path: &Path, (shape, values): &Output) -> Result<(), Failure> {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let header = serde_json::json!(BTreeMap::from([(
        "out",
        serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [0, bytes.len()]}),
    )]))
    .to_string();
    let mut file = std::fs::File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.write_all(&bytes)?;
    Ok(())
}

/// The most memory that this process had, in MB, where the system says it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1024)
}
