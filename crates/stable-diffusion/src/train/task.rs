//! What a network of pictures is asked, and how wrong its answer is.

use std::path::Path;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use clearway_diffusion::train::{Levels, Weighting, initialize};
use clearway_diffusion::{Network, Noise, Parameterized, Seeded, normal};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::recipe::{check_channels, labels};
use super::{ClassifierRecipe, ModelRecipe, TrainError};
use crate::classifier::{Classifier, ClassifierConfig};
use crate::dataset::Pictures;
use crate::picture_model::{Form, PictureModel};
use crate::{Condition, Unet};

/// What is drawn for a batch, besides the pictures: a seed for what is drawn once, and the number of the draw.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Of levels and dropped classes.
    pub(super) levels: u64,
    /// Of noise.
    pub(super) noise: u64,
    /// Which batch of the seeds.
    pub(super) number: u64,
}

/// A kind of network that is trained on pictures: a [`ModelRecipe`]'s, a [`ClassifierRecipe`]'s or a
/// [`GuidanceRecipe`](super::GuidanceRecipe)'s.
pub trait Task: Sized {
    /// What is trained.
    type Network: Module + Sync;
    /// What describes it.
    type Recipe: serde::Serialize + Clone + std::fmt::Debug;

    /// What a recipe asks for of a dataset.
    ///
    /// # Errors
    ///
    /// If the recipe describes no network for it.
    fn new(recipe: &Self::Recipe, pictures: &Pictures, device: &Device)
    -> Result<Self, TrainError>;

    /// A network whose weights are not drawn yet.
    fn network(&self, device: &Device) -> Self::Network;

    /// The network that a run begins with.
    fn first(&self, device: &Device, seed: u64) -> Self::Network {
        initialize(self.network(device), seed)
    }

    /// The hash of what a run is a function of besides its recipe and the pictures.
    #[allow(
        clippy::unnecessary_literal_bound,
        reason = "others have one of their own"
    )]
    fn source(&self) -> &str {
        ""
    }

    /// The loss of a network on some pictures.
    fn loss(
        &self,
        network: &Self::Network,
        pictures: &Pictures,
        which: &[usize],
        draw: Draw,
    ) -> Tensor<1>;

    /// Writes what others load.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    fn save(&self, network: &Self::Network, folder: &Path) -> std::io::Result<()>;
}

/// Pictures as a network sees them: `[which, channels, height, width]`.
pub(super) fn batch(
    form: &Form,
    pictures: &Pictures,
    which: &[usize],
    device: &Device,
) -> Tensor<4> {
    let [channels, height, width] = form.seen();
    let mut values = Vec::with_capacity(which.len() * channels * height * width);
    for &at in which {
        form.encode(pictures.pixels(at), &mut values);
    }
    let shape = [which.len(), channels, height, width];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A model that draws pictures: it is asked for what it predicts of noisy ones.
#[derive(Debug)]
pub struct Drawing {
    model: PictureModel,
    weighting: Weighting,
    unconditional: f64,
    device: Device,
}

impl Task for Drawing {
    type Network = Unet;
    type Recipe = ModelRecipe;

    fn new(recipe: &ModelRecipe, pictures: &Pictures, device: &Device) -> Result<Self, TrainError> {
        let (form, said) = recipe.model(pictures)?;
        Ok(Self {
            model: PictureModel::new(form, said, device)?,
            weighting: recipe.weighting.into(),
            unconditional: recipe.unconditional,
            device: device.clone(),
        })
    }

    fn network(&self, device: &Device) -> Unet {
        self.model.config().init(device)
    }

    fn loss(&self, network: &Unet, pictures: &Pictures, which: &[usize], draw: Draw) -> Tensor<1> {
        let Draw {
            levels,
            noise,
            number,
        } = draw;
        let (form, scheduler) = (self.model.form(), self.model.scheduler());
        let points = Levels::Timesteps.draw(&scheduler.schedule, levels, number, which.len());
        // The levels' seed, and its streams from the other end.
        let mut generator = ChaCha8Rng::seed_from_u64(levels);
        generator.set_stream(!number);
        let mut class = |at: &usize| {
            let is_dropped = generator.random::<f64>() < self.unconditional;
            if is_dropped {
                form.any()
            } else {
                pictures.labels()[*at]
            }
        };
        let condition = Condition::classes(which.iter().map(&mut class).collect());
        let clean = batch(form, pictures, which, &self.device);
        let mut noise = Seeded::new(noise ^ number, which.len());
        let noise = normal(&mut noise as &mut dyn Noise, clean.dims(), &self.device);
        let denoiser = Parameterized::new(network.clone(), scheduler.parameterization);
        let prepared = network.prepare(&condition);
        denoiser.loss([clean, noise], &points, &prepared, self.weighting)
    }

    fn save(&self, network: &Unet, folder: &Path) -> std::io::Result<()> {
        self.model.clone().with_unet(network.clone()).save(folder)
    }
}

/// A classifier: it is asked for the class.
#[derive(Debug)]
pub struct Classifying {
    config: ClassifierConfig,
    form: Form,
    device: Device,
}

impl Task for Classifying {
    type Network = Classifier;
    type Recipe = ClassifierRecipe;

    fn new(
        recipe: &ClassifierRecipe,
        pictures: &Pictures,
        device: &Device,
    ) -> Result<Self, TrainError> {
        check_channels(
            "classifier.channels",
            &recipe.channels,
            recipe.norm_num_groups,
        )?;
        let labels = labels(recipe.labels.as_ref(), pictures)?;
        Ok(Self {
            config: ClassifierConfig {
                in_channels: pictures.channels(),
                channels: recipe.channels,
                norm_num_groups: recipe.norm_num_groups,
                labels: labels.clone(),
            },
            form: Form {
                size: pictures.size(),
                channels: pictures.channels(),
                patch: 1,
                labels,
            },
            device: device.clone(),
        })
    }

    fn network(&self, device: &Device) -> Classifier {
        self.config.init(device)
    }

    /// The mean of the logarithms of what the network gives the right classes, negated.
    fn loss(
        &self,
        network: &Classifier,
        pictures: &Pictures,
        which: &[usize],
        _: Draw,
    ) -> Tensor<1> {
        let x = batch(&self.form, pictures, which, &self.device);
        let answers = log_softmax(network.answers(network.features(x)), 1);
        let classes = self.config.labels.len();
        let mut right = vec![0.0_f32; which.len() * classes];
        for (row, &at) in right.chunks_mut(classes).zip(which) {
            row[pictures.labels()[at]] = 1.0;
        }
        let right = TensorData::new(right, [which.len(), classes]);
        let right = Tensor::<2>::from_data(right, &self.device);
        (answers * right).sum().div_scalar(-(which.len() as f64))
    }

    fn save(&self, network: &Classifier, folder: &Path) -> std::io::Result<()> {
        network.save(&self.config, folder)
    }
}
