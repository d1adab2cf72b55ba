//! A prompt becomes a picture, step by step, on the engine that plans trajectories.
//!
//! ```sh
//! cargo run --release --example 07_image [MODEL [PROMPT]]
//! ```
//!
//! `MODEL` is a folder of diffusers or a single file. Without one a tiny model of random weights is used, whose pictures
//! show nothing but that everything is in its place.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clearway_stable_diffusion::{Method, Parameters, Request, Source, StableDiffusion};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/stable_diffusion/pipeline");
    let model = arguments.next().map_or(tiny, PathBuf::from);
    let prompt = arguments
        .next()
        .unwrap_or_else(|| "a (red:1.2) fox in the snow".into());

    // Networks are loaded when they are needed, here one at a time: the text encoder, the U-Net, the autoencoder.
    let mut model = StableDiffusion::open(&model, &Device::flex())?.one_at_a_time();
    let request = Request {
        prompt: prompt.as_str().into(),
        negative: "blurry".into(),
        seeds: vec![42],
        method: Some(Method::DpmSolver2M),
        steps: 12,
        ..Request::default()
    };

    // The text is encoded once, and so is what every transformer reads of it. Progress, previews and cancelling are a
    // loop over the steps.
    let mut generation = model.generation(&request)?;
    for step in generation.steps() {
        let step = step?;
        let preview = step.preview()?.map(|pictures| pictures[0].clone());
        let colour = preview.map(|picture| mean(picture.rgb()));
        println!(
            "step {:2} of {}, t = {:5.1}, mean colour {colour:?}",
            step.index + 1,
            step.steps,
            step.t
        );
    }
    let made = generation.finish()?.swap_remove(0);

    // The PNG says how it was made.
    let path = Path::new("target/07_image.png");
    made.picture.write_png(path, Some(&made.parameters))?;
    println!(
        "\n{}:\n{}",
        path.display(),
        Parameters::read(path)?.unwrap_or_default().infotext()
    );

    // The same engine goes back part of the way, and forward again: image to image.
    let again = Request {
        prompt: "the same in summer".into(),
        source: Some(Source {
            picture: made.picture,
            mask: None,
            strength: 0.5,
        }),
        ..request
    };
    let made = model.generate(&again)?.swap_remove(0);
    let path = Path::new("target/07_image_again.png");
    made.picture.write_png(path, Some(&made.parameters))?;
    println!("\n{}", path.display());
    Ok(())
}

fn mean(rgb: &[u8]) -> [u8; 3] {
    let pixels = rgb.len() / 3;
    [0, 1, 2].map(|colour| {
        let sum: usize = rgb[colour..]
            .iter()
            .step_by(3)
            .map(|&byte| usize::from(byte))
            .sum();
        (sum / pixels.max(1)) as u8
    })
}
