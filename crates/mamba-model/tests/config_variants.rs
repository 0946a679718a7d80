//! Configurations as they are met in practice: golden variants, defaults, refusals, and the round trip through JSON.

#[path = "../../../tests/support/golden_folders.rs"]
mod golden_folders;

use golden_folders::{count, folders_with};
use serde_json::{Value, json};
use statetune_mamba_model::ModelError;
use statetune_mamba_model::config::{ConfigFile, ConfigLayout, MambaConfig, ModelConfig, SpecialTokens};

/// A configuration under the Hugging Face names, an infinite limit as the string "inf".
fn by_hugging_face_names(model: &ModelConfig) -> Value {
    match model {
        ModelConfig::Mamba(config) => serde_json::from_str(&config.to_hugging_face_json()).unwrap(),
        ModelConfig::Mamba2(config) => {
            let float = |x: f64| if x == f64::INFINITY { json!("inf") } else { json!(x) };
            json!({
                "model_type": "mamba2",
                "vocab_size": config.vocab_size,
                "hidden_size": config.d_model,
                "state_size": config.d_state,
                "num_hidden_layers": config.num_hidden_layers,
                "layer_norm_epsilon": config.layer_norm_epsilon,
                "expand": config.expand as u64,
                "conv_kernel": config.d_conv,
                "use_bias": config.use_bias,
                "use_conv_bias": config.use_conv_bias,
                "num_heads": config.num_heads,
                "head_dim": config.head_dim,
                "n_groups": config.n_groups,
                "chunk_size": config.chunk_size,
                "tie_word_embeddings": config.tie_word_embeddings,
                "time_step_limit": [float(config.time_step_limit.0), float(config.time_step_limit.1)],
            })
        }
    }
}

#[test]
fn golden_base_config_variants() {
    let mut cases = 0;
    for folder in folders_with("expected.json") {
        let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: serde_json::Map<String, Value> = serde_json::from_str(&expected).unwrap();
        for (file, fields) in &expected {
            let path = folder.join(file);
            let config = ConfigFile::read(&path).unwrap_or_else(|error| panic!("{error}"));
            let found = by_hugging_face_names(&config.model);
            for (field, value) in fields.as_object().unwrap() {
                assert_eq!(&found[field], value, "{}: {field}", path.display());
            }
            cases += 1;
        }
    }
    count("base", cases);
}

fn mamba(text: &str) -> MambaConfig {
    match ConfigFile::parse(text, "config.json").unwrap().model {
        ModelConfig::Mamba(config) => config,
        ModelConfig::Mamba2(_) => panic!("not Mamba-2"),
    }
}

#[test]
fn written_configurations_are_read_back() {
    let plain = MambaConfig::new(50280, 768, 24);
    assert_eq!((plain.d_inner, plain.dt_rank), (1536, 48));
    let odd = MambaConfig {
        expand: 1.5,
        d_inner: 97,
        dt_rank: 5,
        use_bias: true,
        use_conv_bias: false,
        tie_word_embeddings: false,
        layer_norm_epsilon: 1e-6,
        residual_in_fp32: false,
        special_tokens: SpecialTokens { bos: Some(1), eos: vec![2, 3], pad: None },
        dtype: Some("bfloat16".to_string()),
        ..MambaConfig::new(17, 64, 3)
    };
    for config in [plain, odd] {
        config.validate().unwrap();
        // transformers would rescale the loaded weights.
        let expected = MambaConfig { rescale_prenorm_residual: false, ..config.clone() };
        assert_eq!(mamba(&config.to_hugging_face_json()), expected);
    }
}

#[test]
fn hugging_face_names_decide_and_the_rest_is_reported() {
    let text = r#"{"model_type": "mamba", "hidden_size": 32, "d_model": 64, "n_layer": 9, "num_hidden_layers": 3,
        "expand": 2, "intermediate_size": 80, "use_cache": true, "transformers_version": "5", "attn_layer_idx": []}"#;
    let file = ConfigFile::parse(text, "config.json").unwrap();
    assert_eq!(file.layout, ConfigLayout::HuggingFace);
    assert_eq!(file.unused_keys, ["d_model", "n_layer", "use_cache"]);
    let config = file.model.mamba().unwrap();
    assert_eq!((config.d_model, config.num_hidden_layers, config.d_inner), (32, 3, 80));
}

#[test]
fn the_original_layout_pads_its_vocabulary_and_has_no_special_tokens() {
    let text = r#"{"d_model": 50, "n_layer": 2, "vocab_size": 50277, "fused_add_norm": true, "tie_embeddings": false,
        "ssm_cfg": {"d_state": 8, "d_conv": 3, "expand": 3, "dt_rank": "auto", "bias": true, "use_fast_path": true}}"#;
    let file = ConfigFile::parse(text, "config.json").unwrap();
    assert_eq!(
        (file.layout, file.unused_keys.as_slice()),
        (ConfigLayout::Original, &["fused_add_norm".to_string()][..])
    );
    let config = file.model.mamba().unwrap();
    assert_eq!((config.vocab_size, config.d_inner, config.dt_rank, config.d_state), (50280, 150, 4, 8));
    assert!(config.use_bias && !config.tie_word_embeddings);
    assert_eq!(config.special_tokens, SpecialTokens::default());
}

#[test]
fn mamba2_is_recognised_but_not_built() {
    let file = ConfigFile::parse(r#"{"d_model": 64, "ssm_cfg": {"layer": "Mamba2"}}"#, "config.json").unwrap();
    let message = file.model.mamba().unwrap_err().to_string();
    assert!(message.contains("Mamba-2") && message.contains("cannot be built yet"), "{message}");
}

#[test]
fn what_would_be_another_model_is_refused_by_name() {
    for (text, named) in [
        (r#"{"model_type": "falcon_mamba"}"#, "falcon_mamba"),
        (r#"{"model_type": "llama", "hidden_size": 8}"#, "llama"),
        (r#"{"model_type": "mamba", "architectures": ["BiMambaForMaskedLM"]}"#, "BiMambaForMaskedLM"),
        (r#"{"architectures": ["JambaForCausalLM"]}"#, "JambaForCausalLM"),
        (r#"{"model_type": "mamba2", "architectures": ["MambaForCausalLM"]}"#, "MambaForCausalLM"),
        (r#"{"hidden_size": 8}"#, "neither model_type nor architectures"),
        (r#"{"n_embd": 8}"#, "neither model_type and hidden_size"),
        (r#"{"model_type": "mamba", "hidden_act": "gelu"}"#, "hidden_act = `gelu`"),
        (r#"{"model_type": "mamba", "attn_layer_idx": [3]}"#, "attn_layer_idx = [3]"),
        (r#"{"model_type": "mamba", "quantization_config": {"bits": 4}}"#, "quantization_config"),
        (r#"{"d_model": 8, "attn_layer_idx": [1]}"#, "attn_layer_idx = [1]"),
        (r#"{"d_model": 8, "rms_norm": false}"#, "rms_norm = false"),
        (r#"{"d_model": 8, "d_intermediate": 16}"#, "d_intermediate = 16"),
        (r#"{"d_model": 8, "bidirectional": true}"#, "bidirectional"),
        (r#"{"d_model": 8, "ssm_cfg": {"layer": "Mamba3"}}"#, "ssm_cfg.layer = `Mamba3`"),
        (r#"{"d_model": 8, "ssm_cfg": {"bimamba_type": "v2"}}"#, "ssm_cfg.bimamba_type"),
        (r#"{"d_model": 64, "ssm_cfg": {"layer": "Mamba2", "d_ssm": 64}}"#, "ssm_cfg.d_ssm = 64"),
    ] {
        let error = ConfigFile::parse(text, "some/config.json").unwrap_err();
        assert!(
            matches!(error, ModelError::UnknownArchitecture { .. } | ModelError::UnsupportedFeature { .. }),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(message.contains(named) && message.contains("some/config.json"), "{message}");
    }
}

#[test]
fn values_out_of_range_are_named() {
    for (text, field, found) in [
        (r#"{"model_type": "mamba", "hidden_size": 0}"#, "hidden_size", "0"),
        (r#"{"model_type": "mamba", "hidden_size": "big"}"#, "hidden_size", "\"big\""),
        (r#"{"model_type": "mamba", "vocab_size": 1e30}"#, "vocab_size", "1e+30"),
        (r#"{"model_type": "mamba", "state_size": -1}"#, "state_size", "-1"),
        (r#"{"model_type": "mamba", "conv_kernel": 2.5}"#, "conv_kernel", "2.5"),
        (r#"{"model_type": "mamba", "num_hidden_layers": 10000000}"#, "num_hidden_layers", "10000000"),
        (r#"{"model_type": "mamba", "time_step_rank": "automatic"}"#, "time_step_rank", "automatic"),
        (r#"{"model_type": "mamba", "expand": 1e300}"#, "intermediate_size", "18446744073709551615"),
        (r#"{"model_type": "mamba", "expand": NaN}"#, "intermediate_size", "0"),
        (r#"{"model_type": "mamba", "layer_norm_epsilon": Infinity}"#, "layer_norm_epsilon", "inf"),
        (r#"{"model_type": "mamba", "layer_norm_epsilon": -1e-5}"#, "layer_norm_epsilon", "-0.00001"),
        (r#"{"model_type": "mamba", "time_step_max": 1e-4}"#, "time_step_max", "0.0001"),
        (r#"{"model_type": "mamba", "time_step_init_scheme": "zeros"}"#, "time_step_init_scheme", "zeros"),
        (r#"{"model_type": "mamba", "use_bias": 1}"#, "use_bias", "1"),
        (r#"{"model_type": "mamba", "hidden_act": 3}"#, "hidden_act", "3"),
        (r#"{"model_type": "mamba", "eos_token_id": [0, -2]}"#, "eos_token_id", "-2"),
        (r#"{"model_type": "mamba", "bos_token_id": [0, 1]}"#, "bos_token_id", "[0,1]"),
        (r#"{"model_type": "mamba", "architectures": "Mamba"}"#, "architectures", "Mamba"),
        (r#"{"model_type": "mamba2", "num_heads": 3}"#, "num_heads", "3 heads of 64"),
        (r#"{"model_type": "mamba2", "n_groups": 3}"#, "n_groups", "3 groups"),
        (r#"{"model_type": "mamba2", "time_step_limit": [0]}"#, "time_step_limit", "[0]"),
        (r#"{"d_model": 8, "ssm_cfg": []}"#, "ssm_cfg", "[]"),
        (r#"{"d_model": 8, "ssm_cfg": {"d_state": 0}}"#, "ssm_cfg.d_state", "0"),
        (r#"{"d_model": 8, "ssm_cfg": {"layer": "Mamba2"}}"#, "ssm_cfg.headdim", "64"),
        (r#"{"d_model": 8, "pad_vocab_size_multiple": 0}"#, "pad_vocab_size_multiple", "0"),
    ] {
        let error = ConfigFile::parse(text, "some/config.json").unwrap_err();
        let message = error.to_string();
        let named =
            matches!(&error, ModelError::ConfigField { field: f, found: v, .. } if f == field && v.contains(found));
        assert!(named && message.starts_with("some/config.json: "), "{text}: {error:?}");
    }
}

#[test]
fn unreadable_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let message = ConfigFile::read(&path).unwrap_err().to_string();
    assert!(message.contains("cannot read") && message.contains("config.json"), "{message}");
    std::fs::write(&path, b"{\"model_type\": \"\xff\"}").unwrap();
    assert!(matches!(ConfigFile::read(&path), Err(ModelError::Json { .. })));
    std::fs::write(&path, b"{\"model_type\": \"mamba\", ").unwrap();
    let message = ConfigFile::read(&path).unwrap_err().to_string();
    assert!(message.contains("config.json is not a valid JSON object: EOF"), "{message}");
}
