//! *A trajectory is an image of time; one engine denoises both*: one function completes a picture of which a half is
//! known, and a plan of which start and goal are.
//!
//! ```sh
//! cargo run --release --example 08_inpaint_image_and_trajectory
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Denoiser, Inpaint, Network, Parameterized, Pins, Sampler, Seeded, Stage};
use clearway_planner::{History, Observation, Planner};
use clearway_sim::PushT;
use clearway_stable_diffusion::{Condition, Method, Picture, Sampling, StableDiffusion};

/// From noise to a sample of which `pins` are known.
fn complete<const D: usize, N: Denoiser<D>>(
    denoiser: N,
    prepared: &N::Prepared,
    stages: &[Stage],
    pins: Pins<D>,
    shape: [usize; D],
) -> Tensor<D> {
    let denoiser = Inpaint { denoiser, pins };
    let mut noise = Seeded::new(7, shape[0]);
    Sampler::from_noise(
        &denoiser,
        prepared,
        stages,
        shape,
        &Device::flex(),
        &mut noise,
    )
    .finish()
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let device = Device::flex();

    // A picture: the left half stays. The model is a tiny one of random weights.
    let files = folder.join("tests/golden/stable_diffusion/pipeline");
    let mut model = StableDiffusion::open(&files, &device)?;
    let source = Picture::read(&files.join("source.png"))?;
    let known = Tensor::from_data(TensorData::new(source.planes(), [1, 3, 64, 64]), &device);
    let known = model.autoencoder()?.encode(known).mean;
    let text = model.encode(&[&"a red fox".into()], 0)?.swap_remove(0);
    let unet = model.unet()?;
    let prepared = unet.prepare(&Condition::text(text));
    let sampling = Sampling {
        method: Method::Ddim,
        steps: 10,
        spacing: None,
    };
    let stages = sampling.plan(model.scheduler(), None)?.stages;
    let left = |column: usize| f32::from(u8::from(column < 4));
    let mask = Tensor::from_data(
        TensorData::new((0..8).map(left).collect(), [1, 1, 1, 8]),
        &device,
    );
    let denoiser = Parameterized::new(unet, model.scheduler().parameterization);
    let latents = complete(
        denoiser,
        &prepared,
        &stages,
        Pins::new(mask, known.clone()),
        [1, 4, 8, 8],
    );
    let off: f32 = (latents.clone() - known)
        .narrow(3, 0, 4)
        .abs()
        .max()
        .into_scalar();
    println!("picture: the known half is off by {off}");
    let planes = model
        .autoencoder()?
        .decode(latents)
        .into_data()
        .try_to_vec::<f32>();
    Picture::from_planes(64, 64, &planes.map_err(|error| format!("{error:?}"))?)?
        .write_png(Path::new("target/08_inpaint.png"), None)?;

    // A plan: it starts here and ends there, in the policy's own units. The policy is the one that is shipped.
    let planner = Planner::load(
        &folder.join("models/pusht"),
        Duration::from_millis(100),
        &device,
    )?;
    let seen = PushT::reset(7).observation();
    let mut history = History::default();
    history.push(
        Observation::new(Duration::ZERO)
            .with("observation.state", seen.agent)
            .with("observation.environment_state", seen.key_points),
    )?;
    let condition = planner.policy().condition(&history)?;
    let condition = TensorData::new(condition.clone(), [1, condition.len()]);
    let prepared = planner
        .denoiser()
        .prepare(&Tensor::from_data(condition, &device));
    let horizon = planner.policy().config().horizon;
    let mut known = vec![[0.0_f32; 2]; horizon];
    let mut mask = vec![[0.0_f32]; horizon];
    for (step, place) in [(0, [-0.5, -0.25]), (horizon - 1, [0.25, 0.5])] {
        (known[step], mask[step]) = (place, [1.0]);
    }
    let tensor = |values: &[f32], width| {
        Tensor::from_data(
            TensorData::new(values.to_vec(), [1, horizon, width]),
            &device,
        )
    };
    let pins = Pins::new(
        tensor(mask.as_flattened(), 1),
        tensor(known.as_flattened(), 2),
    );
    let plan = complete(
        planner.denoiser(),
        &prepared,
        planner.stages(),
        pins,
        [1, horizon, 2],
    );
    let plan: Vec<f32> = plan
        .into_data()
        .try_to_vec()
        .map_err(|error| format!("{error:?}"))?;
    let (first, last) = (&plan[..2], &plan[2 * (horizon - 1)..]);
    println!("plan: from {first:?} to {last:?}, in pixels");
    for place in planner.policy().actions(&plan).chunks(2) {
        println!("  {:6.1} {:6.1}", place[0], place[1]);
    }
    Ok(())
}
