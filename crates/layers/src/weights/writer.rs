//! Writing safetensors files.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use safetensors::tensor::{Dtype, TensorView};

use super::{BALANCE, PACKING, SCALE, Weights, WeightsError, paired};
use crate::quantized::{Shown, Stored, showing, take_shown};
use crate::{PackPolicy, Quantized};

/// Tensors that are to become a safetensors file.
///
/// What it writes, [`Weights`](super::Weights) reads, number for number.
#[derive(Clone, Debug, Default)]
pub struct WeightsWriter {
    tensors: Vec<Written>,
    metadata: HashMap<String, String>,
}

#[derive(Clone, Debug)]
struct Written {
    key: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl WeightsWriter {
    /// A tensor of f32 numbers in row-major order.
    ///
    /// # Panics
    ///
    /// If there are more numbers or fewer than the shape says, or the key is taken.
    pub fn tensor(&mut self, key: &str, shape: &[usize], values: &[f32]) {
        assert_eq!(
            shape.iter().product::<usize>(),
            values.len(),
            "`{key}` is of another shape than its values"
        );
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.push(key, Dtype::F32, shape, bytes.collect());
    }

    fn push(&mut self, key: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        assert!(
            self.tensors.iter().all(|taken| taken.key != key),
            "two tensors are called `{key}`"
        );
        self.tensors.push(Written {
            key: key.into(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
    }

    /// Codes and their scales, as [`Weights::quantized`](super::Weights::quantized) reads them.
    ///
    /// # Panics
    ///
    /// If a key is taken.
    pub fn quantized(&mut self, key: &str, weight: &Quantized) {
        let mut shape = weight.shape().to_vec();
        if weight.precision() == crate::Precision::Int8 {
            let bytes = weight.codes().iter().map(|code| code.cast_unsigned());
            self.push(key, Dtype::I8, &shape, bytes.collect());
        } else {
            let axis = weight.paired_axis();
            let bytes = paired(weight.codes(), &shape, axis);
            shape[axis] = shape[axis].div_ceil(2);
            self.push(key, Dtype::U8, &shape, bytes);
        }
        let scale_key = format!("{key}{SCALE}");
        self.tensor(&scale_key, weight.scale_shape(), weight.scales());
        if let Some(factors) = weight.balance() {
            self.tensor(&format!("{key}{BALANCE}"), &[factors.len()], factors);
        }
    }

    /// Says how the module was packed, so that it is [packed](super::Weights::packing) so again.
    pub fn packing(&mut self, policy: &PackPolicy) {
        self.metadata(PACKING, policy.to_string());
    }

    /// The parameters of a module, as they are: of packed ones what they were rounded to, in as many bits.
    ///
    /// `key` turns the path of a parameter in the module into its key in the file, as in
    /// [`Weights::load`](super::Weights::load).
    ///
    /// # Panics
    ///
    /// If a plain parameter is not f32, or a key is taken.
    pub fn module<M: Module>(&mut self, module: &M, key: impl Fn(&str) -> String) {
        let mut reader = Reader {
            writer: self,
            key,
            path: Vec::new(),
        };
        showing(Shown::Contents, || module.visit(&mut reader));
    }

    /// Copies those tensors of a file that have no key here, as they are; but for what belongs to codes that have one.
    ///
    /// # Errors
    ///
    /// If one cannot be read.
    pub fn copy_others(&mut self, from: &mut Weights) -> Result<(), WeightsError> {
        let is_taken = |key: &str| self.tensors.iter().any(|taken| taken.key == key);
        let belongs = |key: &str| {
            [SCALE, BALANCE]
                .iter()
                .any(|suffix| key.strip_suffix(suffix).is_some_and(is_taken))
        };
        let is_left = |key: &&str| !is_taken(key) && !belongs(key);
        let keys: Vec<String> = from.keys().filter(is_left).map(str::to_owned).collect();
        for key in keys {
            let (dtype, shape, bytes) = from.bytes(&key)?;
            self.push(&key, dtype, &shape, bytes);
        }
        Ok(())
    }

    /// A text beside the tensors. Several are written in any order.
    pub fn metadata(&mut self, key: &str, text: impl Into<String>) {
        self.metadata.insert(key.into(), text.into());
    }

    /// Writes the file beside its place and then renames it, so that what stood there is lost only to what is whole.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let beside = path.with_file_name(name);
        let views: Result<Vec<_>, _> = self
            .tensors
            .iter()
            .map(|it| {
                let view = TensorView::new(it.dtype, it.shape.clone(), &it.bytes)?;
                Ok((it.key.as_str(), view))
            })
            .collect();
        let views = views.map_err(|error: safetensors::SafeTensorError| io::Error::other(error))?;
        let metadata = (!self.metadata.is_empty()).then_some(self.metadata);
        // What was left there by a run that was ended may have another mode, and need not be there.
        let _ = std::fs::remove_file(&beside);
        // The library writes to a temporary file, which nobody but its owner may read, and puts that in the place of what is
        // here: a file that is made as all are, whose mode the weights get.
        let usual = File::create(&beside)?.metadata()?.permissions();
        let written = safetensors::serialize_to_file(views, metadata, &beside)
            .map_err(io::Error::other)
            .and_then(|()| std::fs::set_permissions(&beside, usual))
            // Renamed before its bytes are on the disk, it could be empty after a power cut.
            .and_then(|()| File::options().write(true).open(&beside)?.sync_all())
            .and_then(|()| std::fs::rename(&beside, path));
        if written.is_err() {
            // It may not even be there; the error that matters is the first.
            let _ = std::fs::remove_file(&beside);
        }
        written
    }
}

/// Takes parameters in as it walks over a module.
struct Reader<'a, F> {
    writer: &'a mut WeightsWriter,
    key: F,
    path: Vec<String>,
}

impl<F: Fn(&str) -> String> ModuleVisitor for Reader<'_, F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let key = (self.key)(&self.path.join("."));
        match take_shown() {
            Some(Stored::F32(shape, values)) => self.writer.tensor(&key, &shape, &values),
            Some(Stored::Bf16(shape, halves)) => {
                let bytes = halves.into_iter().flat_map(u16::to_le_bytes).collect();
                self.writer.push(&key, Dtype::BF16, &shape, bytes);
            }
            Some(Stored::Codes(weight)) => self.writer.quantized(&key, &weight),
            Some(Stored::Count(_)) | None => {
                let values: Vec<f32> =
                    (parameter.val().into_data().try_to_vec()).expect("weights are f32");
                self.writer.tensor(&key, &parameter.dims(), &values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::LinearConfig;

    #[test]
    fn what_is_written_is_read() {
        let config = LinearConfig {
            d_input: 3,
            d_output: 5,
            bias: true,
        };
        let device = Device::flex();
        let layer = config.init(&device);
        let mut writer = WeightsWriter::default();
        writer.module(&layer, |path| format!("layer.{path}"));
        writer.tensor("extra", &[2], &[f32::MIN_POSITIVE, -0.0]);
        writer.metadata("step", "12");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        for _ in 0..2 {
            writer
                .clone()
                .write(&path)
                .expect("written, and written over");
        }
        let mut weights = Weights::open(&path).expect("opened");
        assert_eq!(weights.metadata()["step"], "12");
        let read = weights
            .load(config.init(&device), |path| format!("layer.{path}"))
            .expect("of that shape");
        let extra = weights.values("extra", &[2]).expect("there");
        assert_eq!(
            extra.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            [f32::MIN_POSITIVE.to_bits(), (-0.0_f32).to_bits()]
        );
        weights.finish().expect("nothing else");
        read.weight
            .val()
            .into_data()
            .assert_eq(&layer.weight.val().into_data(), true);
        let files = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(files, 1, "what was written beside is gone");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_may_be_read_by_those_who_may_read_others() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("a folder");
        let mode = |name: &str| {
            let metadata = std::fs::metadata(folder.path().join(name)).expect("there");
            metadata.permissions().mode()
        };
        std::fs::write(folder.path().join("usual"), []).expect("written");
        let mut writer = WeightsWriter::default();
        writer.tensor("x", &[1], &[0.0]);
        // What a run that was ended left behind may have any mode.
        let beside = folder.path().join("x.safetensors.part");
        std::fs::write(&beside, []).expect("written");
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).expect("set");
        let path = folder.path().join("x.safetensors");
        writer.write(&path).expect("written");
        assert_eq!(
            format!("{:o}", mode("x.safetensors")),
            format!("{:o}", mode("usual"))
        );
    }

    #[test]
    #[should_panic(expected = "two tensors are called `x`")]
    fn keys_are_taken_once() {
        let mut writer = WeightsWriter::default();
        writer.tensor("x", &[1], &[0.0]);
        writer.tensor("x", &[1], &[0.0]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = WeightsWriter::default().write(&folder.path().join("no/x.safetensors"));
        assert!(error.is_err());
    }
}
