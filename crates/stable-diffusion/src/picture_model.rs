//! Small pictures of a class: a U-Net that is told one.

use std::path::Path;

use burn::prelude::*;
use clearway_diffusion::{
    ClassifierFree, Clip, ClippedNoise, Denoiser, Guidance, Parameterized, Sampler, Seeded, Stage,
};
use clearway_layers::{PackPolicy, PackReport, WeightsWriter};
use serde_json::{Value, json};

use crate::config::{Config, MAX_SIZE};
use crate::pipeline::{GenerateError, Sampling, SchedulerConfig};
use crate::{Condition, Files, LoadError, Unet, UnetConfig};

/// The files of a model's folder, as in a folder of diffusers.
const INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";
const UNET: &str = "unet";

/// The word in an index that says what it is of.
const CLASS: &str = "ClearwayPictures";

/// What the pictures of a model are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Height and width.
    pub size: [usize; 2],
    /// One where they are grey, three where they are coloured.
    pub channels: usize,
    /// The height and width of the squares whose pixels are channels of the network: it sees pictures that are smaller by as
    /// much.
    pub patch: usize,
    /// What each class is called. The class behind the last stands for any.
    pub labels: Vec<String>,
}

impl Form {
    /// What the network sees of a picture: channels, height and width.
    pub fn seen(&self) -> [usize; 3] {
        let [height, width] = self.size;
        [
            self.channels * self.patch * self.patch,
            height / self.patch,
            width / self.patch,
        ]
    }

    /// The number that stands for any class.
    pub fn any(&self) -> usize {
        self.labels.len()
    }

    /// Puts the pixels of squares into channels, `[channel, row of the square, column of the square]`, as PyTorch's
    /// `pixel_unshuffle` does, and maps 0 and 255 to -1 and 1.
    ///
    /// # Panics
    ///
    /// If the pixels are not those of whole pictures.
    pub fn encode(&self, pixels: &[u8], to: &mut Vec<f32>) {
        self.for_each(pixels.len(), |_, pixel| {
            to.push(f32::from(pixels[pixel]) / 127.5 - 1.0);
        });
    }

    /// The pixels of what [`encode`](Self::encode) made, rounded, with what is beyond black and white cut off.
    ///
    /// # Panics
    ///
    /// If the values are not those of whole pictures.
    pub fn decode(&self, values: &[f32]) -> Vec<u8> {
        let mut pixels = vec![0; values.len()];
        self.for_each(values.len(), |value, pixel| {
            let level = (values[value] + 1.0) * 127.5;
            pixels[pixel] = level.round().clamp(0.0, 255.0) as u8;
        });
        pixels
    }

    /// Calls with the place of each value that the network sees, in order, and that of its pixel.
    fn for_each(&self, count: usize, mut each: impl FnMut(usize, usize)) {
        let [height, width] = self.size;
        let picture = self.channels * height * width;
        assert!(
            count.is_multiple_of(picture),
            "{count} values are no pictures of {picture}"
        );
        let patch = self.patch;
        let mut value = 0;
        for plane in (0..count).step_by(height * width) {
            // Planes of one picture follow each other, and so do their squares' channels.
            for (j, k) in (0..patch).flat_map(|j| (0..patch).map(move |k| (j, k))) {
                for row in (j..height).step_by(patch) {
                    for column in (k..width).step_by(patch) {
                        each(value, plane + row * width + column);
                        value += 1;
                    }
                }
            }
        }
    }

    fn read(config: &Config) -> Result<Self, LoadError> {
        let root = config.root();
        root.get("_class_name")?.word(&[(CLASS, ())])?;
        let integer = |name: &str| root.get(name)?.integer(1..=MAX_SIZE);
        let patch = integer("patch_size")?;
        let size = [integer("height")?, integer("width")?];
        if size.iter().any(|side| !side.is_multiple_of(patch)) {
            let entry = root.get("patch_size")?;
            return Err(entry.wrong(format!("a divisor of {size:?}")));
        }
        let labels = root.get("labels")?;
        let names: Result<Vec<String>, LoadError> = (labels.list()?.iter())
            .map(|entry| entry.string().map(str::to_owned))
            .collect();
        let names = names?;
        if names.is_empty() {
            return Err(labels.wrong("a list of names"));
        }
        Ok(Self {
            size,
            channels: integer("channels")?,
            patch,
            labels: names,
        })
    }

    fn json(&self) -> Value {
        json!({
            "_class_name": CLASS,
            "unet": ["diffusers", "UNet2DConditionModel"],
            "height": self.size[0],
            "width": self.size[1],
            "channels": self.channels,
            "patch_size": self.patch,
            "labels": self.labels,
        })
    }
}

/// How much a class is emphasised, and by which means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Emphasis {
    /// As the network was trained: a pass a stage.
    None,
    /// [`ClassifierFree`]: the network is asked with and without the class, twice the work a stage.
    TwoPasses(f64),
    /// A network that was distilled to know the scale: a pass a stage.
    Known(f64),
}

/// A model of small pictures.
#[derive(Clone, Debug)]
pub struct PictureModel {
    form: Form,
    config: UnetConfig,
    unet: Unet,
    scheduler: SchedulerConfig,
    /// What was read or is to be written: the U-Net's and the scheduler's configurations.
    said: [Value; 2],
    device: Device,
}

impl PictureModel {
    /// A model of parts; `said` are the configurations of the U-Net and of the scheduler, as diffusers has them.
    ///
    /// # Errors
    ///
    /// If a configuration is not supported, or they do not go together.
    pub fn new(form: Form, said: [Value; 2], device: &Device) -> Result<Self, LoadError> {
        let [unet, scheduler] = [("unet/config.json", 0), (SCHEDULER, 1)]
            .map(|(file, at)| Config::new(file, said[at].clone()));
        let (unet, scheduler) = (unet?, scheduler?);
        let config = UnetConfig::read(&unet)?;
        let [channels, ..] = form.seen();
        let attends = config.encoder.down_attention.iter().any(|it| *it);
        let attends = attends || config.up_attention.iter().any(|it| *it);
        let attends = attends || config.encoder.mid == crate::Mid::CrossAttention;
        let wrong = |key: &str, expected: String| Err(unet.root().get(key)?.wrong(expected));
        if config.encoder.in_channels != channels {
            return wrong("in_channels", channels.to_string());
        }
        if config.out_channels != channels {
            return wrong("out_channels", channels.to_string());
        }
        if attends {
            return wrong("down_block_types", "a network without a text".into());
        }
        if config.encoder.num_class_embeds != Some(form.any() + 1) {
            return wrong("num_class_embeds", (form.any() + 1).to_string());
        }
        Ok(Self {
            unet: config.init(device),
            scheduler: SchedulerConfig::read(&scheduler)?,
            form,
            config,
            said,
            device: device.clone(),
        })
    }

    /// Whether a folder says that it holds such a model.
    pub fn is_in(folder: &Path) -> bool {
        let said = Config::open(&folder.join(INDEX));
        said.is_ok_and(|it| it.into_value()["_class_name"] == CLASS)
    }

    /// Reads a folder that [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// If a file is missing or malformed, or they do not go together.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, LoadError> {
        let form = Form::read(&Config::open(&folder.join(INDEX))?)?;
        let unet = Config::open(&folder.join(UNET).join("config.json"))?;
        let scheduler = Config::open(&folder.join(SCHEDULER))?;
        let said = [unet.into_value(), scheduler.into_value()];
        let this = Self::new(form, said, device)?;
        let unet = Files::open(folder)?.unet(device)?;
        Ok(Self { unet, ..this })
    }

    /// Writes a folder as diffusers does: `unet/`, `scheduler/` and `model_index.json`.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    ///
    /// # Panics
    ///
    /// If the network is packed.
    pub fn save(&self, folder: &Path) -> std::io::Result<()> {
        for part in [UNET, "scheduler"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let [unet, scheduler] = &self.said;
        write_json(&folder.join(SCHEDULER), scheduler)?;
        write_json(&folder.join(UNET).join("config.json"), unet)?;
        let mut writer = WeightsWriter::default();
        self.unet.save(&mut writer);
        let name = "diffusion_pytorch_model.safetensors";
        writer.write(&folder.join(UNET).join(name))?;
        write_json(&folder.join(INDEX), &self.form.json())
    }

    /// The same with another network of its configuration.
    #[must_use]
    pub fn with_unet(self, unet: Unet) -> Self {
        Self { unet, ..self }
    }

    /// The configurations of the U-Net and of the scheduler, as diffusers has them.
    pub fn said(&self) -> &[Value; 2] {
        &self.said
    }

    /// What the pictures are.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// The network.
    pub fn unet(&self) -> &Unet {
        &self.unet
    }

    /// What the network is made of.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// The noise, and what the network predicts.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Lays the weights out for the CPU's kernels, as [`Unet::pack`].
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        self.unet.pack(policy)
    }

    /// Draws a picture of each class; a picture depends on its seed, its class and the way, and on nothing else.
    ///
    /// Returns pixels, `[picture, channel, row, column]`.
    ///
    /// # Errors
    ///
    /// If the model cannot be sampled so, or a picture is not finite.
    ///
    /// # Panics
    ///
    /// If there is not a seed for each class, or there is no such class.
    pub fn draw(
        &self,
        classes: &[usize],
        seeds: &[u64],
        sampling: Sampling,
        emphasis: Emphasis,
    ) -> Result<Vec<u8>, GenerateError> {
        assert_eq!(classes.len(), seeds.len(), "a seed a picture");
        let plan = sampling.plan(&self.scheduler, None)?;
        let network = Parameterized::new(&self.unet, self.scheduler.parameterization);
        let network = match plan.line {
            Some(line) => network.trained_on(line),
            None => network,
        };
        network.check(&plan.stages)?;
        let threshold = self.scheduler.clip(sampling.method);
        let conditional = Condition::classes(classes.to_vec());
        let run = Run {
            stages: &plan.stages,
            start: plan.start,
            shape: self.form.seen(),
            seeds,
            device: &self.device,
            threshold,
        };
        let sample = match emphasis {
            Emphasis::None => run.finish(network, &conditional),
            Emphasis::Known(scale) => {
                let condition = Condition {
                    guidance: Some(vec![scale]),
                    ..conditional
                };
                run.finish(network, &condition)
            }
            Emphasis::TwoPasses(scale) => {
                let guidance = Guidance {
                    positive: conditional,
                    negative: Condition::classes(vec![self.form.any(); classes.len()]),
                };
                let denoiser = ClassifierFree {
                    denoiser: network,
                    scale,
                };
                run.finish(denoiser, &guidance)
            }
        };
        let data = sample.into_data();
        let values: Vec<f32> = data.try_to_vec().unwrap_or_default();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(GenerateError::NonFinite {
                component: crate::Component::Unet,
                step: None,
            });
        }
        Ok(self.form.decode(&values))
    }
}

/// What all ways of drawing share.
struct Run<'a> {
    stages: &'a [Stage],
    start: f64,
    shape: [usize; 3],
    seeds: &'a [u64],
    device: &'a Device,
    threshold: Option<clearway_diffusion::Threshold>,
}

impl Run<'_> {
    fn finish<D: Denoiser<4>>(&self, denoiser: D, condition: &D::Condition) -> Tensor<4> {
        match self.threshold {
            Some(threshold) => self.sample(
                &Clip {
                    denoiser,
                    threshold,
                    noise: ClippedNoise::Kept,
                },
                condition,
            ),
            None => self.sample(&denoiser, condition),
        }
    }

    fn sample<D: Denoiser<4>>(&self, denoiser: &D, condition: &D::Condition) -> Tensor<4> {
        let [channels, height, width] = self.shape;
        let shape = [self.seeds.len(), channels, height, width];
        let mut noise = Seeded::from_seeds(self.seeds);
        let first = clearway_diffusion::normal(&mut noise, shape, self.device);
        let first = first.mul_scalar(self.start);
        let prepared = denoiser.prepare(condition);
        Sampler::new(denoiser, &prepared, self.stages, first, &mut noise).finish()
    }
}

/// Writes a configuration.
pub(crate) fn write_json(path: &Path, value: &Value) -> std::io::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    std::fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_become_channels_and_pixels_again() {
        let form = Form {
            size: [4, 6],
            channels: 2,
            patch: 2,
            labels: vec!["a".into()],
        };
        let pixels: Vec<u8> = (0..96).collect();
        let mut values = Vec::new();
        form.encode(&pixels, &mut values);
        assert_eq!(form.seen(), [8, 2, 3]);
        assert_eq!(form.decode(&values), pixels);
        // The second channel has the second pixels of the first row of squares: 1, 3, 5 of the first row of pixels.
        let second: Vec<f32> = [1.0, 3.0, 5.0].map(|x: f32| x / 127.5 - 1.0).into();
        assert_eq!(values[6..9], second);
        assert!(values.iter().all(|x| (-1.0..=1.0).contains(x)));
        assert_eq!(form.decode(&[-7.0; 48])[0], 0);
        assert_eq!(form.decode(&[7.0; 48])[0], 255);
    }
}
