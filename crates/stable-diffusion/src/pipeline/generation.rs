//! Pictures that are being made.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{
    ClassifierFree, Clip, ClippedNoise, Denoiser, Estimate, Guidance, Inpaint, Network, Noise,
    Parameterization, Parameterized, Pins, Point, Rescaled, Sampler, Torch, normal,
};

use super::{GenerateError, Method, Plan, Request, Sampling, Source, StableDiffusion, finite};
use crate::{
    Autoencoder, Component, Condition, ControlNet, ControlUse, Controlled, ControlledCondition,
    MAX_PIXELS, Parameters, Picture, PictureError, UnetConfig,
};

/// The hexadecimal digits of a model's hash that the field's programs show.
const SHOWN_HASH: usize = 10;

/// A denoiser to which nothing is left to say.
type Conditional = dyn Denoiser<4, Condition = (), Prepared = ()>;

/// A denoiser with what it computed of its condition.
#[derive(Debug)]
struct Conditioned<N, P> {
    denoiser: N,
    prepared: P,
}

impl<N: Denoiser<4>> Conditioned<N, N::Prepared> {
    fn new(denoiser: N, condition: &N::Condition) -> Self {
        Self {
            prepared: denoiser.prepare(condition),
            denoiser,
        }
    }
}

impl<N: Denoiser<4>> Denoiser<4> for Conditioned<N, N::Prepared> {
    type Condition = ();
    type Prepared = ();

    fn prepare(&self, (): &()) {}

    fn denoise(&self, x: Tensor<4>, points: &[Point], (): &()) -> Estimate<4> {
        self.denoiser.denoise(x, points, &self.prepared)
    }

    fn finish(&self, sample: Tensor<4>) -> Tensor<4> {
        self.denoiser.finish(sample)
    }
}

/// Noise whose first draw was made: what else was drawn between it and the steps keeps its place in the sequence.
#[derive(Clone, Debug)]
struct Drawn {
    first: Option<Vec<f32>>,
    then: Torch,
}

impl Noise for Drawn {
    fn draw(&mut self, shape: &[usize]) -> Vec<f32> {
        match self.first.take() {
            Some(first) => first,
            None => self.then.draw(shape),
        }
    }
}

/// Pictures that are being made: ready for their steps.
pub struct Generation<'a> {
    model: &'a mut StableDiffusion,
    denoiser: Box<Conditional>,
    plan: Plan,
    /// Before the first step, and as it is now.
    noise: Drawn,
    drawing: Drawn,
    /// The latents of the source, where sampling begins part-way.
    clean: Option<Tensor<4>>,
    shape: [usize; 4],
    /// What the positive prompt and the ControlNets are asked with.
    condition: ControlledCondition,
    scales: Vec<f64>,
    source: Option<Source>,
    parameters: Parameters,
    seeds: Vec<u64>,
    latents: Option<Tensor<4>>,
    done: usize,
}

/// A picture and how it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// The picture.
    pub picture: Picture,
    /// How it was made.
    pub parameters: Parameters,
}

impl<'a> Generation<'a> {
    pub(super) fn new(
        model: &'a mut StableDiffusion,
        request: &Request,
    ) -> Result<Self, GenerateError> {
        request.check()?;
        let unet_config = model.files().unet_config()?;
        let factor = model.latent_factor()?;
        let [width, height] = size(request, &unet_config, factor)?;
        check_sizes(request, [width, height])?;
        let sampling = request.sampling(model.scheduler())?;
        let strength = request.source.as_ref().map(|source| source.strength);
        let plan = sampling.plan(model.scheduler(), strength)?;

        // The text.
        let knows_guidance = unet_config.encoder.time_cond_proj_dim.is_some();
        let is_guided = request.scale > 1.0 && !knows_guidance;
        let mut texts = vec![&request.prompt];
        if is_guided {
            texts.push(&request.negative);
        }
        let texts = model.encode(&texts, request.clip_skip)?;
        for &expected in &unet_config.encoder.cross_attention_dim {
            let found = texts[0].dims()[2];
            if found != expected {
                return Err(GenerateError::Mismatch {
                    what: "the features of the encoded text must be",
                    expected,
                    found,
                });
            }
        }

        if let Some(found) = unet_config.encoder.num_class_embeds {
            return Err(GenerateError::Mismatch {
                what: "the classes that the U-Net is to be told must be",
                expected: 0,
                found,
            });
        }

        // The noise, and what a source says, in the order in which diffusers draws.
        let batch = request.seeds.len();
        let latent = unet_config.out_channels;
        let sides = [height, width].map(|side| side as usize / factor);
        let shape = [batch, latent, sides[0], sides[1]];
        let mut generator = Torch::each(&request.seeds);
        let is_inpainting = unet_config.encoder.in_channels == 2 * latent + 1;
        if !is_inpainting && unet_config.encoder.in_channels != latent {
            return Err(GenerateError::Mismatch {
                what: "the channels that the U-Net reads must be as many as it predicts, or twice as many and a mask:",
                expected: latent,
                found: unet_config.encoder.in_channels,
            });
        }
        let given = Given::new(model, request, shape, is_inpainting, &plan, &mut generator)?;

        let condition = |text: &Tensor<3>| ControlledCondition {
            unet: Condition {
                text: Some(text.clone().repeat_dim(0, batch)),
                classes: None,
                channels: given.channels.clone(),
                guidance: knows_guidance.then(|| vec![request.scale; batch]),
            },
            pictures: controls(request, &model.device),
        };
        let mut conditions: Vec<ControlledCondition> = texts.iter().map(condition).collect();
        let network = network(model, request, factor)?;
        let denoiser = denoiser(network, model, request, sampling, &plan, &conditions)?;
        let denoiser: Box<Conditional> = match given.pins {
            Some(pins) => Box::new(Inpaint { denoiser, pins }),
            None => denoiser,
        };
        let noise = Drawn {
            first: Some(given.first),
            then: generator,
        };
        Ok(Self {
            parameters: parameters(model, request, sampling, [width, height])?,
            seeds: request.seeds.clone(),
            source: request.source.clone(),
            condition: conditions.swap_remove(0),
            scales: request.controls.iter().map(|it| it.scale).collect(),
            model,
            denoiser,
            plan,
            drawing: noise.clone(),
            noise,
            clean: given.clean,
            shape,
            latents: None,
            done: 0,
        })
    }

    /// The passes, with what happens after each.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The steps, from the first; progress, previews and cancellation are a `for` loop over them.
    pub fn steps(&mut self) -> Steps<'_> {
        (self.latents, self.done) = (None, 0);
        self.drawing = self.noise.clone();
        let (denoiser, stages) = (&*self.denoiser, &self.plan.stages[..]);
        let sampler = if let Some(clean) = &self.clean {
            Sampler::refine(denoiser, &(), stages, clean.clone(), &mut self.drawing)
        } else {
            let device = &self.model.device;
            Sampler::from_noise(denoiser, &(), stages, self.shape, device, &mut self.drawing)
        };
        Steps {
            suspects: Suspects {
                networks: &self.model.controls,
                scales: &self.scales,
                condition: &self.condition,
            },
            sampler: Some(sampler),
            previewer: self.model.previewer.as_ref(),
            count: stages.len(),
            latents: &mut self.latents,
            done: &mut self.done,
        }
    }

    /// The latents after the steps that were taken, `[pictures, channels, height, width]`, scaled as the U-Net knows
    /// them.
    pub fn latents(&self) -> Option<&Tensor<4>> {
        self.latents.as_ref()
    }

    /// What the autoencoder makes of the latents: `[pictures, 3, height, width]`, in about -1 to 1. The U-Net is let go
    /// before, where one network is to be in memory at a time.
    ///
    /// # Errors
    ///
    /// If the steps were not all taken, the autoencoder cannot be loaded, or what it gives is not finite.
    pub fn decode(self) -> Result<Tensor<4>, GenerateError> {
        let Self {
            model,
            denoiser,
            plan,
            latents,
            done,
            ..
        } = self;
        let steps = plan.stages.len();
        let latents = latents
            .filter(|_| done == steps)
            .ok_or(GenerateError::Stopped { done, steps })?;
        drop(denoiser);
        let network = model.autoencoder()?;
        let memory = model.decoding_memory;
        // One at a time: what is laid out grows with the pictures.
        let pictures = (0..latents.dims()[0]).map(|i| {
            let picture = network.decode_within(latents.clone().narrow(0, i, 1), memory);
            finite(&picture, Component::Autoencoder, None)?;
            Ok(picture)
        });
        let pictures: Result<Vec<_>, GenerateError> = pictures.collect();
        Ok(Tensor::cat(pictures?, 0))
    }

    /// The pictures, in the order of their seeds. What a mask leaves is as it was.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    pub fn finish(mut self) -> Result<Vec<Made>, GenerateError> {
        let mut parameters = std::mem::take(&mut self.parameters);
        // A file that cannot be read any more does not cost the picture.
        let hash = self.model.hash().ok();
        parameters.model_hash = hash.map(|it| it[..SHOWN_HASH].to_owned());
        let seeds = std::mem::take(&mut self.seeds);
        let source = self.source.take();
        let decoded = self.decode()?;
        let each: usize = decoded.dims()[1..].iter().product();
        let values = finite(&decoded, Component::Autoencoder, None)?;
        let made = values.chunks(each).zip(seeds).map(|(planes, seed)| {
            let picture = Picture::from_planes(parameters.width, parameters.height, planes)?;
            let picture = match &source {
                Some(Source {
                    picture: before,
                    mask: Some(mask),
                    ..
                }) => before.painted_over(&picture, mask)?,
                _ => picture,
            };
            Ok(Made {
                picture,
                parameters: Parameters {
                    seed,
                    ..parameters.clone()
                },
            })
        });
        made.collect()
    }
}

impl std::fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("parameters", &self.parameters)
            .field("seeds", &self.seeds)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// One step of a picture, done.
#[derive(Clone, Debug)]
pub struct PictureStep {
    /// The number of the pass, from 0.
    pub index: usize,
    /// How many there are.
    pub steps: usize,
    /// What the network was told of the time.
    pub t: f64,
    /// The clean estimate, `[pictures, channels, height, width]`: what the picture would be.
    pub clean: Tensor<4>,
    /// The latents after the step.
    pub latents: Tensor<4>,
    previewer: Option<Autoencoder>,
}

/// What each latent channel adds to red, green and blue of a rough preview: a grey one, since which channel carries which
/// colour is a matter of the autoencoder, and brightness is not.
const COLOURS: [[f32; 3]; 4] = [[0.25; 3], [0.25; 3], [0.0; 3], [-0.25; 3]];

impl PictureStep {
    /// What the pictures would be: by the tiny autoencoder if there is one, or by a formula, a pixel for each place of
    /// the latents. None where the latents have other channels than the formula knows.
    ///
    /// # Errors
    ///
    /// If the estimate is not finite.
    pub fn preview(&self) -> Result<Option<Vec<Picture>>, GenerateError> {
        let step = Some((self.index + 1, self.steps));
        let [batch, channels, height, width] = self.clean.dims();
        let decoded = match &self.previewer {
            Some(network) if network.latent_channels() == channels => {
                let decoded = network.decode(self.clean.clone());
                let [_, _, height, width] = decoded.dims();
                let values = finite(&decoded, Component::Autoencoder, None)?;
                (values, [width, height])
            }
            _ if channels == COLOURS.len() => {
                let values = finite(&self.clean, Component::Unet, step)?;
                let plane = height * width;
                let mut colours = Vec::with_capacity(batch * 3 * plane);
                for latents in values.chunks(channels * plane) {
                    for colour in 0..3 {
                        colours.extend((0..plane).map(|at| {
                            let shares = COLOURS.iter().enumerate();
                            shares
                                .map(|(c, share)| share[colour] * latents[c * plane + at])
                                .sum::<f32>()
                        }));
                    }
                }
                (colours, [width, height])
            }
            _ => return Ok(None),
        };
        let (values, [width, height]) = decoded;
        let pictures = values
            .chunks(3 * width * height)
            .map(|planes| Ok(Picture::from_planes(width as u32, height as u32, planes)?));
        pictures
            .collect::<Result<Vec<_>, GenerateError>>()
            .map(Some)
    }
}

/// The ControlNets that may have spoiled a step.
#[derive(Debug)]
struct Suspects<'a> {
    networks: &'a [ControlNet],
    scales: &'a [f64],
    condition: &'a ControlledCondition,
}

impl Suspects<'_> {
    /// Asks each alone what it made of the sample that a step began with, and returns the first that is to blame.
    fn find(&self, sample: &Tensor<4>, at: Point) -> Option<usize> {
        let x = sample.clone().div_scalar(at.level.magnitude());
        let pairs = (self.networks.iter().zip(self.scales)).zip(&self.condition.pictures);
        pairs.into_iter().position(|((network, scale), picture)| {
            let prepared = network.prepare(&self.condition.unet, picture.clone());
            let residuals = network.forward(x.clone(), &[at], &prepared).scale(*scale);
            let mut all = residuals.down().iter().chain([residuals.mid()]);
            // What it was given may be broken already: then it is not its fault.
            is_finite(&x) && !all.all(is_finite)
        })
    }
}

fn is_finite(x: &Tensor<4>) -> bool {
    finite(x, Component::Unet, None).is_ok()
}

/// The steps of pictures, one a call of `next`. After an error there are no more.
#[derive(Debug)]
pub struct Steps<'a> {
    suspects: Suspects<'a>,
    sampler: Option<Sampler<'a, 4, Conditional>>,
    previewer: Option<&'a Autoencoder>,
    count: usize,
    latents: &'a mut Option<Tensor<4>>,
    done: &'a mut usize,
}

impl Iterator for Steps<'_> {
    type Item = Result<PictureStep, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let sampler = self.sampler.as_mut()?;
        let before = sampler.sample().clone();
        let step = sampler.next()?;
        let place = (step.index + 1, self.count);
        if let Err(error) = finite(&step.sample, Component::Unet, Some(place)) {
            let found = self.suspects.find(&before, step.stage.at);
            self.sampler = None;
            return Some(Err(found.map_or(error, |index| {
                GenerateError::NonFiniteControl { index, step: place }
            })));
        }
        *self.latents = Some(step.sample.clone());
        *self.done = step.index + 1;
        Some(Ok(PictureStep {
            index: step.index,
            steps: self.count,
            t: step.stage.at.t,
            clean: step.estimate.clean,
            latents: step.sample,
            previewer: self.previewer.cloned(),
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let most = self.sampler.as_ref().map_or(0, ExactSizeIterator::len);
        (0, Some(most))
    }
}

/// What pictures begin with, and what is known of them.
struct Given {
    /// The first draw.
    first: Vec<f32>,
    /// The latents of the source, where sampling begins part-way.
    clean: Option<Tensor<4>>,
    /// What is laid beside the sample, for a U-Net that inpaints.
    channels: Option<Tensor<4>>,
    /// What stays, for one that does not.
    pins: Option<Pins<4>>,
}

impl Given {
    fn new(
        model: &mut StableDiffusion,
        request: &Request,
        shape: [usize; 4],
        is_inpainting: bool,
        plan: &Plan,
        generator: &mut Torch,
    ) -> Result<Self, GenerateError> {
        let device = model.device.clone();
        let Some(source) = &request.source else {
            if is_inpainting {
                return Err(GenerateError::Argument {
                    name: "source",
                    expected: "a picture and a mask, for a U-Net that inpaints,",
                    found: "missing".into(),
                });
            }
            return Ok(Self {
                first: begin(generator, shape, plan),
                clean: None,
                channels: None,
                pins: None,
            });
        };
        let [batch, latent, rows, columns] = shape;
        let network = model.autoencoder()?;
        if network.latent_channels() != latent {
            return Err(GenerateError::Mismatch {
                what: "the channels of the autoencoder's latents must be",
                expected: latent,
                found: network.latent_channels(),
            });
        }
        let [height, width] = [source.picture.height(), source.picture.width()];
        let encode = |planes: Vec<f32>| {
            let shape = [1, 3, height as usize, width as usize];
            let posterior =
                network.encode(Tensor::from_data(TensorData::new(planes, shape), &device));
            finite(&posterior.mean, Component::Autoencoder, None)?;
            Ok::<_, GenerateError>(posterior)
        };
        // A draw of the posterior for each picture.
        let sample = |planes: Vec<f32>, generator: &mut Torch| {
            let posterior = encode(planes)?;
            let all = |x: Tensor<4>| x.repeat_dim(0, batch);
            let Some(deviation) = posterior.deviation else {
                return Ok(all(posterior.mean));
            };
            let noise = normal(generator, shape, &device);
            Ok::<_, GenerateError>(all(posterior.mean) + all(deviation) * noise)
        };
        let is_partial = source.strength < 1.0;
        let planes = source.picture.planes();
        if is_inpainting {
            let clean = if is_partial {
                Some(sample(planes.clone(), generator)?)
            } else {
                None
            };
            let first = refined(generator, clean.as_ref(), shape, plan);
            let painted = (source.mask.as_ref()).map_or_else(
                || vec![true; width as usize * height as usize],
                Picture::is_white,
            );
            let pixels = planes.iter().zip(painted.iter().cycle());
            let kept = pixels.map(|(&value, &painted)| if painted { 0.0 } else { value });
            let kept = sample(kept.collect(), generator)?;
            // One pixel stands for its latent, as in diffusers.
            let mask = per_latent(&painted, network.factor(), [rows, columns], |of| of[0]);
            let mask = Tensor::<4>::from_data(mask, &device).repeat_dim(0, batch);
            return Ok(Self {
                first,
                clean,
                channels: Some(Tensor::cat(vec![mask, kept], 1)),
                pins: None,
            });
        }
        let Some(mask) = &source.mask else {
            let clean = Some(sample(planes, generator)?);
            return Ok(Self {
                first: refined(generator, clean.as_ref(), shape, plan),
                clean,
                channels: None,
                pins: None,
            });
        };
        let mean = encode(planes)?.mean;
        // What a latent says reaches beyond its pixels; it stays where none of them is painted.
        let stays = |painted: &[bool]| !painted.contains(&true);
        let stays = per_latent(&mask.is_white(), network.factor(), [rows, columns], stays);
        let stays = Tensor::<4>::from_data(stays, &device);
        let clean = is_partial.then(|| mean.clone().repeat_dim(0, batch));
        Ok(Self {
            first: refined(generator, clean.as_ref(), shape, plan),
            clean,
            channels: None,
            pins: Some(Pins::new(stays, mean)),
        })
    }
}

/// What `of` says of the pixels of each latent, row by row, as one and zero: `[1, 1, rows, columns]`.
fn per_latent(
    pixels: &[bool],
    factor: usize,
    [rows, columns]: [usize; 2],
    of: impl Fn(&[bool]) -> bool,
) -> TensorData {
    let values = (0..rows * columns).map(|at| {
        let (row, column) = (at / columns * factor, at % columns * factor);
        let block = (0..factor * factor).map(|i| {
            let (row, column) = (row + i / factor, column + i % factor);
            pixels[row * columns * factor + column]
        });
        f32::from(u8::from(of(&block.collect::<Vec<bool>>())))
    });
    TensorData::new(values.collect::<Vec<f32>>(), [1, 1, rows, columns])
}

/// What unit noise becomes for the executor, which multiplies it by the magnitude of the first level.
fn begin(generator: &mut Torch, shape: [usize; 4], plan: &Plan) -> Vec<f32> {
    let mut first = generator.draw(&shape);
    let magnitude = plan.stages[0].at.level.magnitude();
    if plan.start.total_cmp(&magnitude).is_ne() {
        for value in &mut first {
            *value = (f64::from(*value) * plan.start / magnitude) as f32;
        }
    }
    first
}

/// The first draw: to be added to a sample, or to be one.
fn refined(
    generator: &mut Torch,
    clean: Option<&Tensor<4>>,
    shape: [usize; 4],
    plan: &Plan,
) -> Vec<f32> {
    match clean {
        Some(_) => generator.draw(&shape),
        None => begin(generator, shape, plan),
    }
}

/// The width and height of the pictures.
fn size(request: &Request, unet: &UnetConfig, factor: usize) -> Result<[u32; 2], GenerateError> {
    /// In latents, where a model does not say.
    const USUAL: usize = 64;
    let trained = (unet.sample_size.unwrap_or(USUAL) * factor) as u32;
    let of_source = request.source.as_ref();
    let of_source = of_source.map(|source| [source.picture.width(), source.picture.height()]);
    let [width, height] = request.size.or(of_source).unwrap_or([trained; 2]);
    let multiple = factor as u32;
    let divides = |side: u32| side > 0 && side.is_multiple_of(multiple);
    if !divides(width) || !divides(height) {
        return Err(GenerateError::Size {
            width,
            height,
            multiple,
        });
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(PictureError::Pixels { width, height }.into());
    }
    Ok([width, height])
}

/// Says whether all given pictures have the size of those that are made.
fn check_sizes(request: &Request, expected: [u32; 2]) -> Result<(), GenerateError> {
    let source = request.source.as_ref();
    let pictures = source
        .map(|source| ("source", &source.picture))
        .into_iter()
        .chain(source.and_then(|source| Some(("mask", source.mask.as_ref()?))))
        .chain(
            request
                .controls
                .iter()
                .map(|control| ("ControlNet's picture", &control.picture)),
        );
    for (what, picture) in pictures {
        let found = [picture.width(), picture.height()];
        if found != expected {
            return Err(GenerateError::OtherSize {
                what,
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// What the ControlNets see: from 0 to 1.
fn controls(request: &Request, device: &Device) -> Vec<Tensor<4>> {
    let tensor = |picture: &Picture| {
        let shape = [1, 3, picture.height() as usize, picture.width() as usize];
        let planes = Tensor::<4>::from_data(TensorData::new(picture.planes(), shape), device);
        planes.add_scalar(1.0).div_scalar(2.0)
    };
    request
        .controls
        .iter()
        .map(|control| tensor(&control.picture))
        .collect()
}

/// The U-Net and its ControlNets.
fn network(
    model: &mut StableDiffusion,
    request: &Request,
    factor: usize,
) -> Result<Controlled, GenerateError> {
    if model.controls.len() != request.controls.len() {
        return Err(GenerateError::Controls {
            networks: model.controls.len(),
            pictures: request.controls.len(),
        });
    }
    let unet = model.unet()?;
    let mut controls = Vec::new();
    for (index, (network, control)) in model.controls.iter().zip(&request.controls).enumerate() {
        let differs = match network.differs_from(&unet) {
            None if network.factor() != factor => Some(format!(
                "picture is {} times as large as its latents, not {factor} times",
                network.factor()
            )),
            differs => differs,
        };
        if let Some(error) = differs {
            return Err(GenerateError::ControlNet { index, error });
        }
        controls.push((network.clone(), control.scale));
    }
    Ok(Controlled { unet, controls })
}

/// The network with what it predicts, guidance around it, and then the bound on estimates.
fn denoiser(
    network: Controlled,
    model: &StableDiffusion,
    request: &Request,
    sampling: Sampling,
    plan: &Plan,
    conditions: &[ControlledCondition],
) -> Result<Box<Conditional>, GenerateError> {
    let parameterization = model.scheduler().parameterization;
    let denoiser: Box<Conditional> = if let [positive, negative] = conditions {
        let condition = Guidance {
            positive: positive.clone(),
            negative: negative.clone(),
        };
        if request.rescale > 0.0 {
            let network = Rescaled {
                network,
                scale: request.scale,
                rescale: request.rescale,
            };
            let denoiser = parameterized(network, parameterization, plan)?;
            Box::new(Conditioned::new(denoiser, &condition))
        } else {
            let denoiser = ClassifierFree {
                denoiser: parameterized(network, parameterization, plan)?,
                scale: request.scale,
            };
            Box::new(Conditioned::new(denoiser, &condition))
        }
    } else {
        let denoiser = parameterized(network, parameterization, plan)?;
        Box::new(Conditioned::new(denoiser, &conditions[0]))
    };
    Ok(match model.scheduler().clip(sampling.method) {
        Some(threshold) => Box::new(Clip {
            denoiser,
            threshold,
            noise: match sampling.method {
                // It steps along the noise alone.
                Method::Deis => ClippedNoise::Implied,
                _ => ClippedNoise::Kept,
            },
        }),
        None => denoiser,
    })
}

fn parameterized<N: Network<4>>(
    network: N,
    parameterization: Parameterization,
    plan: &Plan,
) -> Result<Parameterized<N>, GenerateError> {
    let mut denoiser = Parameterized::new(network, parameterization);
    if let Some(line) = plan.line {
        denoiser = denoiser.trained_on(line);
    }
    denoiser.check(&plan.stages)?;
    Ok(denoiser)
}

/// What is written into the pictures, but for the seed.
fn parameters(
    model: &StableDiffusion,
    request: &Request,
    sampling: Sampling,
    [width, height]: [u32; 2],
) -> Result<Parameters, GenerateError> {
    let mask = request.source.as_ref().and_then(|it| it.mask.as_ref());
    let picture = request.source.as_ref().map(|it| &it.picture);
    let controls = (model.control_paths.iter()).zip(&request.controls);
    Ok(Parameters {
        prompt: request.prompt.written(),
        negative_prompt: request.negative.written(),
        steps: request.steps,
        method: sampling.method.name().to_owned(),
        grid: request.spacing.map(|spacing| spacing.name().to_owned()),
        scale: request.scale,
        rescale: request.rescale,
        width,
        height,
        strength: request.source.as_ref().map(|source| source.strength),
        clip_skip: request.clip_skip,
        loras: model.loras.clone(),
        controls: controls
            .map(|(path, control)| ControlUse {
                name: name_of(path),
                scale: control.scale,
                picture: control.picture.digest(),
            })
            .collect(),
        source: picture.map(Picture::digest),
        mask: mask.map(Picture::digest),
        precision: (model.precision_of(Component::Unet)?).map(|it| it.to_string()),
        vae: model.autoencoder_path.as_deref().map(name_of),
        prediction: prediction(model.scheduler().parameterization).map(str::to_owned),
        model: name_of(model.files().path()),
        version: format!("clearway {}", env!("CARGO_PKG_VERSION")),
        ..Parameters::default()
    })
}

/// What the field calls a model: its file or folder, without what is around it.
fn name_of(path: &Path) -> String {
    let name = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// diffusers' word for what a network predicts.
fn prediction(parameterization: Parameterization) -> Option<&'static str> {
    Some(match parameterization {
        Parameterization::Noise => "epsilon",
        Parameterization::Velocity => "v_prediction",
        Parameterization::Sample => "sample",
        Parameterization::Flow => "flow_prediction",
        _ => return None,
    })
}
