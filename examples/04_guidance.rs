//! Obstacles that nobody has seen in training: what a prior of paths draws, what guidance makes of it, and what leaves the
//! planner.
//!
//! ```text
//! cargo run --release -p clearway-examples --example 04_guidance [PICTURE.png]
//! ```
//!
//! The prior knows one world of discs and boxes. Five obstacles more stand in its way here. It plans three times with one
//! seed: left alone, pushed while it denoises, and then bent until it is free. The picture has a panel for each: dark obstacles
//! are the new ones, yellow paths are free and red ones are not, and blue is the motion that leaves the planner.
//! `docs/guidance.png` is made by it.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clearway_planner::Budget;
use clearway_planner::paths::{
    Guidance, PathPlan, PathPlanner, PathProblem, PathSettings, Projection,
};
use clearway_sim::clutter::Outline;
use clearway_sim::{Clutter, Environment, clutter};
use plotters::prelude::*;

/// What is added, which problem, and the noise: all from one seed.
const SEED: u64 = 14;
const ADDED: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    // 1. The world, and the question: a start, a goal, and where the robot can be. Obstacles are exact signed distances.
    let world = Clutter::with_random_additions(Environment::Dense, ADDED, SEED)?;
    let clutter::Problem { start, goal } = world.problem(SEED).ok_or("the world is full")?;
    let free = world.free_space()?;
    let problem = PathProblem {
        free,
        start: &start,
        goal: &goal,
    };

    // 2. Three planners of one prior. Guidance is a cost on the clean estimate, by its gradient alone; the projection is the
    //    same cost, minimized. Both push as the smoothest path would give way, not waypoint by waypoint.
    let alone = PathSettings {
        candidates: 40,
        guidance: None,
        projection: None,
        ..PathSettings::default()
    };
    let guided = PathSettings {
        guidance: Some(Guidance::default()),
        ..alone.clone()
    };
    let projected = PathSettings {
        projection: Some(Projection::default()),
        ..guided.clone()
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/clutter");
    let mut panels = Vec::new();
    for (name, settings) in [
        ("the prior alone", alone),
        ("guided", guided),
        ("guided and projected", projected),
    ] {
        let planner = PathPlanner::load(&folder, settings, &Device::flex())?;
        let paths = planner.candidates_of(&problem, Budget::default(), SEED);
        let valid = paths
            .iter()
            .filter(|it| free.check_path(it).is_ok())
            .count();
        print!("{name:22} {valid:2} of {} paths are free; ", paths.len());

        // 3. What leaves the planner is a motion within all limits that a sweep has proven free, or an error that says what
        //    is in the way, where, and by how much.
        let plan = planner.plan(&problem, Budget::default(), SEED);
        match &plan {
            Ok(plan) => {
                let motion = plan.trajectory.duration().as_secs_f64();
                println!("{motion:.2} s of motion in {:.0?}", plan.elapsed);
            }
            Err(error) => println!("{error}"),
        }
        panels.push((paths, plan.ok()));
    }

    let path = std::env::args()
        .nth(1)
        .map_or_else(|| PathBuf::from("04_guidance.png"), PathBuf::from);
    draw(&path, &world, &problem, &panels)?;
    println!("the picture is {}", path.display());
    Ok(())
}

/// A panel each: obstacles, what was drawn, and the motion.
fn draw(
    path: &Path,
    world: &Clutter,
    problem: &PathProblem<'_>,
    panels: &[(Vec<clearway_motion::Path>, Option<PathPlan>)],
) -> Result<(), Box<dyn Error>> {
    const PANEL: u32 = 520;
    // Lines are drawn without greys at their edges: so many times as large, each pixel is the mean of as many squared.
    const FINER: u32 = 3;
    const PAPER: RGBColor = RGBColor(252, 251, 248);
    const KNOWN: RGBColor = RGBColor(176, 184, 192);
    const NEW: RGBColor = RGBColor(92, 100, 112);
    const FREE: RGBColor = RGBColor(226, 160, 60);
    const BLOCKED: RGBColor = RGBColor(190, 60, 50);
    const MOTION: RGBColor = RGBColor(38, 60, 120);
    let [width, height] = [panels.len() as u32 * PANEL, PANEL];
    let mut fine = vec![0; (3 * width * FINER * height * FINER) as usize];
    let root = BitMapBackend::with_buffer(&mut fine, (width * FINER, height * FINER));
    let root = root.into_drawing_area();
    root.fill(&PAPER)?;
    for ((paths, plan), area) in panels.iter().zip(root.split_evenly((1, panels.len()))) {
        let area = area.margin(8 * FINER, 8 * FINER, 8 * FINER, 8 * FINER);
        let mut chart = ChartBuilder::on(&area).build_cartesian_2d(-1.0..1.0, -1.0..1.0)?;
        let known = world.outlines().len() - ADDED;
        for (i, outline) in world.outlines().iter().enumerate() {
            let colour = if i < known { KNOWN } else { NEW };
            let corners = corners(outline);
            chart.draw_series([Polygon::new(corners, colour.filled())])?;
        }
        for path in paths {
            let is_free = problem.free.check_path(path).is_ok();
            let colour = if is_free { FREE } else { BLOCKED };
            let line = path
                .waypoints()
                .rows()
                .into_iter()
                .map(|q| (q[0], q[1]))
                .collect::<Vec<_>>();
            chart.draw_series(LineSeries::new(line, colour.mix(0.6).stroke_width(FINER)))?;
        }
        if let Some(plan) = plan {
            let line = plan
                .trajectory
                .waypoints()
                .map(|it| (it.position[0], it.position[1]));
            let line = line.collect::<Vec<_>>();
            chart.draw_series(LineSeries::new(line, MOTION.stroke_width(3 * FINER)))?;
        }
        let ends = [problem.start, problem.goal].map(|q| (q[0], q[1]));
        chart.draw_series(ends.map(|at| Circle::new(at, 6 * FINER, MOTION.filled())))?;
    }
    root.present()?;
    drop(root);

    let mean = |i: u32| {
        let [channel, x, y] = [i % 3, i / 3 % width, i / 3 / width];
        let finer = (0..FINER * FINER).map(|k| {
            let [x, y] = [x * FINER + k % FINER, y * FINER + k / FINER];
            u32::from(fine[(3 * (y * width * FINER + x) + channel) as usize])
        });
        (finer.sum::<u32>() / (FINER * FINER)) as u8
    };
    let pixels = (0..3 * width * height).map(mean).collect();
    let picture = BitMapElement::with_owned_buffer((0, 0), (width, height), pixels);
    let root = BitMapBackend::new(path, (width, height)).into_drawing_area();
    root.draw(&picture.ok_or("as many pixels as the picture has")?)?;
    root.present()?;
    Ok(())
}

/// An obstacle as a polygon; rounded corners are cut.
fn corners(outline: &Outline) -> Vec<(f64, f64)> {
    match *outline {
        Outline::Disc {
            center: [x, y],
            radius,
        } => {
            let corner = |i: u32| {
                let (sin, cos) = (std::f64::consts::TAU * f64::from(i) / 48.0).sin_cos();
                (x + radius * cos, y + radius * sin)
            };
            (0..48).map(corner).collect()
        }
        Outline::Box {
            center: [x, y],
            edges: [width, height],
            rounding,
        } => {
            let (u, v) = (width / 2.0, height / 2.0);
            let (a, b) = (u - rounding, v - rounding);
            let signs = [(1.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0)];
            let of = |(i, (p, q)): (usize, (f64, f64))| {
                let cut = [(p * u, q * b), (p * a, q * v)];
                if i.is_multiple_of(2) {
                    [cut[1], cut[0]]
                } else {
                    cut
                }
            };
            let cuts = signs.into_iter().enumerate().flat_map(of);
            cuts.map(|(p, q)| (x + p, y + q)).collect()
        }
    }
}
