//! Saved folders open again with the same bytes, and a failed save leaves what was there.

mod checkpoint_support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use checkpoint_support::{save, small_config, small_model, small_tensors};
use statetune_mamba_model::ModelError;
use statetune_mamba_model::checkpoint::{Checkpoint, LM_HEAD, SaveOptions, TensorToSave, save_hugging_face};
use statetune_mamba_model::config::MambaConfig;
use statetune_tensor::DType;

fn files(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn assert_holds(folder: &Path, config: &MambaConfig, tensors: &[TensorToSave]) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    checkpoint.validate().unwrap();
    let found = checkpoint.config().mamba().unwrap();
    assert_eq!(found, &MambaConfig { dtype: found.dtype.clone(), ..config.clone() });
    assert_eq!(checkpoint.names().count(), tensors.len());
    for saved in tensors {
        let tensor = checkpoint.tensor(&saved.name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape(), tensor.bytes()), (saved.dtype, &saved.shape[..], &*saved.bytes));
    }
}

#[test]
fn one_file_and_shards_open_as_they_were_saved() {
    let config = MambaConfig { tie_word_embeddings: false, use_conv_bias: false, ..small_config() };
    let tensors = small_tensors(&config);
    assert!(tensors.iter().any(|tensor| tensor.name == LM_HEAD));
    for (limit, shards) in [(usize::MAX, None), (1000, Some(3)), (1, Some(tensors.len()))] {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("made/on/the/way");
        save(&folder, &config, &tensors, limit).unwrap();
        assert_holds(&folder, &config, &tensors);
        let mut bytes_of = BTreeMap::new();
        for tensor in Checkpoint::open(&folder).unwrap().tensors() {
            *bytes_of.entry(tensor.path().to_path_buf()).or_default() += tensor.bytes().len();
        }
        assert!(bytes_of.values().all(|&bytes: &usize| bytes <= limit.max(256)), "{bytes_of:?}");
        let files = files(&folder);
        match shards {
            None => assert_eq!(files, ["config.json", "model.safetensors"].map(String::from).into()),
            Some(count) => {
                assert!(files.contains("model.safetensors.index.json"));
                let shards: Vec<_> = files.iter().filter(|file| file.contains("-of-")).collect();
                assert_eq!(shards.len(), count, "{files:?}");
            }
        }
        assert_eq!(self::files(folder.parent().unwrap()).len(), 1, "the staging folder is gone");
    }
}

#[test]
fn mixed_types_are_kept_and_the_most_common_one_is_declared() {
    let config = small_config();
    let mut tensors = small_tensors(&config);
    for tensor in &mut tensors {
        if !tensor.name.ends_with("A_log") && !tensor.name.ends_with(".D") {
            tensor.dtype = DType::Bf16;
            // The upper half of each little-endian f32 is its bf16.
            tensor.bytes = tensor.bytes.chunks_exact(4).flat_map(|b| [b[2], b[3]]).collect::<Vec<u8>>().into();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &config, &tensors, usize::MAX).unwrap();
    assert_holds(folder.path(), &config, &tensors);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.config().mamba().unwrap().dtype.as_deref(), Some("bfloat16"));
}

#[test]
fn saving_over_a_checkpoint_replaces_its_weights_and_keeps_other_files() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    small_model(&folder);
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    let tokenizer = root.path().join("tokenizer.json");
    std::fs::write(&tokenizer, "{}").unwrap();
    let config = MambaConfig { vocab_size: 7, ..small_config() };
    let tensors = small_tensors(&config);
    // From one file to shards, to fewer shards, and back to one file; the staging folder of a killed save is no hurdle.
    for limit in [500, 2000, usize::MAX] {
        std::fs::create_dir_all(root.path().join(".model.saving/rest")).unwrap();
        let options = SaveOptions { max_shard_bytes: limit, companions: vec![tokenizer.clone()] };
        save_hugging_face(&folder, &config, tensors.iter().cloned().map(Ok), &options).unwrap();
        assert_holds(&folder, &config, &tensors);
        let mut found = files(&folder);
        for expected in ["notes.txt", "tokenizer.json", "config.json"] {
            assert!(found.remove(expected), "{expected}");
        }
        let index = found.remove("model.safetensors.index.json");
        assert_eq!(index, limit != usize::MAX);
        let total = format!("-of-{:05}.safetensors", found.len());
        assert!(
            found.iter().all(|file| if index { file.ends_with(&total) } else { file == "model.safetensors" }),
            "{found:?}"
        );
    }
    assert_eq!(files(root.path()).len(), 2);
}

#[test]
fn a_refused_save_leaves_the_old_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    let config = small_config();
    let tensors = small_model(&folder);
    let refuse = |tensors: Vec<Result<TensorToSave<'_>, ModelError>>, named: &str| {
        let options = SaveOptions { max_shard_bytes: 300, companions: Vec::new() };
        for destination in [&folder, &root.path().join("new")] {
            let again = tensors.iter().map(|tensor| match tensor {
                Ok(tensor) => Ok(tensor.clone()),
                Err(_) => Err(ModelError::NotSupportedYet { architecture: "a broken source" }),
            });
            let message = save_hugging_face(destination, &config, again, &options).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
        assert_eq!(files(root.path()), ["model".to_string()].into());
        assert_holds(&folder, &config, &self::small_tensors(&config));
    };
    let with = |change: &dyn Fn(&mut Vec<TensorToSave<'static>>)| {
        let mut changed = tensors.clone();
        change(&mut changed);
        changed.into_iter().map(Ok).collect::<Vec<_>>()
    };
    refuse(with(&|t| drop(t.pop())), "backbone.norm_f.weight");
    refuse(with(&|t| t.push(t[3].clone())), "comes twice");
    refuse(with(&|t| t[2].name = "backbone.layers.7.mixer.D".into()), "backbone.layers.7.mixer.D");
    refuse(with(&|t| t[2].shape.reverse()), "has shape [4, 16], expected [16, 4]");
    refuse(with(&|t| t[2].dtype = DType::Bf16), "has 256 bytes");
    let broken = tensors[..5].iter().cloned().map(Ok);
    refuse(broken.chain([Err(ModelError::NotSupportedYet { architecture: "" })]).collect(), "a broken source");
}

#[test]
fn impossible_destinations_are_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let (config, tensors) = (small_config(), small_tensors(&small_config()));
    let message = save(&file, &config, &tensors, usize::MAX).unwrap_err().to_string();
    assert!(message.contains("is not a folder"), "{message}");
    let message = save(&file.join("below"), &config, &tensors, usize::MAX).unwrap_err().to_string();
    assert!(message.contains("cannot create"), "{message}");
    assert!(save(&root.path().join("none/.."), &config, &tensors, usize::MAX).is_err());
    let invalid = MambaConfig { d_state: 0, ..config };
    let error = save(&root.path().join("new"), &invalid, &tensors, usize::MAX).unwrap_err();
    assert!(matches!(error, ModelError::ConfigField { .. }), "{error}");
    assert_eq!(files(root.path()), ["file".to_string()].into());
}
