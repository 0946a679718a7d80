//! What the kernel tests share: random operands, devices of every level and thread count, and one comparison.

use half::{bf16, f16};

use crate::{Cpu, Level, WeightSlice, random};

/// A device of every level this processor has, two threads each.
pub fn every_level() -> Vec<Cpu> {
    Level::available().into_iter().map(|level| Cpu::new(level, 2).unwrap()).collect()
}

/// The reference device.
pub fn reference() -> Cpu {
    Cpu::new(Level::Reference, 1).unwrap()
}

/// Runs `f` at every level with 1, 2 and 7 threads and asserts that the bits agree.
pub fn assert_same_bits(name: &str, f: impl Fn(&Cpu) -> Vec<f32>) {
    for level in Level::available() {
        let bits = |threads| {
            let y = f(&Cpu::new(level, threads).unwrap());
            y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = bits(1);
        assert!(one == bits(2) && one == bits(7), "{name} at {level}: bits depend on the thread count");
    }
}

/// Numbers uniform in (-1, 1).
pub fn numbers(len: usize, stream: u64) -> Vec<f32> {
    let mut x = vec![0.0; len];
    random::uniform(&mut x, -1.0, 1.0, 17, stream);
    x
}

/// Exactly widened.
pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// One weight in each storage type.
pub struct Stored {
    f32: Vec<f32>,
    f64: Vec<f64>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
}

impl Stored {
    /// Rounds to each type.
    pub fn new(values: &[f32]) -> Stored {
        Stored {
            f32: values.to_vec(),
            f64: widen(values),
            bf16: values.iter().map(|&x| bf16::from_f32(x)).collect(),
            f16: values.iter().map(|&x| f16::from_f32(x)).collect(),
        }
    }

    /// The four, with their names.
    pub fn slices(&self) -> [(&'static str, WeightSlice<'_>); 4] {
        [
            ("f32", WeightSlice::F32(&self.f32)),
            ("f64", WeightSlice::F64(&self.f64)),
            ("bf16", WeightSlice::Bf16(&self.bf16)),
            ("f16", WeightSlice::F16(&self.f16)),
        ]
    }
}

/// Asserts |found - expected| <= tolerance · max(1, |expected|) everywhere; says where it is worst and by how much.
#[track_caller]
pub fn assert_close(name: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}: lengths");
    let error = |i: usize| {
        let e = (f64::from(found[i]) - expected[i]).abs() / expected[i].abs().max(1.0);
        if e.is_nan() { f64::INFINITY } else { e }
    };
    let Some(worst) = (0..found.len()).max_by(|&i, &j| error(i).total_cmp(&error(j))) else { return };
    assert!(
        error(worst) <= tolerance,
        "{name}: largest difference {:e} at {worst} ({} instead of {}), {:.0}% of the tolerance",
        error(worst),
        found[worst],
        expected[worst],
        100.0 * error(worst) / tolerance,
    );
}

/// The CUDA device that tests named `cuda_...` run on.
///
/// # Panics
/// When there is none: such a test fails rather than pass without having run.
#[cfg(feature = "cuda")]
pub fn cuda() -> crate::runtime::Cuda {
    static DEVICE: std::sync::OnceLock<crate::runtime::Cuda> = std::sync::OnceLock::new();
    DEVICE.get_or_init(|| crate::runtime::Cuda::new(0).expect("tests named cuda_... need a device")).clone()
}
