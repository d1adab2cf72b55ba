//! How a policy looks at what its cameras saw.

use burn::tensor::{Device, Tensor, TensorData};
use clearway_layers::{PackPolicy, PackReport, Resize, Weights, WeightsError, WeightsWriter};

use super::config::VisionConfig;
use crate::image::Window;
use crate::network::{Normalization, RgbEncoder, RgbEncoderConfig};
use crate::normalization::Normalizer;
use crate::{Image, Observation, ObservationError};

/// Where LeRobot keeps the weights of the encoders.
const ENCODER: &str = "diffusion.rgb_encoder.";

/// The most pixels that go through an encoder at once. Its first layer makes 16 numbers of each: 128 MiB of f32.
const MOST_PIXELS: usize = 1 << 21;

/// The cameras of a policy, with the networks that look at their images.
#[derive(Clone, Debug)]
pub struct Vision {
    config: VisionConfig,
    normalizers: Vec<Normalizer>,
    names: Vec<String>,
    /// One for all cameras, or one for each.
    encoders: Vec<RgbEncoder>,
    device: Device,
}

/// What the keys of each network begin with.
fn prefixes(config: &VisionConfig) -> Vec<String> {
    if config.separate_encoders {
        let cameras = 0..config.cameras.len();
        let prefix = |camera| format!("{ENCODER}{camera}.");
        cameras.map(prefix).collect()
    } else {
        vec![ENCODER.into()]
    }
}

impl Vision {
    pub(super) fn load(
        config: &VisionConfig,
        normalizers: Vec<Normalizer>,
        names: Vec<String>,
        weights: &mut Weights,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let encoder = RgbEncoderConfig {
            depth: config.backbone,
            normalization: if config.use_group_norm {
                Normalization::Group
            } else {
                Normalization::Batch
            },
            size: config.seen(),
            keypoints: config.keypoints,
        };
        let encoders: Result<_, _> = prefixes(config)
            .iter()
            .map(|prefix| encoder.init(device).load(weights, prefix))
            .collect();
        Ok(Self {
            config: config.clone(),
            normalizers,
            names,
            encoders: encoders?,
            device: device.clone(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// What observations call each of the [cameras](VisionConfig::cameras): the camera's own name, unless the policy
    /// renames observations.
    pub fn observed_names(&self) -> &[String] {
        &self.names
    }

    /// How each camera's channels are normalized.
    pub fn normalizers(&self) -> &[Normalizer] {
        &self.normalizers
    }

    /// The networks that look at the images: one for all cameras, or one for each.
    pub fn encoders(&self) -> &[RgbEncoder] {
        &self.encoders
    }

    /// Lays weights of the networks out for the CPU's kernels, see [`RgbEncoder::pack`].
    pub(super) fn pack(&mut self, policy: &PackPolicy) -> PackReport {
        let encoders = self.encoders.iter_mut();
        encoders.map(|it| it.pack(policy.clone())).sum()
    }

    /// Adds the weights of the networks to a file, under LeRobot's keys.
    pub(super) fn save(&self, writer: &mut WeightsWriter) {
        for (encoder, prefix) in self.encoders.iter().zip(prefixes(&self.config)) {
            encoder.save(writer, &prefix);
        }
    }

    /// The number of the networks' parameters.
    pub fn parameters(&self) -> usize {
        self.encoders.iter().map(RgbEncoder::parameters).sum()
    }

    /// The features of what all cameras saw, one camera after the other, for each observation.
    ///
    /// The images of all observations, and of all cameras that share a network, go through it together. One upload and
    /// one download a network.
    ///
    /// # Shapes
    ///
    /// - returns: one vector of `cameras · features` an observation
    ///
    /// # Errors
    ///
    /// If an observation lacks an image or has one of another size, or features are not finite.
    pub(super) fn features(
        &self,
        observations: &[&Observation],
    ) -> Result<Vec<Vec<f32>>, ObservationError> {
        let cameras = self.config.cameras.len();
        // An observation's images after the other: where there is one network, its features come out in the order of the
        // condition.
        let mut images = Vec::with_capacity(observations.len() * cameras);
        for observation in observations {
            for (camera, name) in self.names.iter().enumerate() {
                images.push((camera, self.image(observation, name)?));
            }
        }
        let mut features = vec![Vec::new(); images.len()];
        for (i, encoder) in self.encoders.iter().enumerate() {
            let seen: Vec<usize> = (0..images.len())
                .filter(|&image| self.encoders.len() == 1 || images[image].0 == i)
                .collect();
            let [height, width] = self.config.seen();
            for seen in seen.chunks((MOST_PIXELS / (height * width)).max(1)) {
                let batch = seen.iter().map(|&image| images[image]);
                let found = encoder.forward(self.framed(batch));
                let found: Vec<f32> = found
                    .into_data()
                    .try_to_vec()
                    .expect("networks compute in f32");
                for (&image, found) in seen.iter().zip(found.chunks(self.config.features())) {
                    if found.iter().any(|value| !value.is_finite()) {
                        return Err(ObservationError::Features {
                            camera: self.names[images[image].0].clone(),
                        });
                    }
                    features[image] = found.to_vec();
                }
            }
        }
        Ok(features.chunks(cameras).map(<[_]>::concat).collect())
    }

    /// What a camera saw, if it has the size that the policy was trained with.
    fn image<'a>(
        &self,
        observation: &'a Observation,
        name: &str,
    ) -> Result<&'a Image, ObservationError> {
        let image = observation
            .image(name)
            .ok_or_else(|| ObservationError::MissingImage {
                camera: name.into(),
            })?;
        let found = [image.height(), image.width()];
        if found == self.config.size {
            Ok(image)
        } else {
            Err(ObservationError::ImageSize {
                camera: name.into(),
                expected: self.config.size,
                found,
            })
        }
    }

    /// Images as the network sees them: normalized, resized and cropped, in that order.
    ///
    /// Shapes: returns `[images, 3, height, width]`.
    fn framed<'a>(&self, images: impl Iterator<Item = (usize, &'a Image)>) -> Tensor<4> {
        let [height, width] = self.config.resize.unwrap_or(self.config.size);
        let window = match self.config.crop {
            Some(crop) => centre([height, width], crop),
            None => centre([height, width], [height, width]),
        };
        let mut values = Vec::new();
        let mut count = 0;
        for (camera, image) in images {
            for channel in 0..3 {
                // What is cropped away need not be normalized, unless its neighbours take from it when they are resized.
                let window = match self.config.resize {
                    Some(_) => image.whole(),
                    None => window,
                };
                let normalize = self.normalizers[camera].in_f32(channel);
                image.extend_with(&mut values, channel, window, normalize);
            }
            count += 1;
        }
        let batch = |height, width, values| {
            Tensor::from_data(
                TensorData::new(values, [count, 3, height, width]),
                &self.device,
            )
        };
        if self.config.resize.is_some() {
            let [from_height, from_width] = self.config.size;
            Resize {
                size: [height, width],
            }
            .forward(batch(from_height, from_width, values))
            .narrow(2, window.top, window.height)
            .narrow(3, window.left, window.width)
        } else {
            batch(window.height, window.width, values)
        }
    }
}

/// The middle of a picture, as torchvision's `CenterCrop` finds it: half a pixel is rounded to the even one.
fn centre(size: [usize; 2], crop: [usize; 2]) -> Window {
    let start = |size: usize, crop: usize| {
        let half = (size - crop) as f64 / 2.0;
        half.round_ties_even() as usize
    };
    Window {
        top: start(size[0], crop[0]),
        left: start(size[1], crop[1]),
        height: crop[0],
        width: crop[1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_torchvisions() {
        // From torchvision 0.26: int(round((n - crop) / 2)), and Python rounds halves to even.
        for (size, crop, start) in [
            (96, 84, 6),
            (97, 84, 6),
            (99, 84, 8),
            (84, 84, 0),
            (5, 2, 2),
        ] {
            let window = centre([size, 100], [crop, 50]);
            assert_eq!((window.top, window.left), (start, 25), "{size} {crop}");
        }
    }
}
