//! What a camera saw.

use std::sync::Arc;

/// Red, green and blue.
const CHANNELS: usize = 3;

/// Copies into the memory that is there, where that can be.
fn copy<T: Copy>(to: &mut Arc<[T]>, from: &Arc<[T]>) {
    match Arc::get_mut(to) {
        Some(to) if to.len() == from.len() => to.copy_from_slice(from),
        _ => *to = Arc::from(&**from),
    }
}

/// The largest byte, which is 1.
const WHITE: f32 = 255.0;

/// A picture in red, green and blue, with values from 0 to 1.
///
/// It is guaranteed that the picture has a pixel and that all values are in that range. A clone shares the pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    height: usize,
    width: usize,
    pixels: Pixels,
}

#[derive(Clone, Debug, PartialEq)]
enum Pixels {
    /// `[height, width, 3]`; 255 is 1.
    Bytes(Arc<[u8]>),
    /// `[3, height, width]`.
    Floats(Arc<[f32]>),
}

/// Why values are no [`Image`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is no pixel.
    #[error("an image of {height} x {width} has no pixels")]
    Empty {
        /// The height that was given.
        height: usize,
        /// The width that was given.
        width: usize,
    },
    /// There are more values than the size needs, or fewer.
    #[error("an image of {height} x {width} has 3 values a pixel, found {found} in all")]
    Length {
        /// The height that was given.
        height: usize,
        /// The width that was given.
        width: usize,
        /// How many values there are.
        found: usize,
    },
    /// A value is not from 0 to 1: usually bytes that were not divided by 255, or values that were normalized already.
    #[error("value {index} of the image is {found:e}; values from 0 to 1 are needed")]
    Range {
        /// Which, row-major.
        index: usize,
        /// What it is.
        found: f32,
    },
}

impl Image {
    /// The bytes of a picture that was given as [bytes](Self::from_rgb8), `[height, width, 3]`.
    pub fn rgb8(&self) -> Option<&[u8]> {
        match &self.pixels {
            Pixels::Bytes(bytes) => Some(bytes),
            Pixels::Floats(_) => None,
        }
    }

    /// Shares its pixels with no other.
    pub(crate) fn detach(&mut self) {
        match &mut self.pixels {
            Pixels::Bytes(bytes) => *bytes = Arc::from(&**bytes),
            Pixels::Floats(values) => *values = Arc::from(&**values),
        }
    }

    /// Copies the pixels of another into its own memory, if they are of one size and kind and nobody shares it; takes
    /// new memory otherwise.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        (self.height, self.width) = (other.height, other.width);
        match (&mut self.pixels, &other.pixels) {
            (Pixels::Bytes(to), Pixels::Bytes(from)) => copy(to, from),
            (Pixels::Floats(to), Pixels::Floats(from)) => copy(to, from),
            (to, from) => {
                *to = from.clone();
                self.detach();
            }
        }
    }

    /// A picture of bytes, as cameras and files give them.
    ///
    /// A value is its byte divided by 255 in f32, as LeRobot computes it.
    ///
    /// # Shapes
    ///
    /// - pixels: `[height, width, 3]`, row-major: red, green and blue of one pixel after the other
    ///
    /// # Errors
    ///
    /// If there is no pixel, or there are not three bytes for each.
    pub fn from_rgb8(
        height: usize,
        width: usize,
        pixels: impl Into<Arc<[u8]>>,
    ) -> Result<Self, ImageError> {
        let pixels = pixels.into();
        check_size(height, width, pixels.len())?;
        Ok(Self {
            height,
            width,
            pixels: Pixels::Bytes(pixels),
        })
    }

    /// A picture of numbers from 0 to 1, in the order of PyTorch's tensors.
    ///
    /// # Shapes
    ///
    /// - values: `[3, height, width]`, row-major: all of red, then all of green, then all of blue
    ///
    /// # Errors
    ///
    /// If there is no pixel, there are not three values for each, or one is not from 0 to 1.
    pub fn from_chw(
        height: usize,
        width: usize,
        values: impl Into<Arc<[f32]>>,
    ) -> Result<Self, ImageError> {
        let values = values.into();
        check_size(height, width, values.len())?;
        if let Some(index) = values.iter().position(|value| !(0.0..=1.0).contains(value)) {
            return Err(ImageError::Range {
                index,
                found: values[index],
            });
        }
        Ok(Self {
            height,
            width,
            pixels: Pixels::Floats(values),
        })
    }

    /// The number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values from 0 to 1.
    ///
    /// # Shapes
    ///
    /// - returns: `[3, height, width]`, row-major
    pub fn to_chw(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(CHANNELS * self.height * self.width);
        for channel in 0..CHANNELS {
            self.extend_with(&mut values, channel, self.whole(), |value| value);
        }
        values
    }

    /// All of it.
    pub(crate) fn whole(&self) -> Window {
        Window {
            top: 0,
            left: 0,
            height: self.height,
            width: self.width,
        }
    }

    /// Adds the values of a channel in a window, row by row, each through `map`.
    ///
    /// # Panics
    ///
    /// If the window does not lie in the picture.
    pub(crate) fn extend_with(
        &self,
        values: &mut Vec<f32>,
        channel: usize,
        window: Window,
        map: impl Fn(f32) -> f32,
    ) {
        let rows = window.top..window.top + window.height;
        let columns = window.left..window.left + window.width;
        match &self.pixels {
            Pixels::Bytes(bytes) => {
                // There are fewer bytes than pixels: each is computed once.
                let table: [f32; 256] = std::array::from_fn(|byte| map(byte as f32 / WHITE));
                for row in rows {
                    let start = row * self.width;
                    let pixels = &bytes
                        [CHANNELS * (start + columns.start)..CHANNELS * (start + columns.end)];
                    let of_channel = pixels.chunks_exact(CHANNELS).map(|pixel| pixel[channel]);
                    values.extend(of_channel.map(|byte| table[usize::from(byte)]));
                }
            }
            Pixels::Floats(floats) => {
                for row in rows {
                    let start = (channel * self.height + row) * self.width;
                    let row = &floats[start + columns.start..start + columns.end];
                    values.extend(row.iter().map(|&value| map(value)));
                }
            }
        }
    }
}

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

fn check_size(height: usize, width: usize, found: usize) -> Result<(), ImageError> {
    if height == 0 || width == 0 {
        return Err(ImageError::Empty { height, width });
    }
    let needed = height
        .checked_mul(width)
        .and_then(|n| n.checked_mul(CHANNELS));
    if needed == Some(found) {
        Ok(())
    } else {
        Err(ImageError::Length {
            height,
            width,
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_numbers_are_the_same_picture() {
        let bytes: Vec<u8> = (0..2 * 3 * 3).map(|i| i * 14).collect();
        let image = Image::from_rgb8(2, 3, bytes.clone()).expect("fits");
        let values = image.to_chw();
        for (channel, row, column) in [(0, 0, 0), (1, 0, 2), (2, 1, 1)] {
            let byte = bytes[(row * 3 + column) * 3 + channel];
            let value = values[(channel * 2 + row) * 3 + column];
            assert_eq!(value.to_bits(), (f32::from(byte) / 255.0).to_bits());
        }
        let same = Image::from_chw(2, 3, values.clone()).expect("is in range");
        assert_eq!(same.to_chw(), values);
        let window = Window {
            top: 1,
            left: 1,
            height: 1,
            width: 2,
        };
        let [mut of_bytes, mut of_floats] = [Vec::new(), Vec::new()];
        image.extend_with(&mut of_bytes, 2, window, |value| 2.0 * value);
        same.extend_with(&mut of_floats, 2, window, |value| 2.0 * value);
        assert_eq!(of_bytes, of_floats);
        assert_eq!(of_bytes, [2.0 * values[16], 2.0 * values[17]]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let message = |image: Result<Image, ImageError>| image.expect_err("is wrong").to_string();
        assert_eq!(
            message(Image::from_rgb8(0, 2, [])),
            "an image of 0 x 2 has no pixels"
        );
        for (height, width) in [(2, 2), (usize::MAX, usize::MAX), (1 << 63, 2)] {
            assert!(matches!(
                Image::from_rgb8(height, width, [0; 11]),
                Err(ImageError::Length { found: 11, .. })
            ));
        }
        for value in [-1e-3, 1.001, 200.0, f32::NAN, f32::INFINITY] {
            let found = Image::from_chw(1, 1, [0.0, 1.0, value]);
            assert!(matches!(found, Err(ImageError::Range { index: 2, .. })));
        }
        assert_eq!(
            message(Image::from_chw(1, 1, [0.0, 255.0, 0.5])),
            "value 1 of the image is 2.55e2; values from 0 to 1 are needed"
        );
    }
}
