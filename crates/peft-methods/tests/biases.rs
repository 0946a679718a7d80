//! Biases where a model has none: BitFit's `add_missing` on every module that can have one, applied, differentiated and
//! merged into a configuration that has them.

use serde_json::json;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Bound, Mamba, Patches};
use statetune_peft_methods::{Adapter, PeftError, methods};
use statetune_ssm_kernels::{Cpu, Level};
use statetune_tensor::{DType, Device, Tape, Tensor};

fn bare() -> Mamba {
    let config = MambaConfig { use_conv_bias: false, use_bias: false, ..MambaConfig::new(17, 8, 2) };
    let device = Device::Cpu(Cpu::new(Level::Reference, 1).unwrap());
    Mamba::random(&config, &device, DType::F64, DType::F32, 1).unwrap()
}

fn logits(model: &Mamba, patches: &Patches, batch: &Batch) -> Vec<f64> {
    let tape = Tape::inference(model.device());
    let bound = Bound::new(&tape, model, patches, None).unwrap();
    let hidden = model.forward(&tape, &bound, batch, None, false).unwrap().hidden;
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    model.logits(&tape, &bound, &hidden, &rows).unwrap().tensor().to_f64_vec()
}

/// Every new bias holds numbers of its own.
fn adapter(model: &Mamba, targets: &[&str]) -> Adapter {
    let method = json!({"method": "bitfit", "targets": targets, "add_missing": true});
    let adapter = Adapter::new(model, vec![methods::parse_value(method).unwrap()], 0).unwrap();
    for (i, tensor) in adapter.patches().tensors().iter().enumerate() {
        let values = (0..tensor.buffer.tensor().len()).map(|j| 0.3 * ((i * 7 + j) as f64).sin()).collect::<Vec<_>>();
        tensor.buffer.set(Tensor::from_vec(values, &tensor.buffer.shape()).unwrap()).unwrap();
    }
    adapter
}

#[test]
fn new_biases_merge_into_a_model_that_has_them() {
    let model = bare();
    let batch = Batch::new(&[&[1u32, 2, 3, 4, 5][..], &[7, 8]]).unwrap();
    for targets in [&["conv1d"][..], &["in_proj"], &["out_proj"], &["conv1d", "in_proj", "out_proj", "dt_proj"]] {
        let adapter = adapter(&model, targets);
        let (before, patched) = (logits(&model, &Patches::none(), &batch), logits(&model, adapter.patches(), &batch));
        assert!(before.iter().zip(&patched).any(|(a, b)| (a - b).abs() > 1e-3), "{targets:?} change nothing");
        let merged = adapter.merge(&model).unwrap();
        let found = logits(&merged, &Patches::none(), &batch);
        let worst = patched.iter().zip(&found).fold(0f64, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 1e-6, "{targets:?}: merged logits differ by {worst:e}");
        assert_eq!(merged.config().use_conv_bias, targets.contains(&"conv1d"));
        assert_eq!(merged.config().use_bias, targets.iter().any(|target| ["in_proj", "out_proj"].contains(target)));
    }
}

#[test]
fn a_module_without_a_bias_is_named_and_the_option_told() {
    let model = bare();
    let method = |value| Adapter::new(&model, vec![methods::parse_value(value).unwrap()], 0).map(drop);
    let error = method(json!({"method": "bitfit", "targets": ["conv1d"]})).unwrap_err().to_string();
    assert!(error.contains("`conv1d` has no bias") && error.contains("add_missing"), "{error}");
    let error = method(json!({"method": "bitfit", "targets": ["convld"]})).unwrap_err().to_string();
    assert!(error.contains("did you mean `conv1d`"), "{error}");
}

#[test]
fn a_bias_that_no_configuration_has_is_not_merged() {
    let model = bare();
    let error = adapter(&model, &["x_proj"]).merge(&model).unwrap_err();
    assert!(matches!(&error, PeftError::NotMergeable { site } if site.contains("x_proj")), "{error}");
}
