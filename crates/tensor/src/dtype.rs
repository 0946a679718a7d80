//! The element types of tensors.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use statetune_ssm_kernels::Real;

use crate::{Tensor, TensorError};

/// An element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// Single precision: what everything is computed in by default.
    F32,
    /// Double precision: the reference path.
    F64,
    /// Brain float, for storage.
    Bf16,
    /// IEEE half precision, for storage.
    F16,
}

impl DType {
    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
        })
    }
}

impl FromStr for DType {
    type Err = TensorError;

    fn from_str(name: &str) -> Result<DType, TensorError> {
        match name {
            "f32" | "float32" => Ok(DType::F32),
            "f64" | "float64" => Ok(DType::F64),
            "bf16" | "bfloat16" => Ok(DType::Bf16),
            "f16" | "float16" => Ok(DType::F16),
            _ => Err(TensorError::UnknownDType { found: name.to_owned() }),
        }
    }
}

/// A Rust type that is a tensor's element.
pub trait Element: Copy + Default + Send + Sync + fmt::Debug + 'static {
    /// Its [`DType`].
    const DTYPE: DType;
    /// Rounds from double precision.
    fn from_f64(x: f64) -> Self;
    /// Widens to double precision.
    fn to_f64(self) -> f64;
    /// A tensor over these values, whose shape has been checked.
    #[doc(hidden)]
    fn wrap(values: ndarray::ArcArray<Self, ndarray::IxDyn>) -> Tensor;
    /// The values, if the tensor has this element type.
    #[doc(hidden)]
    fn unwrap(tensor: &Tensor) -> Option<&ndarray::ArcArray<Self, ndarray::IxDyn>>;
    /// The values, mutable, if the tensor has this element type.
    #[doc(hidden)]
    fn unwrap_mut(tensor: &mut Tensor) -> Option<&mut ndarray::ArcArray<Self, ndarray::IxDyn>>;
}

macro_rules! element {
    ($t:ty, $variant:ident, $from:expr, $to:expr) => {
        impl Element for $t {
            const DTYPE: DType = DType::$variant;
            fn from_f64(x: f64) -> Self {
                ($from)(x)
            }
            fn to_f64(self) -> f64 {
                ($to)(self)
            }
            fn wrap(values: ndarray::ArcArray<Self, ndarray::IxDyn>) -> Tensor {
                Tensor(crate::tensor::Storage::$variant(values))
            }
            fn unwrap(tensor: &Tensor) -> Option<&ndarray::ArcArray<Self, ndarray::IxDyn>> {
                match &tensor.0 {
                    crate::tensor::Storage::$variant(values) => Some(values),
                    _ => None,
                }
            }
            fn unwrap_mut(tensor: &mut Tensor) -> Option<&mut ndarray::ArcArray<Self, ndarray::IxDyn>> {
                match &mut tensor.0 {
                    crate::tensor::Storage::$variant(values) => Some(values),
                    _ => None,
                }
            }
        }
    };
}
element!(f32, F32, |x| x as f32, f64::from);
element!(f64, F64, |x| x, |x| x);
element!(bf16, Bf16, bf16::from_f64, bf16::to_f64);
element!(f16, F16, f16::from_f64, f16::to_f64);

/// An element type that is computed with: `f32`, or `f64` on the reference path.
pub trait Float: Element + Real {}
impl Float for f32 {}
impl Float for f64 {}

/// Runs `$body` with `$t` bound to the Rust type of a compute dtype; other dtypes return an error naming the op.
#[macro_export]
macro_rules! with_float {
    ($dtype:expr, $op:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::F64 => {
                type $t = f64;
                $body
            }
            other => Err($crate::TensorError::NotComputed { op: $op, found: other }),
        }
    };
}
