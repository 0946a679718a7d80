//! The instruction sets a CPU kernel can be written for, and which of them this processor has.

use std::fmt;
use std::str::FromStr;

use super::RuntimeError;

/// Which version of a CPU kernel runs. All levels compute the same function; only rounding differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// The plain formula, also the only one for `f64`.
    Reference,
    /// Eight-lane arrays in safe Rust, for any processor.
    Portable,
    /// AVX2 with FMA and F16C (x86-64 since 2013).
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Level {
    /// The levels this processor has, slowest first. `Reference` and `Portable` are always there.
    pub fn available() -> Vec<Level> {
        let mut levels = vec![Level::Reference, Level::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                levels.push(Level::Avx2);
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                levels.push(Level::Avx512);
            }
        }
        levels
    }

    /// The fastest level of this processor.
    pub fn best() -> Level {
        Level::available().pop().unwrap_or(Level::Portable)
    }

    /// An error unless this processor has the level.
    pub fn check(self) -> Result<Level, RuntimeError> {
        let available = Level::available();
        if available.contains(&self) {
            return Ok(self);
        }
        let available = available.iter().map(Level::to_string).collect::<Vec<_>>().join(", ");
        Err(RuntimeError::LevelUnavailable { wanted: self, available })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Reference => "reference",
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        })
    }
}

impl FromStr for Level {
    type Err = RuntimeError;

    fn from_str(name: &str) -> Result<Level, RuntimeError> {
        match name {
            "reference" => Ok(Level::Reference),
            "portable" => Ok(Level::Portable),
            "avx2" => Ok(Level::Avx2),
            "avx512" => Ok(Level::Avx512),
            _ => Err(RuntimeError::UnknownLevel { found: name.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for level in [Level::Reference, Level::Portable, Level::Avx2, Level::Avx512] {
            assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
        }
        assert!("sse".parse::<Level>().is_err());
    }

    #[test]
    fn best_is_available() {
        assert!(Level::best().check().is_ok());
        assert!(Level::available().len() >= 2);
    }
}
