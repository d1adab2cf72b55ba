//! What a training step computes on the CPU, as operations of burn's autodiff: kernels forward, and kernels backward.
//!
//! Features have the shape `[batch, channels, time]` or `[batch, channels, height, width]`, as everywhere in this crate, and
//! lie in memory as `[time, batch, channels]` or `[height, width, batch, channels]`, which is what the kernels read and write.
//! burn carries the strides along, so that nothing is laid out anew between two of these operations; what comes from
//! elsewhere is, once.
//!
//! Tensors of other devices, of other types or without gradients go other ways: see [`suits`].

use std::marker::PhantomData;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::Modulation;
use crate::kernel::training::{
    Correlation, Links, Normalized, Order, Shape, column_sums, has_slope, slope,
};
use crate::kernel::{Activation, Affine, Film, Frame, Level, Normalization};

/// burn's tensors on the CPU.
type CpuTensor = FloatTensor<Flex>;

/// What a convolution does with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// The distance between two windows.
    pub(crate) stride: usize,
    /// How far the first window reaches beyond the beginning.
    pub(crate) padding: usize,
    /// Whether the convolution is a transposed one.
    pub(crate) transposed: bool,
    /// Whether there is a bias.
    pub(crate) biased: bool,
}

/// What a convolution over pictures does, and which arguments it has besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    /// What an output sees.
    pub(crate) frame: Frame,
    /// Whether there is a bias.
    pub(crate) biased: bool,
    /// Whether there is a shift.
    pub(crate) shifted: bool,
    /// Whether there is a residual.
    pub(crate) added: bool,
}

/// What is done to features, and which arguments it has besides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Follow {
    /// Into how many groups channels fall.
    pub(crate) groups: usize,
    /// What is added to the variance.
    pub(crate) epsilon: f64,
    /// What follows.
    pub(crate) activation: Activation,
    /// Whether there is a modulation, and whether it has scales.
    pub(crate) modulated: bool,
    /// See [`modulated`](Self::modulated).
    pub(crate) scales: bool,
    /// Whether there is a residual.
    pub(crate) added: bool,
}

/// Whether the operations of this module compute with a tensor: f32 on the CPU, under autodiff.
///
/// Without gradients there are better ways: packed layers.
pub(crate) fn suits<const D: usize>(tensor: &Tensor<D>) -> bool {
    let device = tensor.device();
    device.is_autodiff() && device == Device::flex() && tensor.dtype() == DType::F32
}

/// A convolution over time, or a transposed one.
///
/// Shapes: x `[batch, channels, time]`; weight and bias as those of the layers.
pub(crate) fn convolve(
    x: Tensor<3>,
    weight: Tensor<3>,
    bias: Tensor<1>,
    geometry: Geometry,
) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Training>::convolve(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        geometry,
    ))
}

/// A convolution over pictures, to which a shift for each channel of a sample and a residual are added.
///
/// Shapes: x `[batch, channels, height, width]`; weight and bias as those of the layer; shift `[batch or 1, channels_out]`;
/// the residual is like the output.
pub(crate) fn convolve_pictures(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    shift: Option<Tensor<2>>,
    residual: Option<Tensor<4>>,
    frame: Frame,
) -> Tensor<4> {
    let [batch, ..] = x.dims();
    let [channels, ..] = weight.dims();
    if let Some(shift) = &shift {
        let [rows, width] = shift.dims();
        assert!(
            (rows == 1 || rows == batch) && width == channels,
            "a modulation of [{rows}, {width}] for {batch} samples of {channels} channels"
        );
    }
    if let Some(residual) = &residual {
        let [height, width] = frame.output();
        assert_eq!(
            residual.dims(),
            [batch, channels, height, width],
            "the residual is like the output"
        );
    }
    let picture = Picture {
        frame,
        biased: bias.is_some(),
        shifted: shift.is_some(),
        added: residual.is_some(),
    };
    let weight = weight.into_dispatch();
    Tensor::from_dispatch(<Dispatch as Training>::convolve_pictures(
        x.into_dispatch(),
        weight.clone(),
        bias.map_or_else(|| weight.clone(), Tensor::into_dispatch),
        shift.map_or_else(|| weight.clone(), Tensor::into_dispatch),
        residual.map_or(weight, Tensor::into_dispatch),
        picture,
    ))
}

/// The channels of `a` and then those of `b`.
///
/// Shapes: `[batch, channels, height, width]`, of which only the channels differ.
pub(crate) fn concatenate(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    let of = |x: &Tensor<4>| {
        let [batch, _, height, width] = x.dims();
        [batch, height, width]
    };
    assert_eq!(
        of(&a),
        of(&b),
        "pictures of one size have channels together"
    );
    Tensor::from_dispatch(<Dispatch as Training>::concatenate(
        a.into_dispatch(),
        b.into_dispatch(),
    ))
}

/// `x Wᵀ + b` for the rows of `x`.
///
/// Shapes: x `[.., d_input]`, weight `[d_output, d_input]`, bias `[d_output]`.
pub(crate) fn project<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let mut shape = x.dims();
    let [d_output, d_input] = weight.dims();
    let rows = shape[..D - 1].iter().product();
    shape[D - 1] = d_output;
    let x: Tensor<3> = x.reshape([rows, d_input, 1]);
    let weight: Tensor<3> = weight.reshape([d_output, d_input, 1]);
    let geometry = Geometry {
        stride: 1,
        padding: 0,
        transposed: false,
        biased: bias.is_some(),
    };
    let weight = weight.into_dispatch();
    let y = <Dispatch as Training>::convolve(
        x.into_dispatch(),
        weight.clone(),
        bias.map_or(weight, Tensor::into_dispatch),
        geometry,
    );
    Tensor::<3>::from_dispatch(y).reshape(shape)
}

/// `activation(normalize(x))`, modulated, and the residual added; `follow` says which of these there are.
///
/// Shapes: x and residual `[batch, channels, ..]`; weight and bias `[channels]`.
pub(crate) fn normalize<const D: usize>(
    x: Tensor<D>,
    [weight, bias]: [Tensor<1>; 2],
    follow: Follow,
    modulation: Option<Modulation>,
    residual: Option<Tensor<D>>,
) -> Tensor<D> {
    let shape = x.dims();
    let (batch, channels) = (shape[0], shape[1]);
    if let Some(modulation) = &modulation {
        let [rows, width] = modulation.values.dims();
        assert!(
            (rows == 1 || rows == batch)
                && width == channels * (1 + usize::from(modulation.scales)),
            "a modulation of [{rows}, {width}] for {batch} samples of {channels} channels"
        );
    }
    if let Some(residual) = &residual {
        assert_eq!(residual.dims(), shape, "the residual is like the output");
    }
    let weight = weight.into_dispatch();
    Tensor::from_dispatch(<Dispatch as Training>::normalize(
        x.into_dispatch(),
        weight.clone(),
        bias.into_dispatch(),
        modulation.map_or_else(|| weight.clone(), |it| it.values.into_dispatch()),
        residual.map_or(weight, Tensor::into_dispatch),
        follow,
    ))
}

/// Whether [`activate`] computes it.
pub(crate) fn activates<const D: usize>(x: &Tensor<D>, activation: Activation) -> bool {
    suits(x) && has_slope(activation)
}

/// An activation, element by element.
pub(crate) fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    let y = <Dispatch as Training>::activate(x.into_dispatch(), activation);
    Tensor::from_dispatch(y)
}

/// burn's macro wants every tensor that an operation may have. One that is absent is a copy of the weight, and not looked
/// at.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Training: Backend {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    fn normalize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        follow: Follow,
    ) -> FloatTensor<Self>;

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;

    fn convolve_pictures(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        picture: Picture,
    ) -> FloatTensor<Self>;

    fn concatenate(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Training for Flex {
    fn convolve(x: CpuTensor, weight: CpuTensor, bias: CpuTensor, geometry: Geometry) -> CpuTensor {
        Convolved::new(&x, &weight, geometry).forward(geometry.biased.then_some(&bias))
    }

    fn normalize(
        x: CpuTensor,
        weight: CpuTensor,
        bias: CpuTensor,
        modulation: CpuTensor,
        residual: CpuTensor,
        follow: Follow,
    ) -> CpuTensor {
        let parameters = [&weight, &bias].map(CpuTensor::to_contiguous);
        let modulation = follow.modulated.then(|| modulation.to_contiguous());
        let residual = follow.added.then_some(&residual);
        Followed::forward(&x, parameters, modulation, residual, follow).0
    }

    fn activate(x: CpuTensor, activation: Activation) -> CpuTensor {
        let (mut values, restore) = dense(&x);
        crate::kernel::apply(Level::detected(), activation, &mut values);
        restore(values)
    }

    fn convolve_pictures(
        x: CpuTensor,
        weight: CpuTensor,
        bias: CpuTensor,
        shift: CpuTensor,
        residual: CpuTensor,
        picture: Picture,
    ) -> CpuTensor {
        let bias = picture.biased.then_some(&bias);
        let shift = picture.shifted.then_some(&shift);
        let residual = picture.added.then_some(&residual);
        Pictured::new(&x, &weight, shift, picture).forward(bias, shift, residual)
    }

    fn concatenate(a: CpuTensor, b: CpuTensor) -> CpuTensor {
        Joined::of(&a, &b).forward(&a, &b)
    }
}

impl<C: CheckpointStrategy> Training for Autodiff<Flex, C> {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        let bias = geometry.biased.then_some(bias);
        let state = Convolved::new(x.primitive(), weight.primitive(), geometry);
        let y = state.forward(bias.as_ref().map(<FloatTensor<Self>>::primitive));
        match bias {
            Some(bias) => track::<C, _, 3>([x.node(), weight.node(), bias.node()], state, y),
            None => track::<C, _, 2>([x.node(), weight.node()], state, y),
        }
    }

    fn normalize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        follow: Follow,
    ) -> FloatTensor<Self> {
        let modulation = follow.modulated.then_some(modulation);
        let residual = follow.added.then_some(residual);
        let (y, state) = {
            let parameters = [&weight, &bias].map(|it| it.primitive().to_contiguous());
            let modulation = modulation.as_ref().map(|it| it.primitive().to_contiguous());
            let residual = residual.as_ref().map(<FloatTensor<Self>>::primitive);
            Followed::forward(x.primitive(), parameters, modulation, residual, follow)
        };
        let (x, weight, bias) = (x.node(), weight.node(), bias.node());
        match (modulation, residual) {
            (None, None) => track::<C, _, 3>([x, weight, bias], state, y),
            (Some(more), None) | (None, Some(more)) => {
                track::<C, _, 4>([x, weight, bias, more.node()], state, y)
            }
            (Some(modulation), Some(residual)) => track::<C, _, 5>(
                [x, weight, bias, modulation.node(), residual.node()],
                state,
                y,
            ),
        }
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let y = Flex::activate(x.primitive().clone(), activation);
        let state = Activated {
            x: x.primitive().clone(),
            activation,
        };
        track::<C, _, 1>([x.node()], state, y)
    }

    fn convolve_pictures(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        picture: Picture,
    ) -> FloatTensor<Self> {
        let bias = picture.biased.then_some(bias);
        let shift = picture.shifted.then_some(shift);
        let residual = picture.added.then_some(residual);
        let (y, state) = {
            let [bias, shift, residual] = [&bias, &shift, &residual]
                .map(|it| it.as_ref().map(<FloatTensor<Self>>::primitive));
            let state = Pictured::new(x.primitive(), weight.primitive(), shift, picture);
            (state.forward(bias, shift, residual), state)
        };
        let (x, weight) = (x.node(), weight.node());
        let mut more = [bias, shift, residual].into_iter().flatten();
        let more = [more.next(), more.next(), more.next()].map(|it| it.map(|it| it.node()));
        match more {
            [Some(a), Some(b), Some(c)] => track::<C, _, 5>([x, weight, a, b, c], state, y),
            [Some(a), Some(b), None] => track::<C, _, 4>([x, weight, a, b], state, y),
            [Some(a), ..] => track::<C, _, 3>([x, weight, a], state, y),
            [None, ..] => track::<C, _, 2>([x, weight], state, y),
        }
    }

    fn concatenate(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let state = Joined::of(a.primitive(), b.primitive());
        let y = state.forward(a.primitive(), b.primitive());
        track::<C, _, 2>([a.node(), b.node()], state, y)
    }
}

/// An operation that was computed: what its backward needs.
trait Computed: Clone + Send + std::fmt::Debug + 'static {
    /// Hands each parent that wants it its gradient.
    fn backward(self, dy: CpuTensor, parents: &[Option<NodeId>], grads: &mut Gradients);
}

#[derive(Debug)]
struct Step<T>(PhantomData<T>);

impl<T: Computed + Sync, const N: usize> Backward<Flex, N> for Step<T> {
    type State = T;

    fn backward(self, ops: Ops<T, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        ops.state.backward(dy, &parents, grads);
    }
}

fn track<C: CheckpointStrategy, T: Computed + Sync, const N: usize>(
    parents: [NodeGuard; N],
    state: T,
    y: CpuTensor,
) -> FloatTensor<Autodiff<Flex, C>> {
    let step = Step(PhantomData);
    match Backward::<Flex, N>::prepare::<C>(step, parents)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(operation) => operation.finish(state, y),
        OpsKind::UnTracked(operation) => operation.finish(y),
    }
}

/// The strides of features of some shape, and how many positions they have: times, or pixels row by row.
fn layout(shape: &[usize]) -> (Vec<isize>, usize) {
    let row = shape[0] * shape[1];
    let mut strides = vec![0; shape.len()];
    (strides[0], strides[1]) = (shape[1], 1);
    let mut positions = 1;
    for axis in (2..shape.len()).rev() {
        strides[axis] = positions * row;
        positions *= shape[axis];
    }
    let strides = strides.into_iter().map(usize::cast_signed).collect();
    (strides, positions)
}

/// How many samples, channels and positions features have.
fn sizes(x: &CpuTensor) -> [usize; 3] {
    let shape = x.shape().to_vec();
    [shape[0], shape[1], shape[2..].iter().product()]
}

/// A tensor `[batch, channels, ..]` that lies as `[.., batch, channels]`: the same, where it does so already.
fn laid_out(x: &CpuTensor) -> CpuTensor {
    let shape = x.shape().to_vec();
    let strides = x.layout().strides().to_vec();
    let (wanted, positions) = layout(&shape);
    // An axis of one has no stride that matters.
    if (0..shape.len()).all(|axis| shape[axis] == 1 || strides[axis] == wanted[axis]) {
        return x.clone();
    }
    let from: &[f32] = x.storage();
    let start = x.layout().start_offset().cast_signed();
    let (batch, channels) = (shape[0].cast_signed(), shape[1].cast_signed());
    let mut to = Vec::with_capacity(shape.iter().product());
    for position in 0..positions {
        let mut row = start;
        let mut left = position;
        for axis in (2..shape.len()).rev() {
            row += (left % shape[axis]).cast_signed() * strides[axis];
            left /= shape[axis];
        }
        for b in 0..batch {
            let row = row + b * strides[0];
            if strides[1] == 1 {
                let row = row.cast_unsigned();
                to.extend_from_slice(&from[row..row + shape[1]]);
            } else {
                let at = |c: isize| from[(row + c * strides[1]).cast_unsigned()];
                to.extend((0..channels).map(at));
            }
        }
    }
    features(to, &shape)
}

/// The values of a tensor that is [laid out](laid_out).
fn values(x: &CpuTensor) -> &[f32] {
    let start = x.layout().start_offset();
    &x.storage()[start..start + x.shape().num_elements()]
}

/// A tensor `[batch, channels, ..]` of what lies as `[.., batch, channels]`.
fn features(values: Vec<f32>, shape: &[usize]) -> CpuTensor {
    let axes = shape.len();
    let lies: Vec<usize> = [&shape[2..], &shape[..2]].concat();
    let order: Vec<usize> = (axes - 2..axes).chain(0..axes - 2).collect();
    CpuTensor::from_data(TensorData::new(values, lies)).permute(&order)
}

/// A copy of the values of any tensor, in an order of its own, and how to make such a tensor of others.
fn dense(x: &CpuTensor) -> (Vec<f32>, impl Fn(Vec<f32>) -> CpuTensor + use<>) {
    let shape = x.shape().to_vec();
    let is_features = shape.len() > 2 && layout(&shape).0 == x.layout().strides();
    let copy = if is_features {
        values(x).to_vec()
    } else {
        values(&x.to_contiguous()).to_vec()
    };
    let restore = move |values: Vec<f32>| {
        if is_features {
            features(values, &shape)
        } else {
            CpuTensor::from_data(TensorData::new(values, shape.clone()))
        }
    };
    (copy, restore)
}

/// A convolution.
#[derive(Clone, Debug)]
struct Convolved {
    x: CpuTensor,
    weight: CpuTensor,
    geometry: Geometry,
    links: Links,
}

impl Convolved {
    fn new(x: &CpuTensor, weight: &CpuTensor, geometry: Geometry) -> Self {
        let Geometry {
            stride, padding, ..
        } = geometry;
        let ([_, _, time], [_, _, taps]) = (x.shape().dims(), weight.shape().dims());
        let links = if geometry.transposed {
            Links::transposed(time, taps, stride, padding)
        } else {
            Links::convolution(time, taps, stride, padding)
        };
        Self {
            x: laid_out(x),
            weight: weight.to_contiguous(),
            geometry,
            links,
        }
    }

    fn correlation(&self) -> Correlation<'_> {
        let [samples, inputs, _] = self.x.shape().dims();
        let [first, second, _] = self.weight.shape().dims();
        let transposed = self.geometry.transposed;
        Correlation {
            samples,
            outputs: if transposed { second } else { first },
            inputs,
            links: &self.links,
            order: if transposed {
                Order::InputFirst
            } else {
                Order::OutputFirst
            },
        }
    }

    fn forward(&self, bias: Option<&CpuTensor>) -> CpuTensor {
        let correlation = self.correlation();
        let Correlation {
            samples, outputs, ..
        } = correlation;
        let times = self.links.outputs();
        let mut y = vec![0.0; times * samples * outputs];
        let bias = bias.map(CpuTensor::to_contiguous);
        correlation.forward(
            Level::detected(),
            values(&self.x),
            values(&self.weight),
            bias.as_ref().map(values),
            &mut y,
        );
        features(y, &[samples, outputs, times])
    }
}

impl Computed for Convolved {
    fn backward(self, dy: CpuTensor, parents: &[Option<NodeId>], grads: &mut Gradients) {
        let correlation = self.correlation();
        let (level, dy) = (Level::detected(), laid_out(&dy));
        if let Some(x) = parents[0] {
            let mut dx = vec![0.0; self.x.shape().num_elements()];
            correlation.backward_input(level, values(&dy), values(&self.weight), &mut dx);
            grads.register::<Flex>(x, features(dx, &self.x.shape().to_vec()));
        }
        if let Some(weight) = parents[1] {
            let shape = self.weight.shape();
            let mut dw = vec![0.0; shape.num_elements()];
            correlation.backward_weight(level, values(&self.x), values(&dy), &mut dw);
            grads.register::<Flex>(weight, CpuTensor::from_data(TensorData::new(dw, shape)));
        }
        if let Some(bias) = parents.get(2).copied().flatten() {
            let sums = column_sums(values(&dy), correlation.outputs);
            grads.register::<Flex>(bias, vector(sums));
        }
    }
}

fn vector(values: Vec<f32>) -> CpuTensor {
    let n = values.len();
    CpuTensor::from_data(TensorData::new(values, [n]))
}

/// A convolution over pictures.
#[derive(Clone, Debug)]
struct Pictured {
    x: CpuTensor,
    weight: CpuTensor,
    picture: Picture,
    links: Links,
    /// How many samples the shift tells apart.
    shifts: usize,
}

impl Pictured {
    fn new(x: &CpuTensor, weight: &CpuTensor, shift: Option<&CpuTensor>, picture: Picture) -> Self {
        Self {
            x: laid_out(x),
            weight: weight.to_contiguous(),
            picture,
            links: Links::pictures(&picture.frame),
            shifts: shift.map_or(0, |shift| shift.shape()[0]),
        }
    }

    fn correlation(&self) -> Correlation<'_> {
        let weight = self.weight.shape();
        Correlation {
            samples: self.x.shape()[0],
            outputs: weight[0],
            inputs: weight[1],
            links: &self.links,
            order: Order::OutputFirst,
        }
    }

    fn forward(
        &self,
        bias: Option<&CpuTensor>,
        shift: Option<&CpuTensor>,
        residual: Option<&CpuTensor>,
    ) -> CpuTensor {
        let correlation = self.correlation();
        let Correlation {
            samples, outputs, ..
        } = correlation;
        let position = samples * outputs;
        let mut y = vec![0.0; self.links.outputs() * position];
        let bias = bias.map(CpuTensor::to_contiguous);
        correlation.forward(
            Level::detected(),
            values(&self.x),
            values(&self.weight),
            bias.as_ref().map(values),
            &mut y,
        );
        if shift.is_some() || residual.is_some() {
            let shift = shift.map(CpuTensor::to_contiguous);
            let residual = residual.map(laid_out);
            y.par_chunks_mut(position).enumerate().for_each(|(at, y)| {
                if let Some(shift) = &shift {
                    // One row is for all samples.
                    let shift = values(shift);
                    for y in y.chunks_mut(shift.len()) {
                        y.iter_mut().zip(shift).for_each(|(y, shift)| *y += shift);
                    }
                }
                if let Some(residual) = &residual {
                    let residual = &values(residual)[at * position..][..position];
                    y.iter_mut().zip(residual).for_each(|(y, x)| *y += x);
                }
            });
        }
        let [height, width] = self.picture.frame.output();
        features(y, &[samples, outputs, height, width])
    }
}

impl Computed for Pictured {
    fn backward(self, dy: CpuTensor, parents: &[Option<NodeId>], grads: &mut Gradients) {
        let correlation = self.correlation();
        let Correlation {
            samples, outputs, ..
        } = correlation;
        let (level, dy) = (Level::detected(), laid_out(&dy));
        if let Some(x) = parents[0] {
            let mut dx = vec![0.0; self.x.shape().num_elements()];
            correlation.backward_input(level, values(&dy), values(&self.weight), &mut dx);
            grads.register::<Flex>(x, features(dx, &self.x.shape().to_vec()));
        }
        if let Some(weight) = parents[1] {
            let shape = self.weight.shape();
            let mut dw = vec![0.0; shape.num_elements()];
            correlation.backward_weight(level, values(&self.x), values(&dy), &mut dw);
            grads.register::<Flex>(weight, CpuTensor::from_data(TensorData::new(dw, shape)));
        }
        let mut more = parents[2..].iter().copied();
        if self.picture.biased
            && let Some(bias) = more.next().flatten()
        {
            grads.register::<Flex>(bias, vector(column_sums(values(&dy), outputs)));
        }
        if self.picture.shifted
            && let Some(shift) = more.next().flatten()
        {
            let sums = column_sums(values(&dy), self.shifts * outputs);
            let sums = TensorData::new(sums, [self.shifts, outputs]);
            grads.register::<Flex>(shift, CpuTensor::from_data(sums));
        }
        debug_assert!(self.shifts == 0 || self.shifts == 1 || self.shifts == samples);
        if self.picture.added
            && let Some(residual) = more.next().flatten()
        {
            grads.register::<Flex>(residual, dy);
        }
    }
}

/// The channels of two features, one after another.
#[derive(Clone, Debug)]
struct Joined {
    shapes: [Vec<usize>; 2],
}

impl Joined {
    fn of(a: &CpuTensor, b: &CpuTensor) -> Self {
        Self {
            shapes: [a, b].map(|it| it.shape().to_vec()),
        }
    }

    /// How many channels each has.
    fn channels(&self) -> [usize; 2] {
        let [a, b] = &self.shapes;
        [a[1], b[1]]
    }

    fn forward(&self, a: &CpuTensor, b: &CpuTensor) -> CpuTensor {
        let (a, b) = (laid_out(a), laid_out(b));
        let [of_a, of_b] = self.channels();
        let rows = values(&a).chunks(of_a).zip(values(&b).chunks(of_b));
        let y = rows.flat_map(|(a, b)| [a, b]).flatten().copied().collect();
        let mut shape = self.shapes[0].clone();
        shape[1] = of_a + of_b;
        features(y, &shape)
    }
}

impl Computed for Joined {
    fn backward(self, dy: CpuTensor, parents: &[Option<NodeId>], grads: &mut Gradients) {
        let dy = laid_out(&dy);
        let [of_a, of_b] = self.channels();
        let parts = [(0, of_a), (of_a, of_b)];
        for ((parent, shape), (first, channels)) in parents.iter().zip(&self.shapes).zip(parts) {
            if let Some(parent) = parent {
                let rows = values(&dy).chunks(of_a + of_b);
                let part = rows.flat_map(|row| &row[first..first + channels]);
                let part = features(part.copied().collect(), shape);
                grads.register::<Flex>(*parent, part);
            }
        }
    }
}

/// A normalization and what followed.
#[derive(Clone, Debug)]
struct Followed {
    x: CpuTensor,
    parameters: [CpuTensor; 2],
    modulation: Option<CpuTensor>,
    follow: Follow,
    /// Whether a residual was added.
    residual: bool,
    statistics: Vec<f32>,
}

impl Followed {
    fn forward(
        x: &CpuTensor,
        parameters: [CpuTensor; 2],
        modulation: Option<CpuTensor>,
        residual: Option<&CpuTensor>,
        follow: Follow,
    ) -> (CpuTensor, Self) {
        let mut this = Self {
            x: laid_out(x),
            parameters,
            modulation,
            follow,
            residual: residual.is_some(),
            statistics: Vec::new(),
        };
        let residual = residual.map(laid_out);
        let mut y = vec![0.0; this.x.shape().num_elements()];
        this.statistics = this.normalized().forward(
            Level::detected(),
            values(&this.x),
            residual.as_ref().map(values),
            &mut y,
        );
        (features(y, &this.x.shape().to_vec()), this)
    }

    fn normalized(&self) -> Normalized<'_> {
        let [samples, channels, times] = sizes(&self.x);
        let film = self.modulation.as_ref().map(|modulation| {
            let [rows, width] = modulation.shape().dims();
            let values = values(modulation);
            Film {
                scale: self.follow.scales.then_some(values),
                shift: &values[width - channels..],
                sample: if rows == 1 { 0 } else { width },
            }
        });
        Normalized {
            shape: Shape {
                times,
                samples,
                channels,
            },
            normalization: Normalization {
                groups: self.follow.groups,
                epsilon: self.follow.epsilon,
                affine: Affine {
                    weight: values(&self.parameters[0]),
                    bias: values(&self.parameters[1]),
                },
            },
            activation: self.follow.activation,
            film,
        }
    }
}

impl Computed for Followed {
    fn backward(self, dy: CpuTensor, parents: &[Option<NodeId>], grads: &mut Gradients) {
        let dy = laid_out(&dy);
        let normalized = self.normalized();
        let channels = normalized.shape.channels;
        let computed = normalized.backward(
            Level::detected(),
            values(&self.x),
            &self.statistics,
            values(&dy),
        );
        if let Some(x) = parents[0] {
            grads.register::<Flex>(x, features(computed.x, &self.x.shape().to_vec()));
        }
        let mut affine = column_sums(&computed.affine, 2 * channels);
        let offsets = affine.split_off(channels);
        for (parent, sums) in parents[1..3].iter().zip([affine, offsets]) {
            if let Some(parent) = parent {
                grads.register::<Flex>(*parent, vector(sums));
            }
        }
        let mut more = parents[3..].iter();
        if let Some(modulation) = &self.modulation
            && let Some(parent) = more.next().copied().flatten()
        {
            let [rows, width] = modulation.shape().dims();
            let film = if rows == 1 {
                column_sums(&computed.film, width)
            } else {
                computed.film
            };
            let film = CpuTensor::from_data(TensorData::new(film, [rows, width]));
            grads.register::<Flex>(parent, film);
        }
        if self.residual
            && let Some(parent) = more.next().copied().flatten()
        {
            grads.register::<Flex>(parent, dy);
        }
    }
}

/// An activation.
#[derive(Clone, Debug)]
struct Activated {
    x: CpuTensor,
    activation: Activation,
}

impl Computed for Activated {
    fn backward(self, dy: CpuTensor, parents: &[Option<NodeId>], grads: &mut Gradients) {
        let Some(parent) = parents[0] else {
            return;
        };
        let x = self.x.to_contiguous();
        let mut dx = values(&dy.to_contiguous()).to_vec();
        slope(Level::detected(), self.activation, values(&x), &mut dx);
        let dx = CpuTensor::from_data(TensorData::new(dx, x.shape()));
        grads.register::<Flex>(parent, dx);
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::module::{conv_transpose1d, conv1d, conv2d};
    use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
    use burn::tensor::{Distribution, Gradients};

    use super::*;
    use crate::{
        Conv1dConfig, Conv2dConfig, ConvTranspose1dConfig, Epilogue, GroupNormConfig, LinearConfig,
        Prologue, activation, upsample_nearest_2x,
    };

    /// f32, sums of some hundred products of numbers of about 1 in two orders, relative to the largest.
    const TOLERANCE: f32 = 5e-6;

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        let device = Device::flex().autodiff();
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad()
    }

    /// The gradients of a sum in which each number of the result counts differently, and which does not cancel.
    fn gradients<const D: usize>(y: Tensor<D>) -> Gradients {
        let n = y.dims().iter().product::<usize>();
        let weights: Vec<f32> = (0..n).map(|i| 0.5 + (i as f32 * 0.7).sin()).collect();
        let weights = Tensor::<D>::from_data(TensorData::new(weights, y.dims()), &Device::flex());
        (y * weights).sum().backward()
    }

    fn assert_close<const D: usize>(what: &str, a: Tensor<D>, b: Tensor<D>) {
        assert_eq!(a.dims(), b.dims(), "{what}");
        let most: f32 = b.clone().abs().max().into_scalar();
        let error: f32 = (a - b).abs().max().into_scalar();
        assert!(error <= TOLERANCE * most, "{what}: {error:e} of {most}");
    }

    /// Compares results, and gradients by every argument.
    macro_rules! assert_same {
        ($what:expr, $ours:expr, $burns:expr, [$($argument:expr),*]) => {{
            let (ours, burns) = ($ours, $burns);
            assert_close(&$what, ours.clone().inner(), burns.clone().inner());
            let (ours, burns) = (gradients(ours), gradients(burns));
            $(
                let what = format!("{}, {}", $what, stringify!($argument));
                assert_close(
                    &what,
                    $argument.grad(&ours).expect(&what),
                    $argument.grad(&burns).expect(&what),
                );
            )*
        }};
    }

    #[test]
    fn a_convolution_has_the_gradients_of_burn() {
        for (kernel_size, stride, padding) in [(5, 1, 2), (3, 2, 1), (1, 1, 0), (4, 3, 0)] {
            for (batch, channels_in, channels_out, time) in [(3, 5, 7, 9), (20, 33, 40, 4)] {
                let config = Conv1dConfig {
                    channels_in,
                    channels_out,
                    kernel_size,
                    stride,
                    padding,
                };
                let mut layer = config.init(&Device::flex());
                let weight = random([channels_out, channels_in, kernel_size]);
                let bias = random([channels_out]);
                layer.weight = Param::from_tensor(weight.clone()).into();
                layer.bias = Param::from_tensor(bias.clone()).into();
                let (weight, bias) = (layer.weight.val(), layer.bias.val());
                let x = random([batch, channels_in, time]);
                let options = ConvOptions::new([stride], [padding], [1], 1);
                assert_same!(
                    format!("{config:?}"),
                    layer.forward(x.clone()),
                    conv1d(x.clone(), weight.clone(), Some(bias.clone()), options),
                    [x, weight, bias]
                );
            }
        }
    }

    #[test]
    fn a_transposed_convolution_has_the_gradients_of_burn() {
        for (kernel_size, stride, padding) in [(4, 2, 1), (3, 3, 0), (2, 5, 1), (5, 1, 2)] {
            for (channels_in, channels_out, time) in [(5, 7, 3), (33, 1, 4)] {
                let config = ConvTranspose1dConfig {
                    channels_in,
                    channels_out,
                    kernel_size,
                    stride,
                    padding,
                };
                let mut layer = config.init(&Device::flex());
                let weight = random([channels_in, channels_out, kernel_size]);
                layer.weight = Param::from_tensor(weight).into();
                layer.bias = Param::from_tensor(random([channels_out])).into();
                let (weight, bias) = (layer.weight.val(), layer.bias.val());
                // Seen through a transposition, as the network's input is.
                let x = random([15, time, channels_in]);
                let view = || x.clone().swap_dims(1, 2);
                let options = ConvTransposeOptions::new([stride], [padding], [0], [1], 1);
                assert_same!(
                    format!("{config:?}"),
                    layer.forward(view()),
                    conv_transpose1d(view(), weight.clone(), Some(bias.clone()), options),
                    [x, weight, bias]
                );
            }
        }
    }

    #[test]
    fn a_convolution_over_pictures_has_the_gradients_of_burn() {
        for (kernel_size, stride, padding, doubled) in [
            ([3, 3], [1, 1], [1, 1], false),
            ([3, 3], [1, 1], [1, 1], true),
            ([3, 3], [2, 2], [1, 1], false),
            ([1, 1], [1, 1], [0, 0], false),
            ([2, 3], [3, 1], [0, 2], true),
        ] {
            for (batch, channels_in, channels_out, [height, width]) in
                [(3, 5, 7, [4, 5]), (20, 33, 40, [3, 2])]
            {
                let config = Conv2dConfig {
                    channels_in,
                    channels_out,
                    kernel_size,
                    stride,
                    padding,
                    bias: batch == 3,
                };
                let mut layer = config.init(&Device::flex());
                let [rows, columns] = kernel_size;
                let weight = random([channels_out, channels_in, rows, columns]);
                layer.weight = Param::from_tensor(weight).into();
                if config.bias {
                    layer.bias = Some(Param::from_tensor(random([channels_out])).into());
                }
                let weight = layer.weight.val();
                let bias = layer.bias.as_ref().map(crate::Parameter::val);
                let x = random([batch, channels_in, height, width]);
                let options = ConvOptions::new(stride, padding, [1, 1], 1);
                let seen = |x: Tensor<4>| if doubled { upsample_nearest_2x(x) } else { x };
                let burns = |x: &Tensor<4>| {
                    conv2d(
                        seen(x.clone()),
                        weight.clone(),
                        bias.clone(),
                        options.clone(),
                    )
                };
                let prologue = Prologue {
                    doubled,
                    ..Prologue::default()
                };
                let ours = |epilogue| layer.forward_between(prologue, x.clone(), epilogue);
                let what = format!("{config:?}, doubled {doubled}");
                if let Some(bias) = &bias {
                    assert_same!(
                        what,
                        ours(Epilogue::default()),
                        burns(&x),
                        [x, weight, bias]
                    );
                } else {
                    assert_same!(what, ours(Epilogue::default()), burns(&x), [x, weight]);
                }
                let residual = random(burns(&x).dims());
                for rows in [1, batch] {
                    let shift = random([rows, channels_out]);
                    let epilogue = Epilogue {
                        modulation: Some(Modulation {
                            values: shift.clone(),
                            scales: false,
                        }),
                        residual: Some(residual.clone()),
                        ..Epilogue::default()
                    };
                    let added: Tensor<4> = shift.clone().reshape([rows, channels_out, 1, 1]);
                    assert_same!(
                        format!("{what}, {rows} shifts and a residual"),
                        ours(epilogue),
                        burns(&x) + added + residual.clone(),
                        [x, weight, shift, residual]
                    );
                }
            }
        }
    }

    /// What a U-Net's block does: a normalization before the convolution, what another layer made beside its input, and what
    /// the kernels of this module do not compute behind it.
    #[test]
    fn pictures_between_layers_have_the_gradients_of_burn() {
        let (batch, height, width) = (3, 3, 4);
        let mut norm = GroupNormConfig {
            n_groups: 3,
            channels: 9,
            epsilon: 1e-5,
        }
        .init(&Device::flex());
        norm.weight = Param::from_tensor(random([9])).into();
        norm.bias = Param::from_tensor(random([9])).into();
        let mut layer = Conv2dConfig::same(9, 4, 3)
            .without_bias()
            .init(&Device::flex());
        layer.weight = Param::from_tensor(random([4, 9, 3, 3])).into();
        let [scale, offset] = [norm.weight.val(), norm.bias.val()];
        let weight = layer.weight.val();
        let (a, b) = (
            random([batch, 5, height, width]),
            random([batch, 4, height, width]),
        );
        let ours = layer.forward_between(
            Prologue {
                normalization: Some(&norm),
                activation: Activation::Silu,
                ..Prologue::default()
            },
            crate::concatenate(a.clone(), b.clone()),
            Epilogue {
                activation: Activation::Silu,
                residual: Some(b.clone()),
                ..Epilogue::default()
            },
        );
        let x: Tensor<3> =
            Tensor::cat(vec![a.clone(), b.clone()], 1).reshape([batch, 3, 3 * height * width]);
        let centered = x.clone() - x.mean_dim(2);
        let variance = centered.clone().square().mean_dim(2);
        let x: Tensor<4> =
            (centered / variance.add_scalar(1e-5).sqrt()).reshape([batch, 9, height, width]);
        let x = x * scale.clone().reshape([1, 9, 1, 1]) + offset.clone().reshape([1, 9, 1, 1]);
        let silu = |x: Tensor<4>| x.clone() / (x.neg().exp().add_scalar(1.0));
        let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
        let burns = silu(conv2d(silu(x), weight.clone(), None, options)) + b.clone();
        assert_same!("a block", ours, burns, [a, b, weight, scale, offset]);
    }

    #[test]
    fn a_linear_layer_has_the_gradients_of_burn() {
        let config = LinearConfig {
            d_input: 19,
            d_output: 37,
            bias: true,
        };
        let mut layer = config.init(&Device::flex());
        layer.weight = Param::from_tensor(random([37, 19])).into();
        layer.bias = Some(Param::from_tensor(random([37])).into());
        let weight = layer.weight.val();
        let bias = layer.bias.as_ref().expect("set above").val();
        let x = random([2, 9, 19]);
        assert_same!(
            "whole",
            layer.forward(x.clone()),
            x.clone().matmul(weight.clone().transpose().unsqueeze()) + bias.clone().unsqueeze(),
            [x, weight, bias]
        );
        let x = random([15, 8]);
        assert_same!(
            "a part",
            layer.forward_part(x.clone(), 3),
            x.clone().matmul(weight.clone().narrow(1, 3, 8).transpose()),
            [x, weight]
        );
    }

    #[test]
    fn what_follows_has_the_gradients_of_burn() {
        let (batch, channels, time) = (7, 12, 5);
        let mut norm = GroupNormConfig {
            n_groups: 4,
            channels,
            epsilon: 1e-5,
        }
        .init(&Device::flex());
        norm.weight = Param::from_tensor(random([channels])).into();
        norm.bias = Param::from_tensor(random([channels])).into();
        let (weight, bias) = (norm.weight.val(), norm.bias.val());
        let composed = |x: &Tensor<3>| {
            let groups: Tensor<3> = x.clone().reshape([batch, 4, channels / 4 * time]);
            let centered = groups.clone() - groups.mean_dim(2);
            let variance = centered.clone().square().mean_dim(2);
            let z: Tensor<3> =
                (centered / variance.add_scalar(1e-5).sqrt()).reshape([batch, channels, time]);
            let of_channel = |x: &Tensor<1>| x.clone().reshape([1, channels, 1]);
            let z = z * of_channel(&weight) + of_channel(&bias);
            // Mish by burn's own operations.
            z.clone() * z.exp().add_scalar(1.0).log().tanh()
        };
        let x = random([batch, channels, time]);
        let follow = |modulation: Option<&Tensor<2>>, scales, residual: Option<&Tensor<3>>| {
            Epilogue {
                normalization: Some(&norm),
                activation: Activation::Mish,
                modulation: modulation.map(|values| Modulation {
                    values: values.clone(),
                    scales,
                }),
                residual: residual.cloned(),
            }
            .forward(x.clone())
        };
        assert_same!(
            "alone",
            follow(None, false, None),
            composed(&x),
            [x, weight, bias]
        );
        let part = |film: &Tensor<2>, start| -> Tensor<3> {
            film.clone().narrow(1, start, channels).unsqueeze_dim(2)
        };
        for rows in [1, batch] {
            let film = random([rows, 2 * channels]);
            assert_same!(
                format!("{rows} rows of scales and shifts"),
                follow(Some(&film), true, None),
                composed(&x) * part(&film, 0) + part(&film, channels),
                [x, weight, bias, film]
            );
            let (film, residual) = (random([rows, channels]), random([batch, channels, time]));
            assert_same!(
                format!("{rows} rows of shifts, and a residual"),
                follow(Some(&film), false, Some(&residual)),
                composed(&x) + part(&film, 0) + residual.clone(),
                [x, weight, bias, film, residual]
            );
        }
        // What is used twice has both gradients.
        assert_same!(
            "a residual",
            follow(None, false, Some(&x)),
            composed(&x) + x.clone(),
            [x, weight, bias]
        );
        let picture = random([batch, channels, 3, 2]);
        let flat: Tensor<3> = picture.clone().reshape([batch, channels, 6]);
        let groups: Tensor<3> = flat.reshape([batch, 4, channels / 4 * 6]);
        let centered = groups.clone() - groups.mean_dim(2);
        let variance = centered.clone().square().mean_dim(2);
        let z: Tensor<4> =
            (centered / variance.add_scalar(1e-5).sqrt()).reshape([batch, channels, 3, 2]);
        let of_channel = |x: &Tensor<1>| x.clone().reshape([1, channels, 1, 1]);
        assert_same!(
            "a picture",
            norm.forward(picture.clone()),
            z * of_channel(&weight) + of_channel(&bias),
            [picture, weight, bias]
        );
    }

    #[test]
    fn activations_have_the_gradients_of_burn() {
        let x = random([3, 5, 7]);
        assert_same!(
            "mish",
            activation::mish(x.clone()),
            x.clone() * x.clone().exp().add_scalar(1.0).log().tanh(),
            [x]
        );
        let view = || x.clone().swap_dims(0, 2);
        assert_same!(
            "silu of a view",
            activation::silu(view()),
            view() / (view().neg().exp().add_scalar(1.0)),
            [x]
        );
    }

    #[test]
    fn without_gradients_nothing_changes() {
        let x = Tensor::<3>::ones([2, 3, 4], &Device::flex());
        assert!(!suits(&x) && suits(&x.autodiff()));
    }
}
