//! What the golden tests share: where the cases are, how to read and compare them, and the devices they run on.
//!
//! Included by path into the tests of several crates.
#![allow(dead_code, unused_imports)] // every test binary uses its own part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use statetune_ssm_kernels::{Cpu, Level};
use statetune_tensor::{DType, Device};

#[path = "golden_folders.rs"]
mod golden_folders;

pub use golden_folders::{count, folders_with, json, name_of, root};

/// Values of a case: shape and numbers (integers too are exact in f64).
#[derive(Debug, Clone)]
pub struct Values {
    pub shape: Vec<usize>,
    pub numbers: Vec<f64>,
}

impl Values {
    /// The rows of a matrix of token ids.
    pub fn tokens(&self) -> Vec<Vec<u32>> {
        self.numbers.chunks(self.shape[1]).map(|row| row.iter().map(|&x| x as u32).collect()).collect()
    }
}

/// A safetensors file of a case.
pub struct File {
    path: PathBuf,
    pub tensors: BTreeMap<String, Values>,
}

impl File {
    pub fn read(path: &Path) -> File {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let data = view.data();
            let numbers = match view.dtype() {
                Dtype::F32 => data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
                Dtype::F64 => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::I64 => data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
                Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
                other => panic!("{}: `{name}` has dtype {other:?}", path.display()),
            };
            (name, Values { shape: view.shape().to_vec(), numbers })
        });
        File { tensors: tensors.collect(), path: path.to_path_buf() }
    }

    pub fn get(&self, name: &str) -> &Values {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: there is no tensor `{name}`", self.path.display()))
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensors whose names start with `prefix`, which is removed.
    pub fn with_prefix(&self, prefix: &str) -> Vec<(&str, &Values)> {
        self.tensors.iter().filter_map(|(name, v)| Some((name.strip_prefix(prefix)?, v))).collect()
    }
}

/// A way to compute that every case is run on.
pub struct ComputePath {
    pub label: String,
    pub device: Device,
    pub compute: DType,
}

/// The GPU that `STATETUNE_TEST_DEVICE` asks for (`cuda`, or `cuda-bf16` for activations in bf16), in place of the processor.
#[path = "test_device.rs"]
mod test_device;

/// The f64 and f32 references and every SIMD level this machine has, each forced.
pub fn paths() -> Vec<ComputePath> {
    if let Some((label, device, compute)) = test_device::asked_for() {
        return vec![ComputePath { label, device, compute }];
    }
    let path = |level: Level, compute: DType| ComputePath {
        label: format!("{level}/{compute}"),
        device: Device::Cpu(Cpu::new(level, 2).expect("a CPU device")),
        compute,
    };
    let mut paths = vec![path(Level::Reference, DType::F64)];
    let mut levels = Level::available();
    if !levels.contains(&Level::Reference) {
        levels.insert(0, Level::Reference);
    }
    paths.extend(levels.into_iter().map(|level| path(level, DType::F32)));
    paths
}

/// With activations in bf16, whose unit in the last place is 2^-8, a tensor is compared whole: the norm of the difference over
/// the norm of what is expected. This much may logits, losses and states be off,
pub const BF16_VALUES: f64 = 0.12;
/// gradients,
pub const BF16_GRADIENTS: f64 = 0.25;
/// and parameters after ten steps of AdamW, which turns a gradient about zero into a whole step either way.
pub const BF16_UPDATED: f64 = 0.2;

/// Fails where the norm of the difference is more than `share` of the norm of what is expected, or of 1e-3 per element.
#[track_caller]
fn compare_whole(at: &str, expected: &[f64], found: &[f64], share: f64) {
    assert_eq!(expected.len(), found.len(), "{at}: number of elements");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut expected.iter().zip(found).map(|(e, f)| e - f));
    let size = norm(&mut expected.iter().copied()).max(1e-3 * (expected.len() as f64).sqrt());
    let off = difference / size;
    assert!(off <= share, "{at}: off by {:.2} % as a whole, {:.2} % allowed", 100.0 * off, 100.0 * share);
}

/// Whether the tests run with activations in bf16: then greedy decoding may take another of two nearly equal tokens.
pub fn computes_in_bf16() -> bool {
    test_device::asked_for().is_some_and(|(_, _, compute)| compute == DType::Bf16)
}

/// The tolerances of a case (`tolerance.json`).
pub struct Tolerance(Value);

impl Tolerance {
    /// Those of a file that holds more.
    pub fn new(tolerances: Value) -> Tolerance {
        Tolerance(tolerances)
    }

    /// Reads the file in the folder or, for a layout variant, in the one above.
    pub fn read(folder: &Path) -> Tolerance {
        let own = folder.join("tolerance.json");
        let path = if own.is_file() { own } else { folder.parent().expect("a parent").join("tolerance.json") };
        Tolerance(json(&path))
    }

    fn of(&self, what: &str, compute: DType, kind: &str) -> f64 {
        let dtype = if compute == DType::F64 { "f64" } else { "f32" };
        // Where no double precision is given, the single one holds for both.
        let entry = &self.0[what];
        let of = |entry: &Value| entry[kind].as_f64();
        let found = of(&entry[dtype]).or_else(|| of(&entry["f32"])).or_else(|| of(entry));
        found.unwrap_or_else(|| panic!("tolerance.json has no {what}.{dtype}.{kind}: {entry}"))
    }

    /// Absolute difference at most the tolerance.
    #[track_caller]
    pub fn absolute(&self, what: &str, compute: DType, at: &str, expected: &[f64], found: &[f64]) {
        if computes_in_bf16() {
            let share = if what == "adamw.after10" { BF16_UPDATED } else { BF16_VALUES };
            return compare_whole(&format!("{at} ({what})"), expected, found, share);
        }
        compare(&format!("{at} ({what})"), expected, found, self.of(what, compute, "abs"));
    }

    /// Difference at most the tolerance times the largest entry expected.
    #[track_caller]
    pub fn gradient(&self, compute: DType, at: &str, expected: &[f64], found: &[f64]) {
        if computes_in_bf16() {
            return compare_whole(&format!("{at} (gradient)"), expected, found, BF16_GRADIENTS);
        }
        let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
        let tolerance = self.of("gradient", compute, "relative_to_tensor_max") * largest;
        compare(&format!("{at} (gradient)"), expected, found, tolerance);
    }
}

/// Fails with the largest difference, its place, and the percent of the tolerance.
#[track_caller]
pub fn compare(at: &str, expected: &[f64], found: &[f64], tolerance: f64) {
    assert_eq!(expected.len(), found.len(), "{at}: number of elements");
    let mut worst = (0.0, 0);
    for (i, (e, f)) in expected.iter().zip(found).enumerate() {
        let difference = (e - f).abs();
        // NaN counts as the worst.
        if difference > worst.0 || difference.is_nan() {
            worst = (difference, i);
        }
    }
    let (difference, i) = worst;
    assert!(
        difference <= tolerance,
        "{at}: largest difference {difference:e} at element {i}: expected {}, found {}; {:.0}% of the tolerance {tolerance:e}",
        expected[i],
        found[i],
        100.0 * difference / tolerance
    );
}

/// Labelled rows of a batch of equal sequences: (rows in the packed batch, their targets).
pub fn labelled(targets: &Values) -> (Vec<u32>, Vec<u32>) {
    let labelled = targets.numbers.iter().enumerate().filter(|(_, t)| **t >= 0.0);
    labelled.map(|(row, &target)| (row as u32, target as u32)).unzip()
}
