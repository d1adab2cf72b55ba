//! LeRobot's network a second time, in plain f64 loops over the tensors of a file.
//!
//! It is tied to LeRobot by the golden outputs of `models/pusht`, in `lerobot_layouts_load.rs`.

#![allow(dead_code)] // Each test uses a part.

use std::collections::BTreeMap;

use clearway_layers::Weights;
use clearway_tests::repository;

use crate::lerobot_checkpoint::{Entry, Shape};

/// Channels, each a row of values over time.
type Signal = Vec<Vec<f64>>;

/// LeRobot's network in plain loops.
pub struct Reference {
    tensors: BTreeMap<String, Entry>,
    n_groups: usize,
    scales: bool,
    levels: usize,
    action: usize,
}

/// All tensors of a file of the shipped policy.
pub fn entries(file: &str) -> Vec<Entry> {
    let path = repository("models/pusht").join(file);
    let mut weights = Weights::open(&path).expect("opens");
    let keys: Vec<String> = weights.keys().map(Into::into).collect();
    keys.into_iter()
        .map(|key| {
            let shape = weights.shape(&key).expect("is there").to_vec();
            let values = weights.values(&key, &shape).expect("can be read");
            Entry::new(key, &shape, values)
        })
        .collect()
}

fn mish(x: f64) -> f64 {
    x * x.exp().ln_1p().tanh()
}

impl Reference {
    pub fn new(entries: &[Entry], shape: &Shape) -> Self {
        let tensors = entries.iter().map(|e| (e.key.clone(), e.clone()));
        Self {
            tensors: tensors.collect(),
            n_groups: shape.n_groups,
            scales: shape.scales,
            levels: shape.down_dims.len(),
            action: shape.action,
        }
    }

    /// That of the shipped policy.
    pub fn shipped() -> Self {
        let shape = Shape {
            down_dims: vec![64, 128, 256],
            kernel_size: 5,
            n_groups: 8,
            embed_dim: 128,
            horizon: 16,
            action: 2,
            scales: true,
        };
        Self::new(&entries("model.safetensors"), &shape)
    }

    fn get(&self, name: &str) -> Option<(&[usize], Vec<f64>)> {
        let entry = self.tensors.get(&format!("diffusion.unet.{name}"))?;
        let values = entry.values.iter().copied().map(f64::from).collect();
        Some((&entry.shape, values))
    }

    fn layer(&self, name: &str) -> (&[usize], Vec<f64>, Vec<f64>) {
        let (shape, weight) = self.get(&format!("{name}.weight")).expect("a weight");
        let (_, bias) = self.get(&format!("{name}.bias")).expect("a bias");
        (shape, weight, bias)
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (shape, weight, bias) = self.layer(name);
        assert_eq!(shape[1], x.len());
        let rows = weight.chunks(shape[1]).zip(bias);
        rows.map(|(row, b)| b + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>())
            .collect()
    }

    fn conv(&self, name: &str, x: &Signal, stride: usize, padding: usize) -> Signal {
        let (shape, weight, bias) = self.layer(name);
        let (k, time) = (shape[2], x[0].len());
        let outputs = (time + 2 * padding - k) / stride + 1;
        let at = |o: usize, t: usize| {
            let mut sum = bias[o];
            for (i, channel) in x.iter().enumerate() {
                for j in 0..k {
                    let from = (t * stride + j).wrapping_sub(padding);
                    sum += weight[(o * shape[1] + i) * k + j] * channel.get(from).unwrap_or(&0.0);
                }
            }
            sum
        };
        (0..shape[0])
            .map(|o| (0..outputs).map(|t| at(o, t)).collect())
            .collect()
    }

    fn upsample(&self, name: &str, x: &Signal) -> Signal {
        let (shape, weight, bias) = self.layer(name);
        let mut y: Signal = bias.iter().map(|b| vec![*b; 2 * x[0].len()]).collect();
        for (i, channel) in x.iter().enumerate() {
            for (t, value) in channel.iter().enumerate() {
                for (o, out) in y.iter_mut().enumerate() {
                    for j in 0..4 {
                        if let Some(sum) = out.get_mut((2 * t + j).wrapping_sub(1)) {
                            *sum += weight[(i * shape[1] + o) * 4 + j] * value;
                        }
                    }
                }
            }
        }
        y
    }

    fn conv_block(&self, name: &str, x: &Signal, n_groups: usize) -> Signal {
        let (shape, _, _) = self.layer(&format!("{name}.block.0"));
        let mut y = self.conv(&format!("{name}.block.0"), x, 1, shape[2] / 2);
        let (_, scale, offset) = self.layer(&format!("{name}.block.1"));
        let size = y.len() / n_groups;
        for group in 0..n_groups {
            let channels = group * size..(group + 1) * size;
            let all: Vec<f64> = y[channels.clone()].concat();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
            for c in channels {
                for v in &mut y[c] {
                    *v = mish((*v - mean) / (variance + 1e-5).sqrt() * scale[c] + offset[c]);
                }
            }
        }
        y
    }

    fn block(&self, name: &str, x: &Signal, condition: &[f64]) -> Signal {
        let mut h = self.conv_block(&format!("{name}.conv1"), x, self.n_groups);
        let condition: Vec<f64> = condition.iter().copied().map(mish).collect();
        let film = self.linear(&format!("{name}.cond_encoder.1"), &condition);
        let n = h.len();
        for (c, channel) in h.iter_mut().enumerate() {
            for v in channel {
                *v = if self.scales {
                    *v * film[c] + film[n + c]
                } else {
                    *v + film[c]
                };
            }
        }
        let mut h = self.conv_block(&format!("{name}.conv2"), &h, self.n_groups);
        let residual = format!("{name}.residual_conv");
        let x = match self.get(&format!("{residual}.weight")) {
            Some(_) => self.conv(&residual, x, 1, 0),
            None => x.clone(),
        };
        for (h, x) in h.iter_mut().flatten().zip(x.iter().flatten()) {
            *h += x;
        }
        h
    }

    /// Shapes: x and result `[horizon, action]`.
    pub fn forward(&self, x: &[f32], t: f64, condition: &[f32]) -> Vec<f64> {
        let (shape, _, _) = self.layer("diffusion_step_encoder.1");
        let half = shape[1] / 2;
        let angle = |i: usize| t * (-(10_000_f64.ln()) * i as f64 / (half - 1) as f64).exp();
        let sines = (0..half).map(|i| angle(i).sin());
        let embedding: Vec<f64> = sines.chain((0..half).map(|i| angle(i).cos())).collect();
        let hidden = self.linear("diffusion_step_encoder.1", &embedding);
        let hidden: Vec<f64> = hidden.into_iter().map(mish).collect();
        let mut c = self.linear("diffusion_step_encoder.3", &hidden);
        c.extend(condition.iter().copied().map(f64::from));

        let mut x: Signal = (0..self.action)
            .map(|a| {
                x.iter()
                    .skip(a)
                    .step_by(self.action)
                    .copied()
                    .map(f64::from)
                    .collect()
            })
            .collect();
        let mut skips = Vec::new();
        for level in 0..self.levels {
            x = self.block(&format!("down_modules.{level}.0"), &x, &c);
            x = self.block(&format!("down_modules.{level}.1"), &x, &c);
            skips.push(x.clone());
            if level + 1 < self.levels {
                x = self.conv(&format!("down_modules.{level}.2"), &x, 2, 1);
            }
        }
        for i in 0..2 {
            x = self.block(&format!("mid_modules.{i}"), &x, &c);
        }
        for i in 0..self.levels - 1 {
            x.extend(skips.pop().expect("one a level"));
            x = self.block(&format!("up_modules.{i}.0"), &x, &c);
            x = self.block(&format!("up_modules.{i}.1"), &x, &c);
            x = self.upsample(&format!("up_modules.{i}.2"), &x);
        }
        // Always eight groups.
        x = self.conv_block("final_conv.0", &x, 8);
        x = self.conv("final_conv.1", &x, 1, 0);
        (0..x[0].len())
            .flat_map(|t| x.iter().map(move |channel| channel[t]))
            .collect()
    }
}
