//! PyTorch files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pytorch_reader::{DType, PytorchError, PytorchReader};
use safetensors::tensor::Dtype;

use super::{Place, Stored, Weights, WeightsError, regular_file};

/// What training programs put the network's tensors under.
const STATE_DICT: &str = "state_dict.";

impl Weights {
    /// Opens what `torch.save` wrote: a `.ckpt`, `.pt`, `.pth` or `.bin` file.
    ///
    /// Such a file is a program that builds its content. It is not run: a reader follows the few instructions that name
    /// tensors, and takes whatever else is there for a value without meaning. Where there is a `state_dict`, as in the
    /// checkpoints of training programs, the tensors beside it are left out.
    ///
    /// # Errors
    ///
    /// If it is no regular file, or cannot be read in this way.
    pub fn open_pytorch(path: &Path) -> Result<Self, WeightsError> {
        let file = regular_file(path)?;
        let reader = PytorchReader::new(path).map_err(|error| match error {
            PytorchError::Io(error) => WeightsError::Io(error),
            other => WeightsError::Pytorch(other),
        })?;
        let mut tensors: BTreeMap<String, Stored> = reader
            .into_tensors()
            .into_iter()
            .map(|(key, tensor)| {
                let stored = Stored {
                    dtype: dtype(tensor.dtype()),
                    shape: tensor.shape().to_vec(),
                    place: Place::Pytorch { tensor, skip: 0 },
                };
                (key, stored)
            })
            .collect();
        if tensors.keys().any(|key| key.starts_with(STATE_DICT)) {
            tensors = (tensors.into_iter())
                .filter_map(|(key, stored)| Some((key.strip_prefix(STATE_DICT)?.into(), stored)))
                .collect();
        }
        Ok(Self {
            files: vec![file],
            tensors,
            updates: BTreeMap::new(),
            used: BTreeSet::new(),
        })
    }
}

fn dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}
