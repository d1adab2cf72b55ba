//! Guidance in one pass: a student that knows the scale.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use clearway_diffusion::train::{Levels, Weighting, WeightingRecipe, initialize};
use clearway_diffusion::{Network, Seeded, normal};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::beginning::{Unknown, begin, fits, plain};
use super::task::batch;
use super::{Draw, Task, TrainError};
use crate::dataset::Pictures;
use crate::picture_model::PictureModel;
use crate::{Condition, Files, Unet};

/// A model that is told the guidance scale, and answers in one pass what its teacher answers in two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuidanceRecipe {
    /// The folder of the teacher.
    pub teacher: PathBuf,
    /// The smallest and the largest scale that it is taught.
    pub scales: [f64; 2],
    /// The features of the embedded scale.
    pub time_cond_proj_dim: usize,
    /// How much the error at a level counts.
    pub weighting: WeightingRecipe,
}

impl Default for GuidanceRecipe {
    fn default() -> Self {
        Self {
            teacher: PathBuf::new(),
            scales: [1.0, 4.0],
            time_cond_proj_dim: 64,
            weighting: WeightingRecipe::Uniform,
        }
    }
}

/// Guidance distillation, the first of two stages:
///
/// ```text
/// | student(x_t, t, c, w) − (teacher(x_t, t) + w (teacher(x_t, t, c) − teacher(x_t, t))) |²      w ~ U(scales)
/// ```
///
/// What networks predict is affine in their estimates, so that guiding one is guiding the other. The student begins as its
/// teacher, with a scale that says nothing.
///
/// Meng et al., "On Distillation of Guided Diffusion Models", 2023, arXiv:2210.03142, section 3.1.
#[derive(Debug)]
pub struct Guiding {
    teacher: PictureModel,
    /// Its network, as it is asked.
    asked: Asked,
    student: PictureModel,
    scales: [f64; 2],
    weighting: Weighting,
    source: String,
    device: Device,
}

impl Task for Guiding {
    type Network = Unet;
    type Recipe = GuidanceRecipe;

    fn new(
        recipe: &GuidanceRecipe,
        pictures: &Pictures,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let GuidanceRecipe {
            teacher: folder,
            scales,
            time_cond_proj_dim,
            weighting,
        } = recipe;
        let [least, most] = *scales;
        if !(least >= 0.0 && most > least && most.is_finite()) {
            return Err(TrainError::Scales { found: *scales });
        }
        weighting.check()?;
        let teacher = plain(folder, device)?;
        if teacher.unet().knows_guidance() {
            return Err(TrainError::Guided {
                folder: folder.clone(),
            });
        }
        fits(&teacher, folder, pictures)?;
        let form = teacher.form();
        let [mut unet, scheduler] = teacher.said().clone();
        unet["time_cond_proj_dim"] = (*time_cond_proj_dim).into();
        let student = PictureModel::new(form.clone(), [unet, scheduler], device)?;
        let source = Files::open(folder)?.hash()?;
        Ok(Self {
            asked: Asked::new(teacher.unet()),
            teacher,
            student,
            scales: *scales,
            weighting: (*weighting).into(),
            source,
            device: device.clone(),
        })
    }

    fn source(&self) -> &str {
        &self.source
    }

    fn network(&self, device: &Device) -> Unet {
        self.student.config().init(device)
    }

    fn first(&self, device: &Device, seed: u64) -> Unet {
        begin(
            initialize(self.network(device), seed),
            self.teacher.unet(),
            Unknown::Zero,
        )
    }

    fn loss(&self, network: &Unet, pictures: &Pictures, which: &[usize], draw: Draw) -> Tensor<1> {
        let (form, scheduler) = (self.teacher.form(), self.teacher.scheduler());
        let count = which.len();
        let points = Levels::Timesteps.draw(&scheduler.schedule, draw.levels, draw.number, count);
        let mut generator = ChaCha8Rng::seed_from_u64(draw.levels);
        generator.set_stream(!draw.number);
        let [least, most] = self.scales;
        let scales: Vec<f64> = (0..count)
            .map(|_| generator.random_range(least..most))
            .collect();
        let clean = batch(form, pictures, which, &self.device);
        let mut noise = Seeded::new(draw.noise ^ draw.number, count);
        let noise = normal(&mut noise, clean.dims(), &self.device);
        let denoiser =
            clearway_diffusion::Parameterized::new(network.clone(), scheduler.parameterization);
        let x = denoiser.shown([clean, noise], &points);

        let labels: Vec<usize> = which.iter().map(|&at| pictures.labels()[at]).collect();
        let both = [vec![form.any(); count], labels.clone()].concat();
        let teacher = &self.asked;
        let prepared = teacher.prepare(&Condition::classes(both));
        let answers = teacher.forward(
            Tensor::cat(vec![x.clone(), x.clone()], 0),
            &points.repeat(2),
            &prepared,
        );
        let (without, with) = (
            answers.clone().narrow(0, 0, count),
            answers.narrow(0, count, count),
        );
        let factors: Vec<f32> = scales.iter().map(|&scale| scale as f32).collect();
        let factors = TensorData::new(factors, [count, 1, 1, 1]);
        let factors = Tensor::<4>::from_data(factors, &self.device);
        let target = without.clone() + (with - without) * factors;

        let condition = Condition {
            guidance: Some(scales),
            ..Condition::classes(labels)
        };
        let answer = network.forward(x, &points, &network.prepare(&condition));
        denoiser
            .weighted(&(answer - target).square(), &points, self.weighting)
            .mean()
    }

    fn save(&self, network: &Unet, folder: &Path) -> std::io::Result<()> {
        self.student.clone().with_unet(network.clone()).save(folder)
    }
}
