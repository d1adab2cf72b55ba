//! What a layer has learned: plain or packed.

use std::iter::Sum;
use std::ops::Add;
use std::sync::Arc;

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param,
};
use burn::tensor::{Device, Tensor, TensorData};

use crate::kernel::{LANES, Level, Panels, Precision, Window, round_inputs, round_weights};
use crate::quantized::{self, Arrival, Quantized, Shown, Stored};

/// A parameter of a layer.
///
/// A plain one is burn's: it can be trained, and runs on every device. A packed one is laid out for the kernels of this
/// crate; it computes on the CPU, and has no gradient. Nothing of the plain one is kept, so that neither can be stale.
#[derive(Clone, Debug)]
pub enum Parameter<const D: usize> {
    /// burn's parameter.
    Plain(Param<Tensor<D>>),
    /// burn's parameter, which computes as if it was packed in this precision, and so can be trained for it.
    Rehearsed(Param<Tensor<D>>, Precision),
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
    /// As a file had them; not laid out yet.
    Codes(Quantized),
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
            Self::Plain(param) | Self::Rehearsed(param, _) => param.lazy_shape().dims(),
            Self::Packed(packed) => packed.shape,
        }
    }

    /// The values; those of a packed parameter are laid out anew in every call. One that is rehearsed is rounded as
    /// `[row, depth, ..]`, with a gradient as if it was not.
    pub fn val(&self) -> Tensor<D> {
        match self {
            Self::Plain(param) => param.val(),
            Self::Rehearsed(param, precision) => {
                let shape = self.dims();
                let taps = shape[2.min(D)..].iter().product();
                let depth = shape[1.min(D - 1)];
                straight_through(param.val(), |values| {
                    round_weights(*precision, values, [depth, taps]);
                })
            }
            Self::Packed(packed) => packed.unpack(),
        }
    }

    /// Where the parameter is.
    pub fn device(&self) -> Device {
        match self {
            Self::Plain(param) | Self::Rehearsed(param, _) => param.lazy_device(),
            Self::Packed(packed) => packed.device.clone(),
        }
    }

    /// Whether the parameter is packed.
    pub fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// What the parameter holds; it is empty afterwards, so that nothing is copied. A weight of codes is taken as codes if
    /// they are wanted in their precision, and as numbers else.
    fn take(&mut self, precision: Precision) -> Source {
        let empty = Self::Packed(Packed {
            shape: self.dims(),
            device: self.device(),
            content: Contents::Values(Arc::new([])),
        });
        match std::mem::replace(self, empty) {
            Self::Plain(param) | Self::Rehearsed(param, _) => {
                Source::Values(values(param.into_value()))
            }
            Self::Packed(packed) => match packed.stored() {
                Stored::Codes(codes) if codes.precision() == precision => Source::Codes(codes),
                stored => Source::Values(stored.values()),
            },
        }
    }

    /// Puts what was made of the values in their place.
    fn put(&mut self, content: Contents) -> PackReport {
        let (shape, device) = (self.dims(), self.device());
        let bytes = match &content {
            Contents::Values(values) => size_of_val(&**values),
            Contents::Codes(weight) => weight.codes().len() + size_of_val(weight.scales()),
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

/// What is laid out.
enum Source {
    Values(Vec<f32>),
    Codes(Quantized),
}

impl Source {
    /// Lays out the numbers that lie at `index(row, depth, tap)`, in row-major order; zeros where there is none.
    fn panels(
        &self,
        precision: Precision,
        shape: [usize; 3],
        index: impl Fn(usize, usize, usize) -> Option<usize> + Sync,
    ) -> Panels {
        let of_values = |values: &[f32]| {
            Panels::new(precision, shape, |row, depth, tap| {
                index(row, depth, tap).map_or(0.0, |at| values[at])
            })
        };
        match self {
            Self::Values(values) => of_values(values),
            Self::Codes(weight) if !fits(weight, shape, &index) => of_values(&weight.values()),
            Self::Codes(weight) => {
                let panels = Panels::of_codes(
                    precision,
                    shape,
                    |row, depth, tap| index(row, depth, tap).map_or(0, |at| weight.codes()[at]),
                    |row, depth, tap| {
                        index(row, depth, tap)
                            .map_or(0.0, |at| weight.scales()[weight.scale_of(at)])
                    },
                );
                match weight.balance() {
                    Some(balance) => panels.balanced(balance),
                    None => panels,
                }
            }
        }
    }
}

/// Whether the scales of codes are those of panels: one for each row of bytes, one for each group of a row of half bytes.
fn fits(
    weight: &Quantized,
    [rows, depth, taps]: [usize; 3],
    index: impl Fn(usize, usize, usize) -> Option<usize>,
) -> bool {
    let scale = |row, depth, tap| Some(weight.scale_of(index(row, depth, tap)?));
    let value = |scale: Option<usize>| scale.map(|at| weight.scales()[at].to_bits());
    let most = Panels::largest_byte([rows, depth, taps]);
    // Kernels of convolutions over time alone multiply their inputs.
    if weight.balance().is_some() && (weight.shape().len() != 3 || weight.shape()[1] != depth) {
        return false;
    }
    let is_byte = weight.precision() == Precision::Int8;
    let group = match weight.precision() {
        Precision::Int4 { group } => group,
        _ => depth,
    };
    if is_byte
        && weight
            .codes()
            .iter()
            .any(|code| code.unsigned_abs() > most.unsigned_abs())
    {
        return false;
    }
    (0..rows).all(|row| {
        (0..taps).all(|tap| {
            let starts = (0..depth).step_by(group.max(1));
            // Along an axis there are as many scales as codes, one, or one a group: the ends of a group tell which.
            let mut groups = starts.map(|first| [first, depth.min(first + group) - 1]);
            let one = groups.all(|[first, last]| scale(row, first, tap) == scale(row, last, tap));
            one && (!is_byte || depth == 0 || value(scale(row, 0, tap)) == value(scale(row, 0, 0)))
        })
    })
}

impl Parameter<1> {
    /// Keeps the values as they are: a number for each channel is no matter of speed.
    pub(crate) fn pack_values(&mut self) -> PackReport {
        let values = match self.take(Precision::F32) {
            Source::Values(values) => values,
            Source::Codes(weight) => weight.values(),
        };
        self.put(Contents::Values(values.into()))
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
        let at = |row, depth_at, tap| Some((row * depth + depth_at) * taps + tap);
        let panels = (self.take(precision)).panels(precision, [rows, depth, taps], at);
        self.put(Contents::Matrix(Arc::new(panels)))
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
        let shape = [2 * hidden.next_multiple_of(LANES), depth, 1];
        let panels = self.take(precision).panels(precision, shape, |row, at, _| {
            Some(ungated(row, hidden)? * depth + at)
        });
        self.put(Contents::Gated(Arc::new(panels)))
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

/// Where a row lies in gated panels.
fn gated(row: usize, hidden: usize) -> usize {
    let (half, at) = (row / hidden, row % hidden);
    (at / LANES * 2 + half) * LANES + at % LANES
}

impl Parameter<3> {
    /// The values of `[depth, row, tap]`, rounded as [`pack_phases`](Self::pack_phases) does where they are rehearsed.
    pub(crate) fn val_of_phases(&self, stride: usize) -> Tensor<3> {
        let Self::Rehearsed(param, precision) = self else {
            return self.val();
        };
        let mut packed = Self::Plain(Param::from_tensor(param.val().detach()));
        let _ = packed.pack_phases(*precision, stride);
        let rounded = self::values(packed.val());
        straight_through(param.val(), |values| values.copy_from_slice(&rounded))
    }

    /// Packs `[depth, row, tap]`, the taps of each remainder of `stride` by themselves.
    pub(crate) fn pack_phases(&mut self, precision: Precision, stride: usize) -> PackReport {
        let [depth, rows, taps] = self.dims();
        let source = self.take(precision);
        let phase = |phase| {
            let meeting = Window::taps_of_phase(taps, stride, phase);
            let shape = [rows, depth, meeting.len()];
            source.panels(precision, shape, |row, depth, tap| {
                Some((depth * rows + row) * taps + meeting[tap])
            })
        };
        let panels = (0..stride).map(phase).collect();
        self.put(Contents::Phases { panels, stride })
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

impl Stored {
    /// The numbers, in row-major order; none of a count.
    pub(crate) fn values(self) -> Vec<f32> {
        match self {
            Self::Count(_) => Vec::new(),
            Self::F32(_, values) => values,
            Self::Bf16(_, halves) => {
                let values = halves
                    .into_iter()
                    .map(|it| f32::from_bits(u32::from(it) << 16));
                values.collect()
            }
            Self::Codes(weight) => weight.values(),
        }
    }
}

impl<const D: usize> Packed<D> {
    /// What a file keeps of it.
    pub(crate) fn stored(&self) -> Stored {
        let panels = match &self.content {
            Contents::Values(values) => return Stored::F32(self.shape.into(), values.to_vec()),
            Contents::Codes(weight) => return Stored::Codes(weight.clone()),
            Contents::Matrix(panels) | Contents::Gated(panels) => &**panels,
            // A stride is at least one.
            Contents::Phases { panels, .. } => &panels[0],
        };
        let numbers = 0..self.shape.iter().product();
        let weight = |at: usize| {
            let (panels, [row, depth, tap]) = self.place(at);
            panels.weight(row, depth, tap)
        };
        match panels.precision() {
            Precision::F32 => Stored::F32(self.shape.into(), numbers.map(weight).collect()),
            Precision::Bf16 => {
                let halves = numbers.map(|at| (weight(at).to_bits() >> 16) as u16);
                Stored::Bf16(self.shape.into(), halves.collect())
            }
            precision => Stored::Codes(self.codes(precision)),
        }
    }

    fn codes(&self, precision: Precision) -> Quantized {
        let code = |at: usize| {
            let (panels, [row, depth, tap]) = self.place(at);
            panels.code(row, depth, tap)
        };
        let codes = (0..self.shape.iter().product()).map(code).collect();
        let transposed = matches!(self.content, Contents::Phases { .. });
        let mut scale_shape = self.shape;
        match precision {
            Precision::Int4 { group } => {
                let depth = usize::from(!transposed);
                scale_shape[depth] = scale_shape[depth].div_ceil(group);
            }
            // The taps of a phase have one scale.
            _ if transposed => scale_shape[0] = 1,
            _ => scale_shape[1..].fill(1),
        }
        let scale = |at: usize| {
            // Of the first code that it stands for.
            let (mut rest, mut first, mut stride) = (at, 0, 1);
            for (&codes, &scales) in self.shape.iter().zip(&scale_shape).rev() {
                let block = codes.div_ceil(scales);
                let block = match precision {
                    Precision::Int4 { group } if scales != codes && scales > 1 => group,
                    _ => block,
                };
                first += rest % scales * block * stride;
                rest /= scales;
                stride *= codes;
            }
            let (panels, [row, depth, tap]) = self.place(first);
            panels.scale(row, depth, tap)
        };
        let scales = (0..scale_shape.iter().product()).map(scale).collect();
        let weight = Quantized::new(precision, (&self.shape, codes), (&scale_shape, scales))
            .expect("panels are made of codes and scales that go together");
        match &self.content {
            Contents::Matrix(panels) => match panels.balance() {
                Some(balance) => weight.balanced(balance).expect("it was looked at before"),
                None => weight,
            },
            _ => weight,
        }
    }

    /// Where a number lies, by its place in row-major order: in which panels, and at which row, depth and tap of them.
    ///
    /// # Panics
    ///
    /// If there are no panels.
    fn place(&self, at: usize) -> (&Panels, [usize; 3]) {
        match &self.content {
            Contents::Matrix(panels) => {
                let (depth, taps) = (panels.depth(), panels.taps());
                (panels, [at / (depth * taps), at / taps % depth, at % taps])
            }
            Contents::Gated(panels) => {
                let (depth, hidden) = (panels.depth(), self.shape[0] / 2);
                (panels, [gated(at / depth, hidden), at % depth, 0])
            }
            Contents::Phases { panels, stride } => {
                let (rows, taps) = (panels[0].rows(), self.shape[D - 1]);
                let (depth, row, tap) = (at / (rows * taps), at / taps % rows, at % taps);
                let phase = &panels[tap % stride];
                (phase, [row, depth, phase.taps() - 1 - tap / stride])
            }
            Contents::Values(_) | Contents::Codes(_) => unreachable!("not in panels"),
        }
    }

    fn unpack(&self) -> Tensor<D> {
        tensor(self.stored().values(), self.shape, &self.device)
    }
}

impl<const D: usize> Parameter<D> {
    /// What a layer reads, rounded as a packed one does it if the parameter is rehearsed, with a gradient as if it was not.
    ///
    /// Shapes: x, returns `[batch, channels, ..]`. `pointwise` says that each position is rounded by itself.
    pub(crate) fn input<const E: usize>(&self, x: Tensor<E>, pointwise: bool) -> Tensor<E> {
        match self {
            Self::Rehearsed(_, precision) if precision.is_codes() => {
                let shape = x.dims();
                let positions = shape[2.min(E)..].iter().product();
                straight_through(x, |values| {
                    round_inputs(Level::detected(), values, [shape[1], positions], pointwise);
                })
            }
            _ => x,
        }
    }
}

/// What `round` makes of a tensor, with a gradient as if it did nothing.
///
/// "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation", Bengio, Léonard and
/// Courville, 2013, arXiv:1308.3432: the straight-through estimator.
fn straight_through<const D: usize>(x: Tensor<D>, round: impl FnOnce(&mut [f32])) -> Tensor<D> {
    let (shape, device) = (x.dims(), x.device());
    let still = x.clone().detach();
    let mut values = values(still.clone());
    round(&mut values);
    // Exactly what was rounded: a number less itself is zero.
    tensor(values, shape, &device) + (x - still)
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
            Self::Plain(param) | Self::Rehearsed(param, _) => param.collect_devices(devices),
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
            Self::Rehearsed(param, precision) => Self::Rehearsed(param.fork(device), precision),
            packed @ Self::Packed(_) => packed.to_device(device),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.to_device(device)),
            Self::Rehearsed(param, precision) => {
                Self::Rehearsed(param.to_device(device), precision)
            }
            Self::Packed(packed) => Self::Packed(Packed {
                device: device.clone(),
                ..packed
            }),
        }
    }

    fn train(self) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.train()),
            Self::Rehearsed(param, precision) => Self::Rehearsed(param.train(), precision),
            packed @ Self::Packed(_) => packed,
        }
    }

    fn valid(&self) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.valid()),
            Self::Rehearsed(param, precision) => Self::Rehearsed(param.valid(), *precision),
            packed @ Self::Packed(_) => packed.clone(),
        }
    }

    fn materialize(self) -> Self {
        match self {
            Self::Plain(param) => Self::Plain(param.materialize()),
            Self::Rehearsed(param, precision) => Self::Rehearsed(param.materialize(), precision),
            packed @ Self::Packed(_) => packed,
        }
    }

    fn num_params(&self) -> usize {
        self.dims().iter().product()
    }

    // A packed parameter is not shown to visitors and mappers, but for those that write files: it is no parameter to an
    // optimizer or a record.
    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        match self {
            Self::Plain(param) | Self::Rehearsed(param, _) => param.visit(visitor),
            Self::Packed(packed) => {
                quantized::show(match quantized::what_is_shown() {
                    Shown::Nothing => return,
                    Shown::Counts => Stored::Count(packed.shape.iter().product()),
                    Shown::Contents => packed.stored(),
                });
                let nothing = tensor(vec![0.0], [1; D], &packed.device);
                visitor.visit_float(&Param::from_tensor(nothing));
            }
        }
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        match self {
            Self::Plain(param) => {
                let id = param.id;
                let param: Param<Tensor<D>> =
                    quantized::changing(id, || Module::map(param, mapper));
                match quantized::receive(id) {
                    Some(Arrival::Codes(weight)) => Self::Packed(Packed {
                        shape: param.lazy_shape().dims(),
                        device: param.lazy_device(),
                        content: Contents::Codes(weight),
                    }),
                    Some(Arrival::Rehearsal(precision)) => Self::Rehearsed(param, precision),
                    None => Self::Plain(param),
                }
            }
            Self::Rehearsed(param, precision) => {
                Self::Rehearsed(Module::map(param, mapper), precision)
            }
            packed @ Self::Packed(_) => packed,
        }
    }
}

impl<const D: usize> ModuleDisplayDefault for Parameter<D> {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Plain(param) | Self::Rehearsed(param, _) => content.add_single(param).optional(),
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
