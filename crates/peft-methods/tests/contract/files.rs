//! Saved = loaded, and what an exported adapter leaves out.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use statetune_mamba_model::Batch;
use statetune_peft_methods::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use statetune_peft_methods::{Adapter, PeftError};

use crate::support::{Subject, bytes, exact, few, for_every_method, logits, sequence};

/// The names of the tensors in a folder, and whether it has our own form.
fn in_file(folder: &Path) -> (BTreeSet<String>, bool) {
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join(ADAPTER_CONFIG)).unwrap()).unwrap();
    let weights = std::fs::read(folder.join(ADAPTER_WEIGHTS)).unwrap();
    let names = SafeTensors::deserialize(&weights).unwrap().names().into_iter().map(String::from).collect();
    (names, config["peft_type"] == "STATETUNE")
}

#[test]
fn saved_is_loaded() {
    for_every_method(|name, ground, _, adapter| {
        let folder = tempfile::tempdir().unwrap();
        adapter.save(folder.path(), "base").unwrap();
        let again = Adapter::load(folder.path(), &ground.model).unwrap();
        assert!(again.unused.is_empty(), "{name}: {:?}", again.unused);
        assert_eq!(adapter.patches().patches(), again.adapter.patches().patches(), "{name}");
        assert!(bytes(adapter) == bytes(&again.adapter), "{name}: a tensor has other bits");
        let saved: BTreeSet<String> =
            adapter.specs().iter().filter(|spec| spec.saved).map(|spec| spec.name.clone()).collect();
        match in_file(folder.path()) {
            (found, true) => {
                assert_eq!(found, saved, "{name}");
                assert_eq!(adapter.config(), again.adapter.config(), "{name}");
            }
            // By PEFT's names.
            (found, false) => assert_eq!(found.len(), saved.len(), "{name}: {found:?}"),
        }
    });
}

/// Reparametrisations give way to what they compute: the same bits from fewer tensors.
#[test]
fn exported_is_trained() {
    for_every_method(|name, ground, _, adapter| {
        let (model, batch) = (&ground.model, Batch::new(&[sequence(17, 3), sequence(2, 1)]).unwrap());
        let exported = adapter.exported(model).unwrap();
        let trained = logits(model, adapter.patches(), &batch);
        assert_eq!(trained, logits(model, exported.patches(), &batch), "{name}");
        let reparametrised = adapter.config().iter().any(|config| config.get("mlp").is_some_and(|mlp| !mlp.is_null()));
        assert_eq!(reparametrised, bytes(adapter) != bytes(&exported), "{name}");
        assert!(exported.specs().iter().all(|spec| !spec.name.ends_with(".w1")), "{name}: an MLP is left");

        let folder = tempfile::tempdir().unwrap();
        exported.save(folder.path(), "base").unwrap();
        let loaded = Adapter::load(folder.path(), model).unwrap().adapter;
        assert!(bytes(&exported) == bytes(&loaded), "{name}: a tensor has other bits");
        assert_eq!(trained, logits(model, loaded.patches(), &batch), "{name}, loaded");
        assert!(bytes(&exported) == bytes(&exported.exported(model).unwrap()), "{name}: exported twice");
    });
}

/// A checkpoint keeps the MLP, with its tensors; the exported file has one matrix instead.
#[test]
fn a_checkpoint_keeps_the_mlp() {
    for ground in few() {
        for (tag, plain) in [
            ("prompt-tuning", "prompt_tokens"),
            ("prefix-tuning", "backbone.layers.0.mixer.prefix"),
            ("affix-tuning", "backbone.layers.0.mixer.affix"),
        ] {
            let subject = Subject::new(vec![json!({"method": tag, "tokens": 3, "mlp": 4})]);
            let adapter = subject.random(&ground.model);
            let [checkpoint, export] = [(); 2].map(|()| tempfile::tempdir().unwrap());
            adapter.save(checkpoint.path(), "base").unwrap();
            adapter.exported(&ground.model).unwrap().save(export.path(), "base").unwrap();
            let (kept, _) = in_file(checkpoint.path());
            for part in ["input", "w1", "b1", "w2", "b2"] {
                assert!(kept.contains(&format!("{plain}.{part}")), "{tag}: {kept:?}");
            }
            let (exported, own) = in_file(export.path());
            // A prompt is written as PEFT writes it.
            let named = if own { plain } else { "prompt_embeddings" };
            assert!(exported.contains(named) && kept.len() == 5 * exported.len(), "{tag}: {exported:?}");
        }
    }
}

/// What is missing, too much, of another shape or another model's is refused, and the tensor named.
#[test]
fn tensors_that_do_not_fit_are_refused() {
    let ground = exact(true, false);
    let subject = Subject::new(vec![json!({"method": "state-offset-h"}), json!({"method": "vera", "rank": 2})]);
    let adapter = subject.random(&ground.model);
    let tensors = || -> Vec<_> {
        let saved = adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.saved);
        saved.map(|(tensor, _)| (tensor.name.clone(), tensor.buffer.tensor())).collect()
    };
    let with = |tensors| Adapter::with_tensors(&ground.model, subject.methods(), tensors);
    assert!(bytes(&with(tensors()).unwrap()) == bytes(&adapter));
    let refused = |tensors, name: &str, reason: &str| {
        let error: PeftError = with(tensors).map(drop).unwrap_err();
        assert!(error.to_string().contains(name) && error.to_string().contains(reason), "{error}");
    };
    let first = tensors()[0].0.clone();
    refused(tensors().split_off(1), &first, "lacks this tensor");
    let mut extra = tensors();
    extra.push(("colour".into(), extra[0].1.clone()));
    refused(extra, "colour", "no such tensor");
    let mut flat = tensors();
    flat[0].1 = flat[0].1.reshape(&[flat[0].1.len()]).unwrap();
    refused(flat, &first, "expected [24, 5]");
}
