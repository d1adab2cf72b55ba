//! What a student begins with, and whose pictures it learns on.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;

use super::TrainError;
use crate::dataset::Pictures;
use crate::picture_model::PictureModel;
use crate::{Component, Files, Unet};

/// Reads a model to learn from, or to begin with: codes have no gradient, and were rounded from weights that are better to learn
/// from.
pub(super) fn plain(folder: &Path, device: &Device) -> Result<PictureModel, TrainError> {
    let model = PictureModel::open(folder, device)?;
    let weights = Files::open(folder)?.weights(Component::Unet)?;
    if weights.packing().is_some() {
        return Err(TrainError::Packed {
            folder: folder.to_owned(),
        });
    }
    Ok(model)
}

/// Makes sure that a model draws pictures like those of a dataset.
pub(super) fn fits(
    model: &PictureModel,
    folder: &Path,
    pictures: &Pictures,
) -> Result<(), TrainError> {
    let form = model.form();
    let (size, channels) = (pictures.size(), pictures.channels());
    if (form.size, form.channels) != (size, channels) {
        return Err(TrainError::OtherPictures {
            folder: folder.to_owned(),
            size: form.size,
            channels: form.channels,
        });
    }
    if form.labels.len() != pictures.names().len() {
        return Err(TrainError::Labels {
            found: form.labels.len(),
            expected: pictures.names().len(),
        });
    }
    Ok(())
}

/// What becomes of weights that a network has and the one that it begins as has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// They stay as they are.
    Kept,
    /// They say nothing.
    Zero,
}

/// Gives a network the weights of another one: those of the same name and shape.
pub(super) fn begin(network: Unet, known: &Unet, unknown: Unknown) -> Unet {
    let mut values = Known::default();
    known.visit(&mut values);
    network.map(&mut Begin {
        known: values.values,
        unknown,
        path: Vec::new(),
    })
}

/// The values of a network's parameters, by their paths.
#[derive(Default)]
struct Known {
    path: Vec<String>,
    values: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Known {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let values = parameter.val().into_data();
        self.values.insert(self.path.join("."), values);
    }
}

/// Gives a network the values that are known.
struct Begin {
    known: BTreeMap<String, TensorData>,
    unknown: Unknown,
    path: Vec<String>,
}

impl ModuleMapper for Begin {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let known = self.known.remove(&self.path.join("."));
        let known = known.filter(|it| it.shape().as_slice() == parameter.dims());
        let unknown = self.unknown;
        parameter.map(|drawn| match (known, unknown) {
            (Some(values), _) => Tensor::from_data(values, &drawn.device()),
            (None, Unknown::Kept) => drawn,
            (None, Unknown::Zero) => drawn.zeros_like(),
        })
    }
}
