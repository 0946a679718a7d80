//! What the operands of dense products are rounded to.

use std::fmt;
use std::str::FromStr;

use super::{Level, RuntimeError};

/// The precision of the operands of a product of activations with a weight. Sums are `f32` in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16, to the nearest: twice the speed on a processor with AVX512-BF16. Weight gradients, the scan, the
    /// convolution and everything else stay in `f32`.
    Bf16,
}

impl Products {
    /// Whether this processor has the instructions, at this level.
    pub fn is_available(self, level: Level) -> bool {
        match self {
            Products::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Products::Bf16 => level == Level::Avx512 && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Products::Bf16 => false,
        }
    }
}

impl fmt::Display for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Products::F32 => "f32",
            Products::Bf16 => "bf16",
        })
    }
}

impl FromStr for Products {
    type Err = RuntimeError;

    fn from_str(text: &str) -> Result<Products, RuntimeError> {
        match text {
            "f32" => Ok(Products::F32),
            "bf16" => Ok(Products::Bf16),
            _ => Err(RuntimeError::UnknownProducts { found: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for products in [Products::F32, Products::Bf16] {
            assert_eq!(products.to_string().parse::<Products>().unwrap(), products);
        }
        let error = "fp8".parse::<Products>().unwrap_err().to_string();
        assert!(error.contains("fp8") && error.contains("f32 or bf16"), "{error}");
        assert!(!Products::Bf16.is_available(Level::Portable));
    }
}
