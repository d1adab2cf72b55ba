//! A seed gives the noise that torch draws for it on the CPU, to 1e-6.

use clearway_diffusion::Torch;
use clearway_tests::{repository, shared};
use serde_json::Value;

/// torch's vectorized logarithm and sine differ from the exact ones in the last digits of f32.
const ELEMENT: f64 = 1e-6;
/// Of a sum, an element.
const MEAN: f64 = 1e-7;

type Failure = Box<dyn std::error::Error>;

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}

fn worst(ours: &[f32], theirs: &[f64]) -> f64 {
    assert!(!theirs.is_empty() && ours.len() == theirs.len());
    ours.iter()
        .zip(theirs)
        .map(|(a, b)| (f64::from(*a) - b).abs())
        .fold(0.0, f64::max)
}

#[test]
fn successive_draws_of_any_length() -> Result<(), Failure> {
    let file = std::fs::File::open(repository("tests/golden/torch/randn.json"))?;
    let goldens: Value = serde_json::from_reader(std::io::BufReader::new(file))?;
    let cases = goldens["cases"].as_array().ok_or("no cases")?;
    assert_eq!(cases.len(), 9);
    for case in cases {
        let seed = case["seed"].as_u64().ok_or("no seed")?;
        let mut generator = Torch::new(seed);
        for draw in case["draws"].as_array().ok_or("no draws")? {
            let length = draw["length"].as_u64().ok_or("no length")? as usize;
            let ours = generator.randn(length);
            let (first, last) = (numbers(&draw["first"]), numbers(&draw["last"]));
            assert!(
                worst(&ours[..first.len()], &first) <= ELEMENT,
                "seed {seed}, {length} values"
            );
            assert!(
                worst(&ours[length - last.len()..], &last) <= ELEMENT,
                "seed {seed}, {length} values"
            );
            let sum: f64 = ours.iter().map(|&value| f64::from(value)).sum();
            let theirs = draw["sum"].as_f64().ok_or("no sum")?;
            assert!(
                (sum - theirs).abs() <= MEAN * length as f64,
                "seed {seed}, {length} values: {sum}, torch {theirs}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_shared_vectors() -> Result<(), Failure> {
    let Some(file) = shared("fixtures/image/scheduler_goldens_0322.json") else {
        return Ok(());
    };
    let goldens: Value =
        serde_json::from_reader(std::io::BufReader::new(std::fs::File::open(file)?))?;
    for (key, seed, n) in [
        ("torch_randn_seed0_16", 0, 16),
        ("torch_randn_seed7_n5", 7, 5),
        ("torch_randn_seed7_n19", 7, 19),
    ] {
        assert!(
            worst(&Torch::new(seed).randn(n), &numbers(&goldens[key])) <= ELEMENT,
            "{key}"
        );
    }
    Ok(())
}
