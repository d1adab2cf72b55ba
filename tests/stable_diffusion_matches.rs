//! Stable Diffusion's networks compute here what they compute in diffusers, from every kind of file.
//!
//! `golden/stable_diffusion/` holds tiny random networks of every shape that is supported, and what diffusers 0.42.1
//! computes with them. The project's shared data hold one of Stable Diffusion 1.5's own structure, in both layouts, with
//! what diffusers 0.21.4 computes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Guidance, Level, Network, Point, Stack};
use clearway_layers::weights::LowRank;
use clearway_layers::{Precision, Weights};
use clearway_stable_diffusion::{
    AutoencoderKlConfig, AutoencoderTinyConfig, ClipTextConfig, Component, Condition, Config,
    Controlled, ControlledCondition, Files, GenerateError, Mid, StableDiffusion, Unet, UnetConfig,
    weights,
};
use clearway_tests::{repository, shared};
use serde_json::json;

/// The sums of a network in another order, in f32, relative to the largest number of the output: 3.4e-6 is the most that
/// was found of plain networks. The project's promise is 1e-4.
const NETWORK: f32 = 1e-5;
/// Packed, through the dozens of minimal filters of a decoder, which round more: 1.01e-5 was found.
const PACKED_DECODER: f32 = 2e-5;

/// A sinusoid of a large angle: the angle has an error of 3e-5 in f32.
const SINUSOID: f32 = 2e-5;

fn device() -> Device {
    Device::flex()
}

fn golden(name: &str) -> PathBuf {
    repository("tests/golden/stable_diffusion").join(name)
}

/// What was recorded.
struct Expected(Weights);

impl Expected {
    fn open(path: &Path) -> Self {
        Self(Weights::open(path).expect("the golden file opens"))
    }

    fn golden() -> Self {
        Self::open(&golden("expected.safetensors"))
    }

    fn get<const D: usize>(&mut self, key: &str) -> Tensor<D> {
        let shape = self.0.shape(key).expect(key).to_vec();
        let values = self.0.values(key, &shape).expect(key);
        Tensor::from_data(TensorData::new(values, shape), &device())
    }
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32")
}

/// The largest difference, relative to the largest number.
#[track_caller]
fn difference<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (host(found), host(expected));
    let largest = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let differences = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let most = differences.fold(
        0.0_f32,
        |most, v| if v > most || v.is_nan() { v } else { most },
    );
    assert!(largest > 0.0, "there is nothing to compare with");
    most / largest
}

#[track_caller]
fn assert_near<const D: usize>(name: &str, found: Tensor<D>, expected: Tensor<D>) {
    assert_within(NETWORK, name, found, expected);
}

#[track_caller]
fn assert_within<const D: usize>(
    tolerance: f32,
    name: &str,
    found: Tensor<D>,
    expected: Tensor<D>,
) {
    let difference = difference(found, expected);
    println!("{name:32} {difference:.1e}");
    assert!(
        difference <= tolerance,
        "{name} differs by {difference:e} of its largest number"
    );
}

fn point(t: f64) -> Point {
    Point {
        t,
        level: Level::CLEAN,
    }
}

/// The text of a case, and its points.
fn times() -> [Point; 2] {
    [point(500.0), point(3.0)]
}

/// As it is loaded, and as it computes on a robot.
const PRECISIONS: [Option<Precision>; 2] = [None, Some(Precision::F32)];

/// Packs a network, or leaves it plain. Packed ones have as many parameters.
macro_rules! packed {
    ($network:expr, $precision:expr) => {{
        let mut network = $network;
        if let Some(precision) = $precision {
            let parameters = network.parameters();
            let report = network.pack(precision);
            assert!(report.layers > 0 && report.parameters <= parameters);
            assert_eq!(network.parameters(), parameters);
        }
        network
    }};
}

fn load_unet(name: &str) -> Unet {
    // A folder of one network, as `save_pretrained` of a U-Net alone writes it.
    let folder = tempfile::tempdir().expect("a folder");
    copy(&golden(name), &folder.path().join("unet"));
    Files::open(folder.path())
        .and_then(|files| files.unet(&device()))
        .expect(name)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("can be made");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        std::fs::copy(&path, to.join(name)).expect("can be copied");
    }
}

#[test]
fn unets_of_every_shape_match() {
    let mut expected = Expected::golden();
    let names = ["unet", "inpaint", "guided", "small", "stages", "half"];
    for (name, precision) in names.into_iter().flat_map(|it| PRECISIONS.map(|p| (it, p))) {
        let network = packed!(load_unet(name), precision);
        let mut condition = Condition::text(expected.get(&format!("{name}.text")));
        let mut x: Tensor<4> = expected.get(&format!("{name}.x"));
        if name == "guided" {
            assert!(network.knows_guidance());
            condition.guidance = Some(vec![7.5, 2.0]);
        }
        if name == "inpaint" {
            condition.channels = Some(x.clone().narrow(1, 4, 5));
            x = x.narrow(1, 0, 4);
        }
        let prepared = network.prepare(&condition);
        let out = network.forward(x, &times(), &prepared);
        assert_near(name, out, expected.get(&format!("{name}.out")));
    }
}

#[test]
fn one_prompt_and_one_point_serve_all_samples() {
    let mut expected = Expected::golden();
    let network = load_unet("unet");
    let text: Tensor<3> = expected.get("unet.text");
    let x: Tensor<4> = expected.get("unet.x");
    let one = text.narrow(0, 0, 1);
    let two = Tensor::cat(vec![one.clone(), one.clone()], 0);
    let pass = |text, points: &[Point]| {
        let prepared = network.prepare(&Condition::text(text));
        network.forward(x.clone(), points, &prepared)
    };
    let out = pass(one, &[point(500.0)]);
    assert_near("one for all", out, pass(two, &[point(500.0); 2]));
}

#[test]
fn conditions_stack_for_guidance() {
    let mut expected = Expected::golden();
    let network = load_unet("guided");
    let x: Tensor<4> = expected.get("guided.x");
    let text: Tensor<3> = expected.get("guided.text");
    let part = |i, scale| Condition {
        guidance: Some(vec![scale]),
        ..Condition::text(text.clone().narrow(0, i, 1))
    };
    let guidance = Guidance {
        negative: part(0, 7.5),
        positive: part(1, 2.0),
    };
    let both = Condition::stack(&[&guidance.negative, &guidance.positive]);
    let out = network.forward(x, &times(), &network.prepare(&both));
    assert_near("stacked", out, expected.get("guided.out"));
}

#[test]
fn controlnets_match() {
    for precision in PRECISIONS {
        controlnets_match_in(precision);
    }
}

fn controlnets_match_in(precision: Option<Precision>) {
    let mut expected = Expected::golden();
    let unet = packed!(load_unet("unet"), precision);
    let network = weights::controlnet(&golden("controlnet"), &device()).expect("it loads");
    let network = packed!(network, precision);
    assert_eq!(network.differs_from(&unet), None);
    assert!(network.differs_from(&load_unet("stages")).is_some());
    assert_eq!(network.factor(), 8);
    let x: Tensor<4> = expected.get("controlnet.x");
    let text = Condition::text(expected.get("controlnet.text"));
    let picture: Tensor<4> = expected.get("controlnet.picture");
    let points = [point(700.0)];
    let prepared = network.prepare(&text, picture.clone());
    let residuals = network.forward(x.clone(), &points, &prepared).scale(0.7);
    for (i, residual) in residuals.down().iter().enumerate() {
        let name = format!("controlnet.down.{i}");
        assert_near(&name, residual.clone(), expected.get(&name));
    }
    let mid = residuals.mid().clone();
    assert_near("controlnet.mid", mid, expected.get("controlnet.mid"));
    assert!(
        expected
            .0
            .shape(&format!("controlnet.down.{}", residuals.down().len()))
            .is_none()
    );

    // The same twice at half of its strength is the same.
    for controls in [
        vec![(network.clone(), 0.7)],
        vec![(network.clone(), 0.35), (network.clone(), 0.35)],
    ] {
        let condition = ControlledCondition {
            unet: text.clone(),
            pictures: vec![picture.clone(); controls.len()],
        };
        let controlled = Controlled {
            unet: unet.clone(),
            controls,
        };
        let prepared = controlled.prepare(&condition);
        let out = controlled.forward(x.clone(), &points, &prepared);
        assert_near("controlled", out, expected.get("controlnet.out"));
    }
}

#[test]
fn a_controlnet_loads_as_its_authors_save_it() {
    let mut expected = Expected::golden();
    let network = weights::controlnet(&golden("control.pth"), &device()).expect("it loads");
    let text = Condition::text(expected.get("control.text"));
    let prepared = network.prepare(&text, expected.get("control.picture"));
    let residuals = network.forward(expected.get("control.x"), &[point(20.0)], &prepared);
    let (down, mid) = (residuals.down(), residuals.mid().clone());
    assert_near("control.mid", mid, expected.get("control.mid"));
    assert_near(
        "control.first",
        down[0].clone(),
        expected.get("control.first"),
    );
    assert_near(
        "control.last",
        down[down.len() - 1].clone(),
        expected.get("control.last"),
    );
}

#[test]
fn autoencoders_match() {
    for precision in PRECISIONS {
        autoencoders_match_in(precision);
    }
}

fn autoencoders_match_in(precision: Option<Precision>) {
    let mut expected = Expected::golden();
    let vae = weights::autoencoder(&golden("vae"), &device()).expect("it loads");
    let vae = packed!(vae, precision);
    assert_eq!((vae.factor(), vae.latent_channels()), (4, 3));
    let posterior = vae.encode(expected.get("vae.x"));
    assert_near(
        "vae.mean",
        posterior.mean.clone(),
        expected.get("vae.scaled"),
    );
    let deviation = posterior
        .deviation
        .clone()
        .expect("it has one")
        .div_scalar(0.3);
    assert_near("vae.deviation", deviation, expected.get("vae.deviation"));
    let noise = posterior.mean.ones_like();
    let sample = posterior.sample(noise);
    let by_hand = expected.get::<4>("vae.scaled") + expected.get::<4>("vae.deviation") * 0.3;
    assert_near("vae.sample", sample, by_hand);
    assert_near(
        "vae.out",
        vae.decode(expected.get("vae.z")),
        expected.get("vae.out"),
    );

    let tiny = weights::autoencoder(&golden("tiny"), &device()).expect("it loads");
    let tiny = packed!(tiny, precision);
    let latents = tiny.encode(expected.get("tiny.x")).mean;
    assert_near("tiny.latents", latents, expected.get("tiny.latents"));
    assert_near(
        "tiny.out",
        tiny.decode(expected.get("tiny.z")),
        expected.get("tiny.out"),
    );
}

#[test]
fn the_tiny_autoencoder_loads_as_its_author_saves_it() {
    let mut expected = Expected::golden();
    let config = Config::open(&golden("tiny/config.json")).expect("it is JSON");
    let config = AutoencoderTinyConfig::read(&config).expect("it is supported");
    let open = |name| Weights::open_pytorch(&golden(name)).expect("it opens");
    let network = config
        .init(&device())
        .load_pair(open("tiny_encoder.pth"), open("tiny_decoder.pth"))
        .expect("it loads");
    let latents = network.encode(expected.get("tiny.x"));
    assert_near("tiny.latents", latents, expected.get("tiny.latents"));
    let out = network.decode(expected.get("tiny.z"));
    assert_near("tiny.out", out, expected.get("tiny.out"));
}

#[test]
fn a_checkpoint_of_a_training_program_says_all_by_its_shapes() {
    let mut expected = Expected::golden();
    let files = Files::open(&golden("single.ckpt")).expect("it is there");
    let config = files.unet_config().expect("it is supported");
    assert_eq!(config.encoder.block_out_channels, [32, 64]);
    assert_eq!(config.encoder.layers_per_block, [1, 1]);
    assert_eq!(config.encoder.down_attention, [true, false]);
    assert_eq!(config.up_attention, [true, false]);
    assert_eq!(config.encoder.mid, Mid::CrossAttention);
    let unet = files.unet(&device()).expect("it loads");
    let prepared = unet.prepare(&Condition::text(expected.get("single.unet.text")));
    let out = unet.forward(expected.get("single.unet.x"), &times(), &prepared);
    assert_near("single.unet", out, expected.get("single.unet.out"));

    let vae = files.autoencoder(&device()).expect("it loads");
    // Stable Diffusion's own scale.
    let mean = vae
        .encode(expected.get("single.vae.x"))
        .mean
        .div_scalar(0.18215);
    assert_near("single.vae.mean", mean, expected.get("single.vae.mean"));
    let z = expected.get::<4>("single.vae.z").mul_scalar(0.18215);
    assert_near(
        "single.vae.out",
        vae.decode(z),
        expected.get("single.vae.out"),
    );

    let text = files.text_encoder(&device()).expect("it loads");
    assert_eq!(text.layers(), 2, "the last of three is not used");
    let tokens = tokens(&mut expected.0, "single.text.tokens");
    let encoded = text.encode(&tokens, 0).expect("known tokens");
    assert_near(
        "single.text",
        encoded.clone(),
        expected.get("single.text.last"),
    );
    let embedded = text.embed(&tokens).expect("known tokens");
    let before = text.hidden(embedded, 1).expect("two layers");
    assert_near(
        "single.text, but one",
        before,
        expected.get("single.text.before"),
    );
    let pooled = text.pooled(&encoded, &tokens);
    assert_near(
        "single.text, pooled",
        pooled,
        expected.get("single.text.pooled"),
    );
}

/// Tokens, which are whole numbers in their file.
fn tokens(weights: &mut Weights, key: &str) -> Vec<Vec<u32>> {
    let length = weights.shape(key).expect(key)[1];
    let tokens = weights.integers(key).expect(key);
    let tokens: Vec<u32> = tokens
        .into_iter()
        .map(|token| token.try_into().expect("is not negative"))
        .collect();
    tokens.chunks(length).map(<[u32]>::to_vec).collect()
}

#[test]
fn updates_are_merged_under_diffusers_names() {
    let files = Files::open(&golden("single.ckpt")).expect("it is there");
    let x: Tensor<4> = Expected::golden().get("single.unet.x");
    let text: Tensor<3> = Expected::golden().get("single.unet.text");
    let pass = |unet: &Unet| {
        let prepared = unet.prepare(&Condition::text(text.clone()));
        unet.forward(x.clone(), &times(), &prepared)
    };
    let plain = pass(&files.unet(&device()).expect("it loads"));
    let updated = |updates: &[(&str, f32)]| {
        let mut weights = files.weights(Component::Unet).expect("they open");
        for (key, scale) in updates {
            let shape = weights.shape(key).expect(key).to_vec();
            let columns: usize = shape[1..].iter().product();
            let wave = |n: usize| (0..n).map(|i| (i as f32).sin()).collect();
            let update = LowRank::new(wave(2 * shape[0]), wave(2 * columns), 2, *scale);
            weights.merge(key, update).expect("it fits");
        }
        pass(&files.unet_from(weights, &device()).expect("it loads"))
    };
    let key = "down_blocks.0.attentions.0.proj_in.weight";
    let conv = "down_blocks.0.resnets.0.conv1.weight";
    let changed = updated(&[(key, 0.1), (conv, 0.1)]);
    assert!(
        difference(changed.clone(), plain.clone()) > 1e-3,
        "it changes something"
    );
    // What is added and taken away again leaves what was.
    let back = updated(&[(key, 0.1), (conv, 0.1), (key, -0.1), (conv, -0.1)]);
    assert_near("added and taken away", back, plain);
}

#[test]
fn what_is_missing_is_named() {
    let files = Files::open(&golden("tiny_encoder.pth")).expect("it is there");
    let error = files.unet(&device()).expect_err("it is an encoder");
    let message = error.to_string();
    assert!(
        message.ends_with(
            "holds no U-Net: no tensor is called `model.diffusion_model.input_blocks.0.0.weight`"
        ),
        "{message}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let files = Files::open(folder.path()).expect("it is there");
    let message = files.unet(&device()).expect_err("it is empty").to_string();
    assert!(
        message.contains("unet holds no weights: none of diffusion_pytorch_model"),
        "{message}"
    );

    // A configuration of another network than the weights are of.
    copy(&golden("unet"), &folder.path().join("unet"));
    let config = folder.path().join("unet/config.json");
    std::fs::copy(golden("small/config.json"), config).expect("can be copied");
    let message = files
        .unet(&device())
        .expect_err("another network")
        .to_string();
    assert!(message.contains("tensor `"), "{message}");
}

#[test]
fn files_that_are_cut_short_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [
        "single.ckpt",
        "unet/diffusion_pytorch_model.safetensors",
        "tiny_decoder.pth",
    ] {
        let whole = std::fs::read(golden(name)).expect("it is there");
        let path = folder.path().join("cut");
        for part in 0..8 {
            std::fs::write(&path, &whole[..whole.len() * part / 8]).expect("can be written");
            let error = Files::open(&path)
                .and_then(|files| files.unet(&device()))
                .expect_err(name);
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Every file of a model, each cut at three places; the others are whole.
#[test]
fn a_model_with_any_file_cut_short_is_an_error() {
    let Some(model) = shared("fixtures/image/tiny_sd") else {
        return;
    };
    let opens = |path: &Path| -> Result<(), GenerateError> {
        let mut model = StableDiffusion::open(path, &device())?;
        model.text_encoder()?;
        model.unet()?;
        model.autoencoder()?;
        Ok(())
    };
    opens(&model).expect("it is whole");
    let parts = ["scheduler", "text_encoder", "unet", "vae"].map(|part| match part {
        "scheduler" => (part, golden("pipeline/scheduler")),
        _ => (part, model.join(part)),
    });
    let mut cut = 0;
    for (part, from) in &parts {
        let names = std::fs::read_dir(from).expect("a folder of a model");
        for name in names.map(|entry| entry.expect("an entry").file_name()) {
            let folder = tempfile::tempdir().expect("a folder");
            for (part, from) in &parts {
                copy(from, &folder.path().join(part));
            }
            let path = folder.path().join(part).join(&name);
            let whole = std::fs::read(&path).expect("it is there");
            for share in [0, 1, 2] {
                std::fs::write(&path, &whole[..whole.len() * share / 3]).expect("can be written");
                let error = opens(folder.path());
                let error = error.expect_err(&format!("{part}/{}", name.display()));
                assert!(!error.to_string().contains('\n'), "one sentence: {error}");
                cut += 1;
            }
        }
    }
    assert_eq!(cut, 3 * 7, "three networks of two files, and a scheduler");

    let single = shared("fixtures/image/tiny_sd_ldm.safetensors").expect("it lies beside");
    let whole = std::fs::read(single).expect("it is there");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cut.safetensors");
    for share in [0, 1, 2] {
        std::fs::write(&path, &whole[..whole.len() * share / 3]).expect("can be written");
        Files::open(&path)
            .map(|files| files.with_configs(&model))
            .and_then(|files| files.unet(&device()))
            .expect_err("it is cut short");
    }
}

#[test]
fn a_wrong_bit_is_an_error_or_another_number() {
    let whole = std::fs::read(golden("views.pt")).expect("it is there");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wrong");
    let mut opened = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, bytes).expect("can be written");
        let Ok(mut weights) = Weights::open_pytorch(&path) else {
            continue;
        };
        opened += 1;
        let keys: Vec<String> = weights.keys().map(str::to_owned).collect();
        for key in keys {
            let shape = weights.shape(&key).expect("it is listed").to_vec();
            // What no network asks for may take all memory.
            if shape.iter().product::<usize>() < 1 << 20 {
                let _ = weights.values(&key, &shape);
            }
        }
    }
    assert!(opened > 0, "most of an archive is padding");
}

/// The fixture of Stable Diffusion 1.5's structure, in both layouts.
fn tiny_sd() -> Option<(Expected, Vec<(&'static str, Files)>)> {
    let folder = shared("fixtures/image/tiny_sd")?;
    let single = shared("fixtures/image/tiny_sd_ldm.safetensors")?;
    let expected = Expected::open(&folder.join("expected.safetensors"));
    let open = |path: &Path| Files::open(path).expect("it is there");
    let layouts = vec![
        ("folder", open(&folder)),
        // The shapes do not say the numbers of heads and groups, which are not Stable Diffusion's.
        ("single", open(&single).with_configs(&folder)),
    ];
    Some((expected, layouts))
}

/// Each layout, plain and packed.
fn both<'a>(
    layouts: &'a [(&'static str, Files)],
) -> impl Iterator<Item = (&'a (&'static str, Files), Option<Precision>)> {
    layouts
        .iter()
        .flat_map(|layout| PRECISIONS.map(|precision| (layout, precision)))
}

#[test]
fn the_text_encoder_of_stable_diffusion_1_matches() {
    let Some((mut expected, layouts)) = tiny_sd() else {
        return;
    };
    for ((layout, files), precision) in both(&layouts) {
        let network = packed!(files.text_encoder(&device()).expect(layout), precision);
        assert_eq!(network.parameters(), 40_512);
        let tokens = tokens(&mut expected.0, "input_ids");
        let last = network.encode(&tokens, 0).expect("known tokens");
        assert_near(layout, last, expected.get("clip_last_hidden"));
        let embedded = network.embed(&tokens).expect("known tokens");
        let hidden = network.hidden(embedded, 1).expect("three layers");
        assert_near(
            layout,
            hidden.clone(),
            expected.get("clip_hidden_penultimate"),
        );
        let skipped = network.encode(&tokens, 1).expect("three layers");
        assert_near(layout, skipped, network.normalize(hidden));
    }
}

#[test]
fn the_unet_of_stable_diffusion_1_matches() {
    let Some((mut expected, layouts)) = tiny_sd() else {
        return;
    };
    for ((layout, files), precision) in both(&layouts) {
        let network = packed!(files.unet(&device()).expect(layout), precision);
        assert_eq!(network.parameters(), 820_564);
        let text: Tensor<3> = expected.get("clip_last_hidden");
        let prepared = network.prepare(&Condition::text(text));
        let x: Tensor<4> = expected.get("unet_in");
        let mut seen = BTreeMap::new();
        let at = [point(500.0)];
        let out = network.forward_observed(x.clone(), &at, &prepared, None, &mut |name, x| {
            seen.insert(name.to_owned(), x.clone());
        });
        assert_near("unet_out_t500", out, expected.get("unet_out_t500"));
        let both = [point(1.0), point(999.0)];
        let out = network.forward(x, &both, &prepared);
        assert_near("unet_out_t_1_999", out, expected.get("unet_out_t_1_999"));
        let time = network.embed(&at, &prepared).repeat_dim(0, 2);
        assert!(difference(time, expected.get("act.time_embedding")) <= SINUSOID);
        let names: Vec<String> = expected
            .0
            .keys()
            .filter_map(|key| key.strip_prefix("act."))
            .filter(|name| !name.starts_with("time_"))
            .map(str::to_owned)
            .collect();
        assert_eq!(names.len(), 13);
        for name in names {
            let found = seen.remove(&name).expect(&name);
            assert_near(&name, found, expected.get(&format!("act.{name}")));
        }
    }
}

#[test]
fn the_autoencoder_of_stable_diffusion_1_matches() {
    let Some((mut expected, layouts)) = tiny_sd() else {
        return;
    };
    for ((layout, files), precision) in both(&layouts) {
        let network = packed!(files.autoencoder(&device()).expect(layout), precision);
        assert_eq!(network.parameters(), 111_839);
        assert_eq!((network.factor(), network.latent_channels()), (8, 4));
        let posterior = network.encode(expected.get("vae_in"));
        let mean = posterior.mean.div_scalar(0.18215);
        assert_near("vae_mean", mean, expected.get("vae_mean"));
        let deviation = posterior.deviation.expect("it has one").div_scalar(0.18215);
        assert_near(
            "vae_logvar",
            deviation.log() * 2.0,
            expected.get("vae_logvar"),
        );
        let z = expected.get::<4>("vae_z").mul_scalar(0.18215);
        let tolerance = if precision.is_some() {
            PACKED_DECODER
        } else {
            NETWORK
        };
        let decoded = network.decode(z);
        assert_within(tolerance, "vae_dec", decoded, expected.get("vae_dec"));
    }
}

#[test]
fn tensors_of_pytorch_are_views() {
    let mut weights = Weights::open_pytorch(&golden("views.pt")).expect("it opens");
    let mut read = |key: &str, shape: &[usize]| weights.values(key, shape).expect(key);
    let transposed = [0.0, 4.0, 8.0, 1.0, 5.0, 9.0, 2.0, 6.0, 10.0, 3.0, 7.0, 11.0];
    assert_eq!(read("transposed", &[4, 3]), transposed);
    assert_eq!(read("shifted", &[4]), [5.0, 6.0, 7.0, 8.0]);
    assert_eq!(read("tied", &[4]), [5.0, 6.0, 7.0, 8.0]);
    assert_eq!(read("repeated", &[3, 2]), [2.0, 3.0, 2.0, 3.0, 2.0, 3.0]);
    assert_eq!(read("parameter", &[3]), [0.0, 1.0, 2.0]);
    assert_eq!(read("nested.scalar", &[]), [2.5]);
    weights.finish().expect("that is all");

    let mut weights = Weights::open_pytorch(&golden("views.pt")).expect("it opens");
    weights.split("transposed", &["a", "b"]).expect("four rows");
    assert_eq!(
        weights.values("b", &[2, 3]).expect("a part"),
        transposed[6..]
    );
}

#[test]
fn stable_diffusion_1_has_as_many_parameters_as_the_published_files() {
    let Some(keys) = shared("reference/sd15-keys.tsv") else {
        return;
    };
    let text = std::fs::read_to_string(keys).expect("it can be read");
    let published = |network: &str| -> usize {
        let shapes = text.lines().filter_map(|line| {
            let mut fields = line.split('\t');
            (fields.next() == Some(network)).then(|| fields.nth(1).expect("a shape"))
        });
        let sizes = |shape: &str| -> usize {
            let sizes = shape
                .split('x')
                .map(|n| n.parse::<usize>().expect("a number"));
            sizes.product()
        };
        shapes.map(sizes).sum()
    };
    let config = |json| Config::new("config.json", json).expect("an object");
    let unet = config(json!({"cross_attention_dim": 768}));
    let unet = UnetConfig::read(&unet).expect("it is supported");
    assert_eq!(unet.init(&device()).parameters(), published("unet"));
    let vae = config(json!({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}));
    let vae = AutoencoderKlConfig::read(&vae).expect("it is supported");
    assert_eq!(vae.init(&device()).parameters(), published("vae"));
    let text = config(json!({
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
    }));
    let text = ClipTextConfig::read(&text).expect("it is supported");
    assert_eq!(text.init(&device()).parameters(), published("text_encoder"));
}

/// The signal-to-noise ratio at the peak, in decibels.
fn psnr<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (host(found), host(expected));
    let peak = expected
        .iter()
        .fold(0.0_f64, |most, v| most.max(f64::from(v.abs())));
    let squares = found.iter().zip(&expected);
    let squares = squares.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    10.0 * (peak.powi(2) * expected.len() as f64 / squares).log10()
}

/// The most memory that this process had, in MB.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) / 1024
}

/// Of a whole network in f32; float16 would be worth 60.
const FULL_SIZE_DB: f64 = 80.0;
/// Weights in bf16 are wrong by up to 2⁻⁸.
const FULL_SIZE_BF16_DB: f64 = 40.0;

#[test]
#[ignore = "needs the folder that golden/stable_diffusion/full_size.py writes, in CLEARWAY_FULL_SIZE"]
fn networks_of_full_size_match() {
    let folder = std::env::var_os("CLEARWAY_FULL_SIZE").expect("CLEARWAY_FULL_SIZE is set");
    for (precision, least) in [
        (Some(Precision::F32), FULL_SIZE_DB),
        (Some(Precision::Bf16), FULL_SIZE_BF16_DB),
        (None, FULL_SIZE_DB),
    ] {
        let precision_is = precision.map_or("plain".into(), |it| it.to_string());
        println!("\n{precision_is}");
        networks_of_full_size(Path::new(&folder), precision, least);
    }
}

fn networks_of_full_size(folder: &Path, precision: Option<Precision>, least: f64) {
    let files = Files::open(folder).expect("it is there");
    let mut expected = Expected::open(&folder.join("expected.safetensors"));
    let start = Cell::new(Instant::now());
    let lap = |what: &str| {
        let now = Instant::now();
        let ms = now.duration_since(start.replace(now)).as_secs_f64() * 1000.0;
        println!("{what:24} {ms:8.0} ms, at most {} MB", peak_memory());
    };
    let check = |name: &str, psnr: f64| {
        println!("{name:24} {psnr:8.1} dB");
        assert!(psnr > least);
        start.set(Instant::now());
    };

    let tokens = tokens(&mut expected.0, "tokens");
    start.set(Instant::now());
    let mut network = files.text_encoder(&device()).expect("it loads");
    lap("text encoder, load");
    if let Some(precision) = precision {
        let report = network.pack(precision);
        lap(&format!("text encoder, pack {} MB", report.bytes >> 20));
    }
    let out = network.encode(&tokens, 0).expect("known tokens");
    lap("text encoder, 2 texts");
    check("text encoder", psnr(out, expected.get("text")));
    drop(network);

    let mut network = files.autoencoder(&device()).expect("it loads");
    lap("autoencoder, load");
    if let Some(precision) = precision {
        let report = network.pack(precision);
        lap(&format!("autoencoder, pack {} MB", report.bytes >> 20));
    }
    let z = expected.get::<4>("z").mul_scalar(0.18215);
    let out = network.decode(z.clone());
    lap("decoder, 512 x 512");
    network.decode(z);
    lap("decoder, 512 x 512, again");
    check("decoder", psnr(out, expected.get("decoded")));
    let mean = network.encode(expected.get("picture")).mean;
    lap("encoder, 256 x 256");
    check(
        "encoder",
        psnr(mean.div_scalar(0.18215), expected.get("mean")),
    );
    drop(network);

    let mut network = files.unet(&device()).expect("it loads");
    lap("U-Net, load");
    if let Some(precision) = precision {
        let report = network.pack(precision);
        lap(&format!("U-Net, pack {} MB", report.bytes >> 20));
    }
    let text = expected.get::<3>("text").narrow(0, 0, 1);
    let prepared = network.prepare(&Condition::text(text));
    lap("U-Net, prepare");
    let mut pass = || network.forward(expected.get("x"), &[point(500.0)], &prepared);
    let out = pass();
    lap("U-Net, 64 x 64");
    pass();
    lap("U-Net, 64 x 64, again");
    check("U-Net", psnr(out, expected.get("out")));
}
