//! The device that tests run on in place of the processor, where `STATETUNE_TEST_DEVICE` asks for one.

use statetune_tensor::{DType, Device};

/// `cuda` (activations in f32) or `cuda-bf16`: its label, the device, the type of activations.
///
/// # Panics
/// When there is no such device: tests that were asked to run on it fail rather than pass elsewhere.
pub fn asked_for() -> Option<(String, Device, DType)> {
    let name = std::env::var("STATETUNE_TEST_DEVICE").ok()?;
    let compute = match name.as_str() {
        "cuda" => DType::F32,
        "cuda-bf16" => DType::Bf16,
        other => panic!("STATETUNE_TEST_DEVICE is `{other}`: expected cuda or cuda-bf16"),
    };
    Some((format!("{name}/{compute}"), device(), compute))
}

#[cfg(feature = "cuda")]
fn device() -> Device {
    static DEVICE: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
    DEVICE.get_or_init(|| Device::cuda(0).unwrap_or_else(|error| panic!("{error}"))).clone()
}

#[cfg(not(feature = "cuda"))]
fn device() -> Device {
    panic!("these tests were built without the feature `cuda`")
}
