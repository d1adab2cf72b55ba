//! What a layer has learned: plain or packed.

use std::iter::Sum;
use std::ops::Add;
use std::sync::Arc;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{Device, Tensor, TensorData};

use crate::kernel::{LANES, Panels, Precision, Window};

/// A parameter of a layer.
///
/// A plain one is burn's: it can be trained, and runs on every device. A packed one is laid out for the kernels of this
/// crate; it computes on the CPU, and has no gradient. Nothing of the plain one is kept, so that neither can be stale.
#[derive(Clone, Debug)]
pub enum Parameter<const D: usize> {
    /// burn's parameter.
    Plain(Param<Tensor<D>>),
    /// Laid out for the kernels.
    Packed(Packed<D>),
}

/// A packed parameter. Clones share their memory.
#[derive(Clone, Debug)]
pub struct Packed<const D: usize> {
    shape: [usize; D],
    device: Device,
    content: Contents,
}

#[derive(Clone, Debug)]
enum Contents {
    /// As they are, row-major.
    Values(Arc<[f32]>),
    /// `[row, depth, tap]`, or without the taps.
    Matrix(Arc<Panels>),
    /// `[row, depth]`, sixteen rows of the first half beside sixteen of the second.
    Gated(Arc<Panels>),
    /// `[depth, row, tap]`, the taps of each remainder of `stride` by themselves.
    Phases {
        panels: Arc<[Panels]>,
        stride: usize,
    },
}

/// Whether packed layers belong on a device: on `Flex`, burn's CPU backend, without gradients. On any other, each layer would
/// carry its tensors to the host and back.
pub fn can_pack(device: &Device) -> bool {
    // Libraries take burn without a backend, and so cannot name its devices; burn's version is pinned, and a test holds
    // the words.
    format!("{device:?}").starts_with("Device<Flex")
}

/// What [`pack`](crate::Linear::pack) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct PackReport {
    /// How many layers are packed now.
    pub layers: usize,
    /// How many numbers they hold.
    pub parameters: usize,
    /// How much memory these take, in bytes.
    pub bytes: usize,
}

impl Add for PackReport {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            layers: self.layers + other.layers,
            parameters: self.parameters + other.parameters,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Sum for PackReport {
    fn sum<I: Iterator<Item = Self>>(reports: I) -> Self {
        reports.fold(Self::default(), Add::add)
    }
}

impl<const D: usize> From<Param<Tensor<D>>> for Parameter<D> {
    fn from(param: Param<Tensor<D>>) -> Self {
        Self::Plain(param)
    }
}

impl<const D: usize> Parameter<D> {
    /// The shape; draws no random weights.
    pub fn dims(&self) -> [usize; D] {
        match self {
            Self::Plain(param) => param.lazy_shape().dims(),
            Self::Packed(packed) => packed.shape,
        }
    }

    /// The values; those of a packed parameter are laid out anew in every call.
    pub fn val(&self) -> Tensor<D> {
        match self {
            Self::Plain(param) => param.val(),
            Self::Packed(packed) => packed.unpack(),
        }
    }

    /// Where the parameter is.
    pub fn device(&self) -> Device {
        match self {
            Self::Plain(param) => param.lazy_device(),
            Self::Packed(packed) => packed.device.clone(),
        }
    }

    /// Whether the parameter is packed.
    pub fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// Packs what `pack` makes of the values; a packed parameter is laid out anew.
    fn pack(&mut self, pack: impl FnOnce(Vec<f32>) -> Contents) -> PackReport {
        let shape = self.dims();
        let device = self.device();
        // Empty for the moment, so that the values are not copied.
        let empty = Self::Packed(Packed {
            shape,
            device: device.clone(),
            content: Contents::Values(Arc::new([])),
        });
        let tensor = match std::mem::replace(self, empty) {
            Self::Plain(param) => param.into_value(),
            Self::Packed(packed) => packed.unpack(),
        };
        let content = pack(values(tensor));
        let bytes = match &content {
            Contents::Values(values) => size_of_val(&**values),
            Contents::Matrix(panels) | Contents::Gated(panels) => panels.bytes(),
            Contents::Phases { panels, .. } => panels.iter().map(Panels::bytes).sum(),
        };
        *self = Self::Packed(Packed {
            shape,
            device,
            content,
        });
        PackReport {
            layers: 0,
            parameters: shape.iter().product(),
            bytes,
        }
    }
}

impl Parameter<1> {
    /// Keeps the values as they are: a number for each channel is no matter of speed.
    pub(crate) fn pack_values(&mut self) -> PackReport {
        self.pack(|values| Contents::Values(values.into()))
    }

    /// The values of a packed parameter.
    pub(crate) fn values(&self) -> Option<&[f32]> {
        match self {
            Self::Packed(Packed {
                content: Contents::Values(values),
                ..
            }) => Some(values),
            _ => None,
        }
    }
}

impl<const D: usize> Parameter<D> {
    /// Packs `[row, depth]` or `[row, depth, tap]`.
    pub(crate) fn pack_matrix(&mut self, precision: Precision) -> PackReport {
        let shape = self.dims();
        let (rows, depth) = (shape[0], shape[1]);
        let taps = shape[2..].iter().product();
        self.pack(|values| {
            let at = |row, depth_at, tap| values[(row * depth + depth_at) * taps + tap];
            Contents::Matrix(Arc::new(Panels::new(precision, [rows, depth, taps], at)))
        })
    }

    /// The weights that [`pack_matrix`](Self::pack_matrix) packed.
    pub(crate) fn matrix(&self) -> Option<&Panels> {
        match self {
            Self::Packed(Packed {
                content: Contents::Matrix(panels),
                ..
            }) => Some(panels),
            _ => None,
        }
    }
}

impl Parameter<2> {
    /// Packs `[row, depth]` so that the rows of the first half are computed beside those of the second, which gate them.
    pub(crate) fn pack_gated(&mut self, precision: Precision) -> PackReport {
        let [rows, depth] = self.dims();
        let hidden = rows / 2;
        self.pack(|values| {
            let shape = [2 * hidden.next_multiple_of(LANES), depth, 1];
            let panels = Panels::new(precision, shape, |row, at, _| match ungated(row, hidden) {
                Some(row) => values[row * depth + at],
                None => 0.0,
            });
            Contents::Gated(Arc::new(panels))
        })
    }

    /// The weights that [`pack_gated`](Self::pack_gated) packed.
    pub(crate) fn gated(&self) -> Option<&Panels> {
        match self {
            Self::Packed(Packed {
                content: Contents::Gated(panels),
                ..
            }) => Some(panels),
            _ => None,
        }
    }
}

/// Which row of both halves a row of gated panels is; none behind the end of a half.
fn ungated(row: usize, hidden: usize) -> Option<usize> {
    let (panel, lane) = (row / LANES, row % LANES);
    let at = panel / 2 * LANES + lane;
    (at < hidden).then_some(at + panel % 2 * hidden)
}

impl Parameter<3> {
    /// Packs `[depth, row, tap]`, the taps of each remainder of `stride` by themselves.
    pub(crate) fn pack_phases(&mut self, precision: Precision, stride: usize) -> PackReport {
        let [depth, rows, taps] = self.dims();
        self.pack(|values| {
            let phase = |phase| {
                let meeting = Window::taps_of_phase(taps, stride, phase);
                let shape = [rows, depth, meeting.len()];
                Panels::new(precision, shape, |row, depth, tap| {
                    values[(depth * rows + row) * taps + meeting[tap]]
                })
            };
            Contents::Phases {
                panels: (0..stride).map(phase).collect(),
                stride,
            }
        })
    }

    /// The weights that [`pack_phases`](Self::pack_phases) packed.
    pub(crate) fn phases(&self) -> Option<&[Panels]> {
        match self {
            Self::Packed(Packed {
                content: Contents::Phases { panels, .. },
                ..
            }) => Some(panels),
            _ => None,
        }
    }
}

impl<const D: usize> Packed<D> {
    fn unpack(&self) -> Tensor<D> {
        let values: Vec<f32> = match &self.content {
            Contents::Values(values) => values.to_vec(),
            Contents::Matrix(panels) => {
                let (depth, taps) = (panels.depth(), panels.taps());
                let at = |i| panels.weight(i / (depth * taps), i / taps % depth, i % taps);
                (0..panels.rows() * depth * taps).map(at).collect()
            }
            Contents::Gated(panels) => {
                let (depth, hidden) = (panels.depth(), self.shape[0] / 2);
                let mut values = vec![0.0; 2 * hidden * depth];
                for packed in 0..panels.rows() {
                    if let Some(row) = ungated(packed, hidden) {
                        for (at, value) in values[row * depth..][..depth].iter_mut().enumerate() {
                            *value = panels.weight(packed, at, 0);
                        }
                    }
                }
                values
            }
            Contents::Phases { panels, stride } => {
                let (rows, taps) = (panels[0].rows(), self.shape[D - 1]);
                let at = |i: usize| {
                    let (depth, row, tap) = (i / (rows * taps), i / taps % rows, i % taps);
                    let phase = &panels[tap % stride];
                    phase.weight(row, depth, phase.taps() - 1 - tap / stride)
                };
                (0..panels[0].depth() * rows * taps).map(at).collect()
            }
        };
        tensor(values, self.shape, &self.device)
    }
}

/// The values of a tensor, without a copy where nothing else refers to them.
///
/// # Panics
///
/// If they are not f32.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .try_into_vec()
        .expect("packed layers compute in f32")
}

/// A tensor of these values, without a copy where the device is the CPU.
pub(crate) fn tensor<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

impl<const D: usize> Module for Parameter<D> {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        match self {
            Self::Plain(param) => param.collect_devices(devices),
            Self::Packed(packed) => {
                if !devices.contains(&packed.device) {
                    devices.push(packed.device.clone());
                }
                devices
            }
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.fork(device)),
            packed @ Self::Packed(_) => packed.to_device(device),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.to_device(device)),
            Self::Packed(packed) => Self::Packed(Packed {
                device: device.clone(),
                ..packed
            }),
        }
    }

    fn train(self) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.train()),
            packed @ Self::Packed(_) => packed,
        }
    }

    fn valid(&self) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.valid()),
            packed @ Self::Packed(_) => packed.clone(),
        }
    }

    fn materialize(self) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.materialize()),
            packed @ Self::Packed(_) => packed,
        }
    }

    fn num_params(&self) -> usize {
        self.dims().iter().product()
    }

    // A packed parameter is not shown to visitors and mappers: it is no parameter to an optimizer or a record.
    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        if let Self::Plain(param) = self {
            param.visit(visitor);
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(Module::map(param, mapper)),
            packed @ Self::Packed(_) => packed,
        }
    }
}

impl<const D: usize> ModuleDisplayDefault for Parameter<D> {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Plain(param) => content.add_single(param).optional(),
            Self::Packed(packed) => content
                .add_formatted(&format!("packed {:?}", packed.shape))
                .optional(),
        }
    }
}

impl<const D: usize> ModuleDisplay for Parameter<D> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_packs() {
        let device = Device::flex();
        assert!(can_pack(&device), "burn calls it {device:?} now");
        #[cfg(feature = "train")]
        assert!(!can_pack(&device.autodiff()));
    }
}
