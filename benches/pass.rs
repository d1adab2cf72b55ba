use burn::tensor::{Device, Tensor};
use clearway_diffusion::{Level, Network as _, Point, Seeded, normal};
use clearway_layers::Precision;
use clearway_planner::network::ConditionalUnet1dConfig;
use rayon::prelude::*;
use std::time::Instant;
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let dims: Vec<usize> = a[1].split(',').map(|d| d.parse().unwrap()).collect();
    let device = Device::flex();
    let config = ConditionalUnet1dConfig {
        action_dim: 2,
        condition_dim: 36,
        down_dims: dims,
        kernel_size: 5,
        n_groups: 8,
        diffusion_step_embed_dim: 128,
        use_film_scale_modulation: true,
    };
    let plain = config.init(&device);
    let batch: usize = a[3].parse().unwrap();
    let reps: usize = a[4].parse().unwrap();
    let horizon = 16;
    println!(
        "{} parameters, {} threads",
        plain.parameters(),
        rayon::current_num_threads()
    );
    let mut nets = vec![];
    for p in a[2].split(',') {
        let mut net = plain.clone();
        match p {
            "f32" => {
                println!("{:?}", net.pack(Precision::F32));
            }
            "bf16" => {
                println!("{:?}", net.pack(Precision::Bf16));
            }
            _ => {}
        }
        nets.push((p.to_string(), net));
    }
    drop(plain);
    let x: Tensor<3> = normal(&mut Seeded::new(0, batch), [batch, horizon, 2], &device);
    let c: Tensor<2> = normal(&mut Seeded::new(1, batch), [batch, 36], &device);
    let points = [Point {
        t: 10.0,
        level: Level {
            alpha: 0.9,
            sigma: 0.4,
        },
    }];
    let mut times: Vec<Vec<f64>> = vec![vec![]; nets.len() + 1];
    let mem: Vec<u64> = (0..(1u64 << 27)).collect();
    let mut out: Vec<Tensor<3>> = vec![];
    for rep in 0..reps {
        for (i, (_, net)) in nets.iter().enumerate() {
            let p = net.prepare(&c);
            net.forward(x.clone(), &points, &p);
            let inner = if rep == 0 { 1 } else { 5 };
            for _ in 0..inner {
                let t = Instant::now();
                let y = net.forward(x.clone(), &points, &p);
                times[i].push(t.elapsed().as_secs_f64() * 1e3);
                if rep == 0 {
                    out.push(y);
                }
            }
        }
        if rep % 10 == 0 {
            let t = Instant::now();
            let s: u64 = mem
                .par_chunks(1 << 17)
                .map(|w| w.iter().fold(0, |a, b| a ^ b))
                .reduce(|| 0, |a, b| a ^ b);
            std::hint::black_box(s);
            times[nets.len()].push(t.elapsed().as_secs_f64() * 1e3);
        }
    }
    for (i, t) in times.iter_mut().enumerate() {
        t.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let name = nets.get(i).map_or("1 GiB", |n| &n.0);
        println!(
            "{name:6} min {:.3} q1 {:.3} median {:.3} ms{}",
            t[0],
            t[t.len() / 4],
            t[t.len() / 2],
            if i == nets.len() {
                format!("  {:.1} GB/s best", 1.0737 / t[0] * 1e3)
            } else {
                String::new()
            }
        );
    }
    let norm = |t: Tensor<3>| -> f64 {
        t.into_data()
            .try_to_vec::<f32>()
            .unwrap()
            .iter()
            .map(|v| f64::from(*v) * f64::from(*v))
            .sum::<f64>()
            .sqrt()
    };
    for (i, y) in out.iter().enumerate().skip(1) {
        println!(
            "{} against {}: {:.2e}",
            nets[i].0,
            nets[0].0,
            norm(y.clone() - out[0].clone()) / norm(out[0].clone())
        );
    }
}
