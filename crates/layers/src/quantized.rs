//! Weights as codes and scales, as files keep them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::Precision;

/// A weight as whole codes, and the scales that make numbers of them.
///
/// ```text
/// w[i, j, ..] = scale[i / block₀, j / block₁, ..] · code[i, j, ..]
/// ```
///
/// Along each axis there are as many scales as codes, or one for all, or, of codes of four bits, one for each group of
/// neighbours.
///
/// Where inputs are [balanced](Self::balanced), they are multiplied by a factor for each channel, the second axis, before they
/// are rounded, and the weights that codes stand for are as well.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    precision: Precision,
    shape: Vec<usize>,
    codes: Arc<[i8]>,
    scale_shape: Vec<usize>,
    scales: Arc<[f32]>,
    balance: Option<Arc<[f32]>>,
}

/// Why codes and scales are no weight.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizedError {
    /// The weights of this precision are no codes.
    #[error("weights in {0} are no codes")]
    Precision(Precision),
    /// There are more codes or scales, or fewer, than their shape says.
    #[error("there are {found} {what} of shape {shape:?}")]
    Count {
        /// Codes or scales.
        what: &'static str,
        /// Their shape.
        shape: Vec<usize>,
        /// How many there are.
        found: usize,
    },
    /// Scales of this shape cannot belong to these codes.
    #[error("scales of shape {scales:?} do not belong to codes of shape {codes:?} in {precision}")]
    Scales {
        /// The shape of the scales.
        scales: Vec<usize>,
        /// The shape of the codes.
        codes: Vec<usize>,
        /// What the weights are stored in.
        precision: Precision,
    },
    /// A code has more bits than the precision.
    #[error("code {found} at index {index} is not one of {precision}")]
    Code {
        /// What was found.
        found: i8,
        /// Where, in row-major order.
        index: usize,
        /// What the weights are stored in.
        precision: Precision,
    },
    /// An input cannot be multiplied by this and be what it was.
    #[error("factor {index} of the inputs is {found}")]
    Factor {
        /// What was found.
        found: f32,
        /// Which input's.
        index: usize,
    },
    /// A scale is NaN or infinite.
    #[error("scale {index} is {found}")]
    NonFinite {
        /// What was found.
        found: f32,
        /// Where, in row-major order.
        index: usize,
    },
}

impl Quantized {
    /// Codes and scales, both in row-major order.
    ///
    /// # Errors
    ///
    /// If the precision has no codes, a number of numbers is not what the shapes say, the shapes do not go together, a code
    /// is too large or a scale not finite.
    pub fn new(
        precision: Precision,
        (shape, codes): (&[usize], Vec<i8>),
        (scale_shape, scales): (&[usize], Vec<f32>),
    ) -> Result<Self, QuantizedError> {
        let (least, group) = match precision {
            // -128 would be one code more on one side.
            Precision::Int8 => (-127, None),
            Precision::Int4 { group } => (-8, Some(group)),
            _ => return Err(QuantizedError::Precision(precision)),
        };
        let most = if group.is_some() { 7 } else { 127 };
        for (what, shape, found) in [
            ("codes", shape, codes.len()),
            ("scales", scale_shape, scales.len()),
        ] {
            if shape.iter().product::<usize>() != found {
                let shape = shape.to_vec();
                return Err(QuantizedError::Count { what, shape, found });
            }
        }
        let belongs = |(&codes, &scales): (&usize, &usize)| {
            scales == codes
                || scales == 1
                || group.is_some_and(|group| scales == codes.div_ceil(group))
        };
        if shape.len() != scale_shape.len() || !shape.iter().zip(scale_shape).all(belongs) {
            return Err(QuantizedError::Scales {
                scales: scale_shape.to_vec(),
                codes: shape.to_vec(),
                precision,
            });
        }
        if let Some(index) = codes.iter().position(|code| !(least..=most).contains(code)) {
            return Err(QuantizedError::Code {
                found: codes[index],
                index,
                precision,
            });
        }
        if let Some(index) = scales.iter().position(|scale| !scale.is_finite()) {
            return Err(QuantizedError::NonFinite {
                found: scales[index],
                index,
            });
        }
        Ok(Self {
            precision,
            shape: shape.to_vec(),
            codes: codes.into(),
            scale_shape: scale_shape.to_vec(),
            scales: scales.into(),
            balance: None,
        })
    }

    /// The same, of inputs that are multiplied by these factors before they are rounded.
    ///
    /// # Errors
    ///
    /// If there is not one for each of the second axis, or one is not finite and above zero.
    pub fn balanced(self, factors: &[f32]) -> Result<Self, QuantizedError> {
        if self.shape.get(1) != Some(&factors.len()) {
            return Err(QuantizedError::Count {
                what: "factors",
                shape: self.shape,
                found: factors.len(),
            });
        }
        if let Some(index) = (factors.iter()).position(|it| !it.is_finite() || *it <= 0.0) {
            return Err(QuantizedError::Factor {
                found: factors[index],
                index,
            });
        }
        Ok(Self {
            balance: Some(factors.into()),
            ..self
        })
    }

    /// What inputs are multiplied by before they are rounded, if they are.
    pub fn balance(&self) -> Option<&[f32]> {
        self.balance.as_deref()
    }

    /// What the weights are stored in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The shape of the weight.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The codes, in row-major order.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The shape of the scales.
    pub fn scale_shape(&self) -> &[usize] {
        &self.scale_shape
    }

    /// The scales, in row-major order.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The scale of a code, both in row-major order.
    pub fn scale_of(&self, index: usize) -> usize {
        let (mut rest, mut at, mut stride) = (index, 0, 1);
        for (&codes, &scales) in self.shape.iter().zip(&self.scale_shape).rev() {
            let along = match scales {
                1 => 0,
                _ if scales == codes => rest % codes,
                _ => rest % codes / self.group(),
            };
            at += along * stride;
            stride *= scales;
            rest /= codes;
        }
        at
    }

    /// How many neighbours share a scale, where not all do.
    fn group(&self) -> usize {
        match self.precision {
            Precision::Int4 { group } => group,
            _ => 1,
        }
    }

    /// The numbers that the codes stand for, in row-major order.
    pub fn values(&self) -> Vec<f32> {
        let each = self.codes.iter().enumerate();
        let taps: usize = self.shape.iter().skip(2).product();
        let number = |(i, &code): (usize, &i8)| {
            let weight = f32::from(code) * self.scales[self.scale_of(i)];
            // As kernels have it.
            let factor = |balance: &[f32]| balance[i / taps % balance.len()];
            weight * self.balance().map_or(1.0, factor)
        };
        each.map(number).collect()
    }

    /// Along which axis codes of four bits are paired in a file: that of the groups.
    pub(crate) fn paired_axis(&self) -> usize {
        paired_axis(&self.shape, &self.scale_shape)
    }
}

/// Along which axis codes of four bits are paired in a file: the first of the first two that has fewer scales than codes, or
/// the second.
pub(crate) fn paired_axis(codes: &[usize], scales: &[usize]) -> usize {
    match (codes, scales) {
        ([a, _, ..], [b, ..]) if b < a => 0,
        ([_, _, ..], _) => 1,
        _ => 0,
    }
}

thread_local! {
    /// What parameters are to become: burn's mappers carry tensors alone.
    static ARRIVING: RefCell<HashMap<ParamId, Arrival>> = RefCell::default();
    /// The parameter that a mapper may change.
    static CHANGING: Cell<Option<ParamId>> = const { Cell::new(None) };
    /// What packed parameters show to a visitor.
    static SHOWN: Cell<Shown> = const { Cell::new(Shown::Nothing) };
    /// What the packed parameter holds that is being shown.
    static SHOWING: RefCell<Option<Stored>> = const { RefCell::new(None) };
}

/// What packed parameters show to a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// They are passed over.
    Nothing,
    /// How many numbers they hold.
    Counts,
    /// All that they hold.
    Contents,
}

/// What a packed parameter holds, as a file keeps it.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Count(usize),
    F32(Vec<usize>, Vec<f32>),
    /// The upper halves of f32.
    Bf16(Vec<usize>, Vec<u16>),
    Codes(Quantized),
}

/// What a plain parameter is to become.
#[derive(Clone, Debug)]
pub(crate) enum Arrival {
    /// Packed, not laid out yet.
    Codes(Quantized),
    /// One that computes as if it was packed.
    Rehearsal(Precision),
}

/// Says what the parameter is to become that a mapper is at; says whether it can: a tensor that is burn's own parameter, and no
/// layer's, stays what it is.
pub(crate) fn send(id: ParamId, arrival: Arrival) -> bool {
    let can_change = CHANGING.get() == Some(id);
    if can_change {
        ARRIVING.with_borrow_mut(|arriving| arriving.insert(id, arrival));
    }
    can_change
}

/// Lets a mapper at a parameter say what it is to become.
pub(crate) fn changing<T>(id: ParamId, map: impl FnOnce() -> T) -> T {
    struct Done(ParamId);
    impl Drop for Done {
        fn drop(&mut self) {
            CHANGING.set(None);
            if std::thread::panicking() {
                let _ = receive(self.0);
            }
        }
    }
    CHANGING.set(Some(id));
    let _done = Done(id);
    map()
}

/// What a parameter is to become.
pub(crate) fn receive(id: ParamId) -> Option<Arrival> {
    ARRIVING.with_borrow_mut(|arriving| arriving.remove(&id))
}

/// Shows packed parameters to the visitors within, which [take](take_shown) what they hold.
pub(crate) fn showing<T>(what: Shown, visit: impl FnOnce() -> T) -> T {
    struct Before(Shown);
    impl Drop for Before {
        fn drop(&mut self) {
            SHOWN.set(self.0);
            // What a visitor that panicked did not take is not the next one's.
            SHOWING.take();
        }
    }
    let _before = Before(SHOWN.replace(what));
    visit()
}

/// What packed parameters show.
pub(crate) fn what_is_shown() -> Shown {
    SHOWN.get()
}

/// Shows what a packed parameter holds.
pub(crate) fn show(stored: Stored) {
    SHOWING.set(Some(stored));
}

/// What the parameter shows that a visitor is at; nothing where it is plain.
pub(crate) fn take_shown() -> Option<Stored> {
    SHOWING.take()
}

/// How many numbers the parameters of a module hold, plain or packed.
///
/// burn's own count passes over packed ones in lists.
pub fn count_parameters<M: Module>(module: &M) -> usize {
    struct Counter(usize);
    impl ModuleVisitor for Counter {
        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            self.0 += match take_shown() {
                Some(Stored::Count(count)) => count,
                _ => parameter.lazy_shape().num_elements(),
            };
        }
    }
    let mut counter = Counter(0);
    showing(Shown::Counts, || module.visit(&mut counter));
    counter.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_stands_for_a_block() {
        let int4 = Precision::Int4 { group: 2 };
        // Two rows of five numbers, in groups of two.
        let codes = vec![1, 2, 3, 4, 5, -1, -2, -3, -4, -5];
        let scales = vec![1.0, 10.0, 100.0, 0.5, 2.0, 4.0];
        let weight = Quantized::new(int4, (&[2, 5], codes), (&[2, 3], scales)).expect("fits");
        let expected = [1.0, 2.0, 30.0, 40.0, 500.0, -0.5, -1.0, -6.0, -8.0, -20.0];
        assert_eq!(weight.values(), expected);
        assert_eq!(weight.paired_axis(), 1);
        // One for each of the second axis.
        let codes = vec![1, 2, 3, 4, 5, 6];
        let weight = Quantized::new(
            Precision::Int8,
            (&[3, 2], codes),
            (&[1, 2], vec![1.0, -0.5]),
        );
        let expected = [1.0, -1.0, 3.0, -2.0, 5.0, -3.0];
        assert_eq!(weight.expect("fits").values(), expected);
    }

    #[test]
    fn what_does_not_go_together_is_an_error() {
        let make =
            |precision, shape: &[usize], codes: &[i8], scale_shape: &[usize], scales: &[f32]| {
                let made = Quantized::new(
                    precision,
                    (shape, codes.to_vec()),
                    (scale_shape, scales.to_vec()),
                );
                made.expect_err("does not go together").to_string()
            };
        let int8 = Precision::Int8;
        let int4 = Precision::Int4 { group: 8 };
        for (found, message) in [
            (
                make(Precision::F32, &[1], &[0], &[1], &[1.0]),
                "weights in f32 are no codes",
            ),
            (
                make(int8, &[2], &[0], &[1], &[1.0]),
                "there are 1 codes of shape [2]",
            ),
            (
                make(int8, &[1], &[0], &[1], &[]),
                "there are 0 scales of shape [1]",
            ),
            (
                make(int8, &[4], &[0; 4], &[2], &[1.0; 2]),
                "scales of shape [2] do not belong to codes of shape [4] in int8",
            ),
            (
                make(int4, &[4], &[0, 0, 8, 0], &[1], &[1.0]),
                "code 8 at index 2 is not one of int4/8",
            ),
            (
                make(int8, &[2], &[0, -128], &[1], &[1.0]),
                "code -128 at index 1 is not one of int8",
            ),
            (make(int8, &[1], &[1], &[1], &[f32::NAN]), "scale 0 is NaN"),
        ] {
            assert_eq!(found, message);
        }
    }
}
