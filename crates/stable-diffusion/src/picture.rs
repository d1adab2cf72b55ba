//! Pictures in memory and in files.

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use sha2::{Digest, Sha256};

use crate::parameters::{Parameters, ParametersError};

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// The most pixels of a picture: 8192 × 8192, which are 768 MB as f32.
pub const MAX_PIXELS: u64 = 1 << 26;

/// What a side must be a multiple of: the autoencoder halves it three times.
pub const MULTIPLE: u32 = 8;

/// Why a picture cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The file cannot be opened, read or written.
    #[error("cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// The file is longer than any picture that would be accepted.
    #[error("has more than {limit} bytes")]
    FileTooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file does not begin as a PNG or JPEG does.
    #[error("is neither a PNG nor a JPEG")]
    Format,
    /// The file ends before the picture does.
    #[error("is truncated: the file ends before the picture does")]
    Truncated,
    /// The file is damaged.
    #[error("is damaged: {0}")]
    Damaged(image::ImageError),
    /// The pixels or the text chunks cannot be written.
    #[error("the PNG cannot be written: {0}")]
    Encode(#[from] png::EncodingError),
    /// What stands before the pixels of a PNG cannot be read.
    #[error("the PNG's text cannot be read: {0}")]
    Text(png::DecodingError),
    /// The sides are zero, or absurd.
    #[error("has {width} × {height} pixels; from 1 to {MAX_PIXELS} are possible")]
    Pixels {
        /// Its width, in pixels.
        width: u32,
        /// Its height, in pixels.
        height: u32,
    },
    /// The autoencoder cannot divide a side.
    #[error(
        "has {width} × {height} pixels where multiples of {MULTIPLE} are needed; {} × {} is the nearest",
        nearest(*width), nearest(*height)
    )]
    Multiple {
        /// Its width, in pixels.
        width: u32,
        /// Its height, in pixels.
        height: u32,
    },
    /// The number of values is not what the sides say.
    #[error("has {found} values where {width} × {height} pixels of three need {}", 3 * u64::from(*width) * u64::from(*height))]
    Length {
        /// Its width, in pixels.
        width: u32,
        /// Its height, in pixels.
        height: u32,
        /// How many there are.
        found: usize,
    },
    /// A decoder gave NaN or infinity, which no colour is.
    #[error("the value at index {index} is not finite")]
    NonFinite {
        /// Where, in planes of rows.
        index: usize,
    },
    /// The parameters cannot be written.
    #[error("{0}")]
    Parameters(#[from] ParametersError),
}

/// The side that divides, next to the one that does not; the larger one of two.
fn nearest(side: u32) -> u32 {
    (side.saturating_add(MULTIPLE / 2) / MULTIPLE).max(1) * MULTIPLE
}

/// A picture: rows of pixels of red, green and blue.
///
/// It has between 1 and [`MAX_PIXELS`] pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Picture {
    /// A picture of `rgb`, of shape `[height, width, 3]` in row-major order.
    ///
    /// # Errors
    ///
    /// [`PictureError::Pixels`] and [`PictureError::Length`].
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, PictureError> {
        check(width, height, rgb.len())?;
        Ok(Self { width, height, rgb })
    }

    /// A picture of what an autoencoder decoded: `values` from −1 to 1, of shape `[3, height, width]`.
    ///
    /// ```text
    /// round(255 · clamp(x / 2 + 1/2, 0, 1)),   halves to even, as diffusers has it
    /// ```
    ///
    /// # Errors
    ///
    /// [`PictureError::Pixels`], [`PictureError::Length`], and [`PictureError::NonFinite`] in place of a black picture.
    pub fn from_planes(width: u32, height: u32, values: &[f32]) -> Result<Self, PictureError> {
        check(width, height, values.len())?;
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(PictureError::NonFinite { index });
        }
        let plane = values.len() / 3;
        let byte = |value: f32| {
            let unit = (value / 2.0 + 0.5).clamp(0.0, 1.0);
            (unit * 255.0).round_ties_even() as u8
        };
        let rgb = (0..plane)
            .flat_map(|pixel| [0, 1, 2].map(|colour| byte(values[colour * plane + pixel])))
            .collect();
        Ok(Self { width, height, rgb })
    }

    /// Values for an autoencoder: from −1 to 1, of shape `[3, height, width]`.
    pub fn planes(&self) -> Vec<f32> {
        (0..3)
            .flat_map(|colour| self.rgb[colour..].iter().step_by(3))
            .map(|&byte| f32::from(byte) / 127.5 - 1.0)
            .collect()
    }

    /// Reads a PNG or a JPEG.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode), and if the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, PictureError> {
        Self::decode(&bytes(path)?)
    }

    /// Decodes a PNG or a JPEG, and turns it upright if its EXIF says how.
    ///
    /// Transparency is dropped, grey is repeated, 16 bits become 8; a colour profile is not applied.
    ///
    /// # Errors
    ///
    /// [`PictureError`] says what the bytes are not: a picture, whole, undamaged, of a size that can be.
    pub fn decode(bytes: &[u8]) -> Result<Self, PictureError> {
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        match reader.format() {
            // The decoder would fill what is missing with grey.
            Some(ImageFormat::Jpeg) if !jpeg_ends(bytes) => return Err(PictureError::Truncated),
            Some(ImageFormat::Png | ImageFormat::Jpeg) => {}
            _ => return Err(PictureError::Format),
        }
        let mut decoder = reader.into_decoder().map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        check_sides(width, height)?;
        // A picture whose EXIF is damaged is still a picture.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut decoded = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        decoded.apply_orientation(orientation);
        let decoded = decoded.into_rgb8();
        Self::new(decoded.width(), decoded.height(), decoded.into_raw())
    }

    /// Writes a PNG, with how it was made if that is given.
    ///
    /// # Errors
    ///
    /// As [`png`](Self::png), and if the file cannot be written.
    pub fn write_png(
        &self,
        path: &Path,
        parameters: Option<&Parameters>,
    ) -> Result<(), PictureError> {
        Ok(fs::write(path, self.png(parameters)?)?)
    }

    /// The bytes of a PNG, with how it was made if that is given: see [`Parameters::chunks`].
    ///
    /// # Errors
    ///
    /// [`PictureError::Parameters`] if a parameter cannot be written.
    pub fn png(&self, parameters: Option<&Parameters>) -> Result<Vec<u8>, PictureError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        for (keyword, text) in parameters
            .map(Parameters::chunks)
            .transpose()?
            .into_iter()
            .flatten()
        {
            // Text of Latin-1 goes into the chunk that every program reads.
            if text.chars().all(|c| c <= '\u{ff}' && c != '\0') {
                encoder.add_text_chunk(keyword.into(), text)
            } else {
                encoder.add_itxt_chunk(keyword.into(), text)
            }?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb)?;
        writer.finish()?;
        Ok(bytes)
    }

    /// Its width, in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Its height, in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Its pixels: `[height, width, 3]` in row-major order.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Which pixels are nearer to white than to black, row by row: what a mask says.
    ///
    /// Brightness is that of ITU-R 601-2, rounded as Pillow does.
    pub fn is_white(&self) -> Vec<bool> {
        let pixels = self.rgb.as_chunks::<3>().0;
        let is_white = |&[red, green, blue]: &[u8; 3]| {
            let [red, green, blue] = [red, green, blue].map(u32::from);
            (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16 >= 128
        };
        pixels.iter().map(is_white).collect()
    }

    /// Ten hexadecimal digits that tell the picture from others: of the SHA-256 of width and height, four bytes each, the
    /// least first, and the pixels.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.width.to_le_bytes());
        hash.update(self.height.to_le_bytes());
        hash.update(&self.rgb);
        format!("{:x}", hash.finalize())[..10].to_owned()
    }

    /// This picture, with another one's pixels where a mask is white.
    ///
    /// # Errors
    ///
    /// [`PictureError::Length`] if one of the three is of another size.
    pub fn painted_over(&self, new: &Self, mask: &Self) -> Result<Self, PictureError> {
        for other in [new, mask] {
            if (other.width, other.height) != (self.width, self.height) {
                return Err(PictureError::Length {
                    width: self.width,
                    height: self.height,
                    found: other.rgb.len(),
                });
            }
        }
        let before = self.rgb.as_chunks::<3>().0.iter();
        let pixels = before.zip(new.rgb.as_chunks::<3>().0).zip(mask.is_white());
        let rgb = pixels.flat_map(|((before, new), painted)| if painted { *new } else { *before });
        Self::new(self.width, self.height, rgb.collect())
    }

    /// Whether the autoencoder can divide its sides.
    ///
    /// # Errors
    ///
    /// [`PictureError::Multiple`] says which size is the nearest that it can.
    pub fn divides(&self) -> Result<(), PictureError> {
        let (width, height) = (self.width, self.height);
        if width.is_multiple_of(MULTIPLE) && height.is_multiple_of(MULTIPLE) {
            Ok(())
        } else {
            Err(PictureError::Multiple { width, height })
        }
    }
}

/// The text chunks of a PNG before its pixels, by keyword.
pub(crate) fn text_chunks(bytes: &[u8]) -> Result<Vec<(String, String)>, PictureError> {
    let reader =
        png::Decoder::new(Cursor::new(bytes))
            .read_info()
            .map_err(|error| match error {
                png::DecodingError::IoError(error)
                    if error.kind() == std::io::ErrorKind::UnexpectedEof =>
                {
                    PictureError::Truncated
                }
                error => PictureError::Text(error),
            })?;
    let info = reader.info();
    let mut chunks: Vec<(String, String)> = info
        .uncompressed_latin1_text
        .iter()
        .map(|chunk| (chunk.keyword.clone(), chunk.text.clone()))
        .collect();
    for chunk in &info.compressed_latin1_text {
        chunks.push((
            chunk.keyword.clone(),
            chunk.get_text().map_err(PictureError::Text)?,
        ));
    }
    for chunk in &info.utf8_text {
        chunks.push((
            chunk.keyword.clone(),
            chunk.get_text().map_err(PictureError::Text)?,
        ));
    }
    Ok(chunks)
}

/// The bytes of a file that is not too long for a picture.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, PictureError> {
    let mut bytes = Vec::new();
    let found = File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    if found as u64 > MAX_FILE {
        return Err(PictureError::FileTooLarge { limit: MAX_FILE });
    }
    Ok(bytes)
}

fn check(width: u32, height: u32, found: usize) -> Result<(), PictureError> {
    check_sides(width, height)?;
    if found as u64 == 3 * u64::from(width) * u64::from(height) {
        Ok(())
    } else {
        Err(PictureError::Length {
            width,
            height,
            found,
        })
    }
}

fn check_sides(width: u32, height: u32) -> Result<(), PictureError> {
    if (1..=MAX_PIXELS).contains(&(u64::from(width) * u64::from(height))) {
        Ok(())
    } else {
        Err(PictureError::Pixels { width, height })
    }
}

fn damaged(error: image::ImageError) -> PictureError {
    match error {
        image::ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::Truncated
        }
        error => PictureError::Damaged(error),
    }
}

/// Whether a JPEG has its end marker, after the picture and not in a thumbnail before it.
fn jpeg_ends(bytes: &[u8]) -> bool {
    // Segments are a marker, a length and content, up to the start of the picture.
    let mut at = 2;
    loop {
        match bytes.get(at..at + 4) {
            // Bytes between segments fill up.
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, 0xda, ..]) => {
                return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]);
            }
            Some(&[0xff, _, high, low]) => {
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            // Not the structure of a JPEG: the decoder says what is wrong.
            Some(_) => return true,
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;
    use proptest::prelude::*;

    use super::*;

    /// A picture in which no two pixels are the same.
    fn gradient(width: u32, height: u32) -> Picture {
        let rgb = (0..width * height)
            .flat_map(|i| [(i % 251) as u8, (i / 251) as u8, (i % 7 * 36) as u8])
            .collect();
        Picture::new(width, height, rgb).expect("a picture")
    }

    fn jpeg(picture: &Picture) -> Vec<u8> {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 95)
            .encode(
                picture.rgb(),
                picture.width(),
                picture.height(),
                image::ExtendedColorType::Rgb8,
            )
            .expect("a JPEG");
        bytes
    }

    #[test]
    fn a_png_holds_every_pixel() -> Result<(), PictureError> {
        let picture = gradient(24, 16);
        assert_eq!(Picture::decode(&picture.png(None)?)?, picture);
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("picture.png");
        picture.write_png(&path, None)?;
        assert_eq!(Picture::read(&path)?, picture);
        Ok(())
    }

    #[test]
    fn a_jpeg_comes_close() -> Result<(), PictureError> {
        let rgb = [200, 100, 50].repeat(16 * 8);
        let decoded = Picture::decode(&jpeg(&Picture::new(16, 8, rgb.clone())?))?;
        assert_eq!((decoded.width(), decoded.height()), (16, 8));
        for (a, b) in decoded.rgb().iter().zip(&rgb) {
            assert!(a.abs_diff(*b) <= 3, "{a} for {b}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_a_whole_picture_is_an_error() -> Result<(), PictureError> {
        let picture = gradient(64, 64);
        for whole in [picture.png(None)?, jpeg(&picture)] {
            for length in [whole.len() / 4, whole.len() / 2, whole.len() - 20] {
                let error = Picture::decode(&whole[..length]).expect_err("half a picture");
                assert!(
                    matches!(error, PictureError::Truncated | PictureError::Damaged(_)),
                    "{length}: {error}"
                );
            }
        }
        for bytes in [&b""[..], b"GIF89a", b"not a picture at all", b"\x89PN"] {
            assert!(matches!(Picture::decode(bytes), Err(PictureError::Format)));
        }
        assert!(matches!(
            Picture::read(Path::new("no/such/picture.png")),
            Err(PictureError::Io(_))
        ));
        Ok(())
    }

    #[test]
    fn a_jpeg_may_have_a_thumbnail_with_an_end() {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 0, 0];
        bytes.extend([0xff, 0xda, 0, 2, 1, 2, 3]);
        assert!(!jpeg_ends(&bytes));
        bytes.extend([0xff, 0xd9]);
        assert!(jpeg_ends(&bytes));
    }

    #[test]
    fn a_size_that_is_only_claimed_costs_nothing() -> Result<(), PictureError> {
        let mut bytes = gradient(8, 8).png(None)?;
        // The header: its length and name, then width and height; the check sum is of name and content.
        bytes[16..20].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
        bytes[20..24].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
        let sum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&sum.to_be_bytes());
        let error = Picture::decode(&bytes).expect_err("a size");
        assert!(
            matches!(
                error,
                PictureError::Pixels { .. } | PictureError::Damaged(image::ImageError::Limits(_))
            ),
            "{error}"
        );
        Ok(())
    }

    /// PNG's check sum.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte), |sum, _| {
                (sum >> 1) ^ (0xedb8_8320 * (sum & 1))
            })
        })
    }

    #[test]
    fn sizes_are_checked() {
        let error = |width, height, found| {
            Picture::new(width, height, vec![0; found])
                .expect_err("a size")
                .to_string()
        };
        assert!(error(0, 8, 0).starts_with("has 0 × 8 pixels; from 1"));
        assert!(error(1 << 20, 1 << 20, 0).starts_with("has 1048576 × 1048576 pixels"));
        assert_eq!(
            error(2, 2, 11),
            "has 11 values where 2 × 2 pixels of three need 12"
        );
        assert!(gradient(64, 8).divides().is_ok());
        let error = gradient(100, 3).divides().expect_err("a size").to_string();
        assert!(
            error.ends_with("8 are needed; 104 × 8 is the nearest"),
            "{error}"
        );
    }

    #[test]
    fn values_become_bytes_as_in_diffusers() -> Result<(), PictureError> {
        let picture = Picture::from_planes(2, 1, &[-1.0, 1.0, 0.0, -3.0, 7.0, 0.5])?;
        // 127.5 goes to the even 128; red, green and blue have a plane each.
        assert_eq!(picture.rgb(), [0, 128, 255, 255, 0, 191]);
        let error = Picture::from_planes(1, 1, &[0.0, f32::NAN, 0.0]);
        assert!(matches!(error, Err(PictureError::NonFinite { index: 1 })));
        assert!(matches!(
            Picture::from_planes(1, 1, &[0.0]),
            Err(PictureError::Length { found: 1, .. })
        ));
        Ok(())
    }

    #[test]
    fn planes_and_back() -> Result<(), PictureError> {
        let picture = gradient(16, 24);
        let planes = picture.planes();
        assert!(planes.iter().all(|value| (-1.0..=1.0).contains(value)));
        assert_eq!(Picture::from_planes(16, 24, &planes)?, picture);
        Ok(())
    }

    proptest! {
        #[test]
        fn damage_is_an_error_or_a_picture(at in any::<prop::sample::Index>(), byte in any::<u8>(), png in any::<bool>()) {
            let picture = gradient(16, 16);
            let mut bytes = if png { picture.png(None)? } else { jpeg(&picture) };
            let at = at.index(bytes.len());
            bytes[at] = byte;
            // It may succeed; it may not panic.
            let _ = Picture::decode(&bytes).map(|picture| picture.rgb().len());
            let _ = text_chunks(&bytes);
        }
    }
}
