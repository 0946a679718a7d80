//! Foreign configurations: every kind, what has no effect, what is wrong.

use std::path::Path;

use serde_json::{Map, Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_tensor::Tensor;

use super::{Configs, configs, import, methods, tensor_name};
use crate::PeftError;

fn map(value: Value) -> Map<String, Value> {
    value.as_object().expect("a table").clone()
}

/// Three layers, D = 64, N = 16.
fn read(config: Value) -> Result<Configs, PeftError> {
    configs(Path::new("theirs.json"), &map(config), &MambaConfig::new(101, 32, 3))
}

#[track_caller]
fn quiet(config: Value, expected: Value) {
    let (methods, notes) = read(config).unwrap();
    assert_eq!((json!(methods), notes), (expected, Vec::new()));
}

#[track_caller]
fn noted(config: Value, parts: &[&str]) -> Value {
    let (methods, notes) = read(config).unwrap();
    assert_eq!(notes.len(), parts.len(), "{notes:?}");
    for (note, part) in notes.iter().zip(parts) {
        assert!(note.contains(part), "{note}");
    }
    json!(methods)
}

#[track_caller]
fn refused(config: Value, parts: &[&str]) {
    let error = read(config).unwrap_err().to_string();
    for part in [&["theirs.json"], parts].concat() {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn suffix_tuning() {
    let h = json!({"peft_type": "SUFFIX_TUNING", "bias_init": "ZERO", "bias_type": "SILU_Z_C"});
    quiet(h.clone(), json!([{"method": "state-offset-h"}]));
    let config = json!({"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z_C", "r": 4, "r_ratio": 2, "dropout": 0.0});
    quiet(config, json!([{"method": "state-offset-h", "rank": 4, "rank_ratio": 2}]));
    quiet(json!({"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z"}), json!([{"method": "state-offset-y"}]));

    let mut idle = h.clone();
    for (key, value) in [("dropout", json!(0.1)), ("C_scale_shape", json!("dn")), ("C_bias_shape", json!("dn"))] {
        idle[key] = value;
    }
    idle["colour"] = json!("blue");
    let there = "has no effect in the authors' code, and none here";
    let parts = [
        format!("`dropout` of SUFFIX_TUNING {there}"),
        format!("`C_scale_shape` of SUFFIX_TUNING {there}"),
        format!("`C_bias_shape` of SUFFIX_TUNING {there}"),
        "`colour` of SUFFIX_TUNING is not known here and has no effect".into(),
    ];
    assert_eq!(noted(idle, &parts.each_ref().map(String::as_str)), json!([{"method": "state-offset-h"}]));
    let random = json!({"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z", "bias_init": "RANDOM", "r_ratio": 2});
    noted(random, &["`r_ratio` of SUFFIX_TUNING has no effect without `r`", "starts at random there, at zero here"]);

    let tuned = json!({"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z", "finetune_parameters": ["D", "A_log"]});
    let partial = json!({"method": "partial", "parameters": ["mixer.A_log", "mixer.D"]});
    quiet(tuned, json!([{"method": "state-offset-y"}, partial]));

    refused(json!({"peft_type": "SUFFIX_TUNING"}), &["`bias_type`", "\"SILU_Z_C\" or \"SILU_Z\"", "found nothing"]);
    refused(
        json!({"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z_C", "r": "four"}),
        &["`r` of SUFFIX_TUNING should be a whole number above 0, found \"four\""],
    );
    refused(json!({"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z", "r": 2}), &["`bias_type`", "no rank"]);
}

#[test]
fn state_offset_tuning() {
    let config =
        json!({"peft_type": "STATE_OFFSET_TUNING", "tuning_mode": "STATE_OFFSET_TUNING", "r": 2, "dropout": 0.2});
    let methods = noted(config, &["`dropout` of STATE_OFFSET_TUNING drops columns"]);
    assert_eq!(methods, json!([{"method": "state-offset-h", "rank": 2, "rank_ratio": 1}]));
    let config = json!({"peft_type": "STATE_OFFSET_TUNING", "tuning_mode": "OUTPUT_TUNING", "init": "zero"});
    quiet(config, json!([{"method": "state-offset-y"}]));
}

#[test]
fn ssm_peft() {
    for scan in ["scan_state", "scan"] {
        let mut config = json!({"peft_type": "SSMPEFT", "conv_init_state": true, "conv_init_state_init": "zero"});
        config[scan] = json!({"type": "init_state", "init": "zero"});
        quiet(config, json!([{"method": "initial-state"}, {"method": "conv-initial-state"}]));
    }
    quiet(
        json!({"peft_type": "SSMPEFT", "state_to_y": {"type": "transform", "bias": true, "scale_C": true},
            "target_modules": ["mixer"]}),
        json!([{"method": "state-to-output", "scale": false, "bias": true, "scale_C": true, "bias_C": false}]),
    );
    let previous = |init: Value| json!({"peft_type": "SSMPEFT", "state_to_y": {"type": "prev_state", "init": init}});
    quiet(previous(Value::Null), json!([{"method": "previous-state", "init": "kaiming"}]));
    quiet(previous("zero".into()), json!([{"method": "previous-state", "init": "zeros"}]));
    let both =
        json!({"peft_type": "SSMPEFT", "scan_state": {"type": "init_state"}, "state_to_y": {"type": "prev_state"}});
    noted(both, &["`scan_state.init` of SSMPEFT: the tensors start at random there", "zero there, h_0 here"]);
    quiet(
        json!({"peft_type": "SSMPEFT", "conv_init_state": true, "proj_lora_r": 4, "use_dora": true}),
        json!([{"method": "conv-initial-state"},
            {"method": "dora", "targets": ["out_proj"], "rank": 4, "alpha": 4.0, "dropout": 0.1}]),
    );
    refused(json!({"peft_type": "SSMPEFT"}), &["nothing is trained"]);
    let network = json!({"type": "init_state", "init": "zero", "hidden_dim": 8});
    refused(json!({"peft_type": "SSMPEFT", "scan_state": network}), &["`scan_state.hidden_dim` = 8", "not supported"]);
    refused(json!({"peft_type": "SSMPEFT", "scan_state": true}), &["`scan_state`", "a table", "found true"]);
    refused(json!({"peft_type": "SSMPEFT", "conv_init_state": 1}), &["`conv_init_state`", "true or false", "found 1"]);
}

#[test]
fn dim_extend() {
    let scan = json!({"method": "additional-scan", "states": 8, "init": "released"});
    quiet(json!({"peft_type": "DIM_EXTEND", "d_state": 8, "hidden_dim": null}), json!([scan]));
    let lora = json!({"method": "lora", "targets": ["out_proj"], "rank": 2, "alpha": 2.0, "dropout": 0.1});
    quiet(json!({"peft_type": "DIM_EXTEND", "d_state": 8, "proj_lora_r": 2}), json!([scan, lora]));
    refused(json!({"peft_type": "DIM_EXTEND"}), &["`d_state`", "a whole number above 0", "found nothing"]);
    refused(json!({"peft_type": "DIM_EXTEND", "d_state": 8, "hidden_dim_BC": 4}), &["`hidden_dim_BC` = 4"]);
}

fn sparse(changes: Value) -> Value {
    let mut config = json!({"peft_type": "SD_LORA", "num_zero": {"state": 0, "channel": 0},
        "num_freeze": {"state": 0.75, "channel": 0.9}, "num_warmup_it": 9, "proj_lora_r": 4,
        "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"]});
    changes.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
    config
}

#[test]
fn sparse_dimensions_with_lora() {
    let sdt = json!({"method": "sdt", "channels": 0.9, "states": 0.75, "zero_channels": 0.0, "warmup_steps": 10});
    let lora = json!({"method": "lora", "targets": ["out_proj"], "rank": 4, "alpha": 4.0, "dropout": 0.1});
    quiet(sparse(json!({})), json!([sdt, lora]));
    let alone = json!({"target_modules": ["A_log_adapter", "x_proj_B", "x_proj_C"], "proj_lora_r": null});
    quiet(sparse(alone), json!([sdt]));
    // Whole numbers count.
    let counts = json!({"num_freeze": {"state": 4, "channel": 48}, "num_zero": {"state": 2, "channel": 0.125}});
    let methods = noted(sparse(counts), &["`num_zero.state` of SD_LORA"]);
    assert_eq!((&methods[0]["states"], &methods[0]["channels"]), (&json!(0.375), &json!(0.75)));
    assert_eq!(methods[0]["zero_channels"], json!(0.125));
    noted(sparse(json!({"reg_scale": 0.5})), &["`reg_scale` of SD_LORA has no effect"]);

    refused(sparse(json!({"num_freeze": {"state": 0.5}})), &["`num_freeze.channel`", "whole number up to 64"]);
    refused(sparse(json!({"num_freeze": {"state": 1.5, "channel": 0.5}})), &["`num_freeze.state`", "found 1.5"]);
    refused(sparse(json!({"target_modules": ["A_log", "out_proj"]})), &["`target_modules`", "belong together"]);
    refused(sparse(json!({"proj_lora_r": null})), &["`target_modules`", "`proj_lora_r`"]);
    refused(sparse(json!({"num_warmup_it": -1})), &["`num_warmup_it`", "at least 0", "found -1"]);
    refused(sparse(json!({"select_mode": "BEST"})), &["`select_mode`", "found \"BEST\""]);
}

#[test]
fn biases() {
    let config = json!({"peft_type": "BITFIT", "target_modules": ["conv1d", "dt_proj"]});
    quiet(config, json!([{"method": "bitfit", "targets": ["conv1d", "dt_proj"]}]));
    let config = json!({"peft_type": "BITFIT", "target_modules": ["x_proj_B", "dt_proj"]});
    quiet(config, json!([{"method": "bitfit", "targets": ["x_proj.b", "dt_proj"], "add_missing": true}]));
    refused(json!({"peft_type": "BITFIT", "target_modules": "conv1d"}), &["`target_modules`", "a list of names"]);
}

#[test]
fn trained_layers() {
    let read = |words: Value| json!({"peft_type": "LAYER_FREEZE", "trainable_layers": words});
    let partial = |parameters: Value| json!([{"method": "partial", "parameters": parameters}]);
    quiet(
        read(json!(["D", "norm.weight", "norm_f.weight"])),
        partial(json!(["norm.weight", "mixer.D", "backbone.norm_f.weight"])),
    );
    quiet(
        read(json!(["x_proj_B", "x_proj_C", "x_proj_dt", "dt_proj"])),
        partial(json!(["mixer.x_proj.weight", "mixer.dt_proj.weight", "mixer.dt_proj.bias"])),
    );
    quiet(read(json!(["layers.1.mixer.A"])), partial(json!(["backbone.layers.1.mixer.A_log"])));
    noted(
        read(json!(["A_log", "attention"])),
        &["\"attention\" in `trainable_layers` of LAYER_FREEZE names no tensor"],
    );
    refused(
        read(json!(["x_proj_B"])),
        &["`trainable_layers`", "names a part of backbone.layers.0.mixer.x_proj.weight"],
    );
    refused(read(json!([])), &["`trainable_layers`"]);
}

#[test]
fn lora_with_peft_meaning() {
    let lora = |targets: Value| json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": targets});
    let (methods, notes) = read(lora(json!(["x_proj_B", "embedding"]))).unwrap();
    assert_eq!(notes, Vec::<String>::new());
    assert_eq!(methods[0]["targets"], json!(["x_proj.b", "embeddings"]));
    let mut magnitudes = lora(json!(["dt_proj"]));
    magnitudes["use_dora"] = true.into();
    magnitudes["colour"] = "blue".into();
    let methods = noted(magnitudes, &["`colour` of LORA is not known here and has no effect"]);
    assert_eq!((&methods[0]["method"], &methods[0]["rank"]), (&json!("dora"), &json!(2)));
    let conv = json!({"method": "conv-lora", "rank": 2, "alpha": 4.0, "rslora": false});
    let mut high = lora(json!(["conv1d"]));
    high["r"] = 16.into();
    let kernel = json!({"method": "conv-lora", "rank": 4, "alpha": 1.0, "rslora": false});
    assert_eq!(noted(high, &["of rank 4"]), json!([kernel]));
    assert_eq!(noted(lora(json!(["conv1d"])), &["has no LoRA for conv1d"]), json!([conv]));
    let methods = noted(lora(json!(["conv1d", "out_proj"])), &["has no LoRA for conv1d"]);
    assert_eq!((&methods[0]["targets"], &methods[1]), (&json!(["out_proj"]), &conv));
}

#[test]
fn other_kinds_are_refused_by_name() {
    refused(json!({"peft_type": "MULTI_PEFT"}), &["`peft_type` should be one of LORA", "found \"MULTI_PEFT\""]);
    refused(json!({"peft_type": 3}), &["SD_LORA", "found 3"]);
    refused(json!({}), &["found nothing"]);
}

#[test]
fn the_methods_take_what_they_are_given() {
    let model = MambaConfig::new(101, 32, 3);
    for (config, tags) in [
        (json!({"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z_C", "r": 2}), &["state-offset-h"][..]),
        (json!({"peft_type": "STATE_OFFSET_TUNING", "tuning_mode": "OUTPUT_TUNING"}), &["state-offset-y"]),
        (
            json!({"peft_type": "SSMPEFT", "scan": {"type": "init_state", "init": "zero"}, "conv_init_state": true,
                "state_to_y": {"type": "transform", "bias": true}, "proj_lora_r": 2}),
            &["initial-state", "conv-initial-state", "state-to-output", "lora"],
        ),
        (json!({"peft_type": "SSMPEFT", "state_to_y": {"type": "prev_state"}}), &["previous-state"]),
        (
            json!({"peft_type": "DIM_EXTEND", "d_state": 2, "proj_lora_r": 2, "use_dora": true}),
            &["additional-scan", "dora"],
        ),
        (sparse(json!({})), &["sdt", "lora"]),
        (json!({"peft_type": "BITFIT", "target_modules": ["conv1d", "x_proj_B"]}), &["bitfit"]),
        (json!({"peft_type": "LAYER_FREEZE", "trainable_layers": ["x_proj", "D"]}), &["partial"]),
        (
            json!({"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["conv1d", "x_proj_dt"]}),
            &["lora", "conv-lora"],
        ),
        (json!({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}), &["prompt-tuning"]),
    ] {
        let (methods, _) = methods(Path::new(""), &map(config), &model).unwrap();
        assert_eq!(methods.iter().map(|method| method.tag()).collect::<Vec<_>>(), tags);
        methods.iter().for_each(|method| assert!(!method.plan(&model).unwrap().tensors.is_empty()));
    }
}

/// D = 8, N = 16, one layer: half of the channels and all but four of the states are frozen.
#[test]
fn the_selection_follows_from_the_update() {
    let model = MambaConfig::new(101, 4, 1);
    let freeze = json!({"state": 0.75, "channel": 0.5});
    let alone = json!({"num_freeze": freeze, "proj_lora_r": null, "target_modules": ["A_log", "x_proj_B", "x_proj_C"]});
    let mixer = "base_model.model.backbone.layers.0.mixer";
    // Theirs is [N, D]: channel d has changed by d in the states from d on.
    let update = (0..16 * 8).map(|i| (i / 8, i % 8)).map(|(n, d)| if n >= d { d as f64 } else { 0.0 }).collect();
    let ramp = |len: usize| (0..len).map(|i| i as f64).collect::<Vec<f64>>();
    let tensors = [
        ("A_log_adapter.sdlora_grad", Tensor::from_vec(update, &[16, 8]).unwrap()),
        ("A_log_adapter.sdlora_adapter", Tensor::from_vec(ramp(16), &[16]).unwrap()),
        ("x_proj.x_proj_B.sdlora_adapter", Tensor::from_vec(ramp(64), &[64]).unwrap()),
        ("x_proj.x_proj_C.sdlora_adapter", Tensor::from_vec(ramp(64), &[64]).unwrap()),
    ];
    let tensors = tensors.map(|(name, tensor)| (format!("{mixer}.{name}"), tensor)).into();
    let (methods, tensors, _) = import(Path::new(""), &map(sparse(alone)), tensors, &model).unwrap();
    let chosen = &methods[0].config()["selection"][0];
    assert_eq!(chosen["channels"], json!([4, 5, 6, 7]));
    let shapes: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape().to_vec())).collect();
    let path = |rest: &str| format!("backbone.layers.0.mixer.{rest}");
    let expected =
        [(path("A_log.sdt"), vec![16]), (path("x_proj.b.sdt"), vec![16, 4]), (path("x_proj.c.sdt"), vec![16, 4])];
    assert_eq!(shapes, expected.each_ref().map(|(name, shape)| (name.as_str(), shape.clone())));
    let specs = methods[0].plan(&model).unwrap().tensors;
    assert!(specs.iter().all(|spec| tensors.iter().any(|(name, t)| *name == spec.name && t.shape() == spec.shape)));
}

#[test]
fn an_added_bias_is_told_from_a_stored_one() {
    let mixer = "base_model.model.backbone.layers.0.mixer";
    let config = map(json!({"peft_type": "BITFIT", "target_modules": ["conv1d", "x_proj_B"]}));
    let tensors = ["conv1d", "x_proj.x_proj_B"]
        .map(|module| (format!("{mixer}.{module}.bitfit_bias.default"), Tensor::from_vec(vec![0.0; 2], &[2]).unwrap()));
    let (_, tensors, _) = import(Path::new(""), &config, tensors.into(), &MambaConfig::new(101, 32, 1)).unwrap();
    let names: Vec<_> = tensors.iter().map(|(name, _)| name.rsplit_once("mixer.").unwrap().1).collect();
    assert_eq!(names, ["conv1d.bias", "x_proj.b.bias_added"]);
}

#[test]
fn magnitudes_and_embeddings_have_our_names() {
    let mixer = "backbone.layers.0.mixer";
    for (theirs, ours) in [
        (
            format!("base_model.model.{mixer}.out_proj.lora_magnitude_vector"),
            format!("{mixer}.out_proj.lora_magnitude"),
        ),
        (format!("base_model.model.{mixer}.out_proj.lora_A.default.weight"), format!("{mixer}.out_proj.lora_A")),
        ("base_model.model.backbone.embedding.lora_embedding_A".into(), "backbone.embeddings.lora_B".into()),
        ("base_model.model.backbone.embeddings.lora_embedding_B".into(), "backbone.embeddings.lora_A".into()),
    ] {
        assert_eq!(tensor_name(&theirs, "state_offset_h"), ours);
    }
}
