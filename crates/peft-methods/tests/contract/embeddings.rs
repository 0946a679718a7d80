//! The two ends of tied embeddings: our own default is both, an imported adapter's the input, `lm_head` the output.

use std::path::Path;

use serde_json::{Value, json};
use statetune_mamba_model::patch::{Change, Ends};
use statetune_mamba_model::{Batch, Mamba, Patches};
use statetune_peft_methods::{Adapter, PeftError};
use statetune_tensor::{DType, Tensor};

use crate::support::{Subject, VOCAB, bytes, close, exact, few, logits, sequence};

fn on(tag: &str, target: &str, input_only: bool) -> Subject {
    Subject::new(vec![json!({"method": tag, "targets": [target], "rank": 2, "input_embedding_only": input_only})])
}

fn ends(adapter: &Adapter) -> Ends {
    match adapter.patches().patches()[0].change {
        Change::LowRank { ends, .. } => ends,
        ref other => panic!("{other:?}"),
    }
}

/// The embedding and the head as merging leaves them; of tied embeddings, twice the same.
fn matrices(model: &Mamba) -> [Vec<f64>; 2] {
    let value = |name: &str| model.parameter(name).map(|parameter| parameter.value.to_f64_vec());
    let embedding = value("backbone.embeddings.weight").unwrap();
    [embedding.clone(), value("lm_head.weight").unwrap_or(embedding)]
}

/// Which end changes is which matrix of the merged model differs; merging a change at one end unties.
#[test]
fn each_target_changes_its_ends() {
    for (tied, target, input_only, expected) in [
        (true, "embeddings", false, Ends::Both),
        (true, "embeddings", true, Ends::Input),
        (true, "lm_head", false, Ends::Output),
        (false, "embeddings", false, Ends::Input),
        (false, "embeddings", true, Ends::Input),
        (false, "lm_head", false, Ends::Output),
    ] {
        let ground = exact(tied, true);
        let before = matrices(&ground.model);
        for tag in ["lora", "dora", "lora-plus", "lora-fa", "vera"] {
            let subject = match tag {
                "vera" if input_only => continue, // has no such option
                "vera" => Subject::new(vec![json!({"method": tag, "targets": [target], "rank": 2})]),
                _ => on(tag, target, input_only),
            };
            let name = format!("{}, tied: {tied}", subject.name);
            let adapter = subject.random(&ground.model);
            assert_eq!(ends(&adapter), expected, "{name}");
            let merged = adapter.merge(&ground.model).unwrap();
            assert_eq!(merged.config().tie_word_embeddings, tied && expected == Ends::Both, "{name}");
            let after = matrices(&merged);
            assert_eq!(before[0] != after[0], expected != Ends::Output, "{name}: the embedding");
            assert_eq!(before[1] != after[1], expected != Ends::Input, "{name}: the head");
            let batch = Batch::new(&[sequence(17, 2)]).unwrap();
            let unmerged = logits(&ground.model, adapter.patches(), &batch);
            close(&name, &unmerged, &logits(&merged, &Patches::none(), &batch), ground.tolerance);
        }
    }
}

/// The lookup alone: tokens that are not in a text have no part in it; the head knows every token.
#[test]
fn the_input_end_is_a_lookup_and_the_output_end_a_product() {
    for ground in few() {
        let batch = Batch::new(&[vec![3, 5, 3, 9]]).unwrap();
        let moved_by = |target: &str, token: usize| {
            let subject = on("lora", target, target == "embeddings");
            let adapter = subject.random(&ground.model);
            let before = logits(&ground.model, adapter.patches(), &batch);
            let b = &adapter.patches().tensors()[1].buffer;
            let mut values = b.tensor().to_f64_vec();
            values[token * 2..token * 2 + 2].fill(0.7);
            b.set(Tensor::from_vec(values, &b.shape()).unwrap().cast(ground.model.compute())).unwrap();
            let after = logits(&ground.model, adapter.patches(), &batch);
            let differs = |at: usize| before[at] != after[at];
            let tokens: Vec<usize> = (0..VOCAB).filter(|token| differs(3 * VOCAB + token)).collect();
            tokens.len()
        };
        assert_eq!(moved_by("embeddings", 11), 0, "{}: a token that is not in the text", ground.label);
        assert!(moved_by("embeddings", 5) > VOCAB / 2, "{}: a token that is", ground.label);
        assert_eq!(moved_by("lm_head", 11), 1, "{}: its own logit", ground.label);
    }
}

/// PEFT has the input side only: what changes both ends is refused with what to do, what changes one is written.
#[test]
fn both_ends_of_tied_embeddings_are_not_exported() {
    let tied = exact(true, false).model;
    for tag in ["lora", "dora"] {
        let folder = tempfile::tempdir().unwrap();
        let error = on(tag, "embeddings", false).random(&tied).save_peft(folder.path(), "base").unwrap_err();
        let PeftError::NotExportable { reason } = &error else { panic!("{error}") };
        assert!(reason.contains("both ends of tied embeddings"), "{reason}");
        assert!(reason.contains("`statetune merge`") && reason.contains("input_embedding_only"), "{reason}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was written");
        // Our own form says it all.
        let both = on(tag, "embeddings", false).random(&tied);
        both.save(folder.path(), "base").unwrap();
        let again = Adapter::load(folder.path(), &tied).unwrap().adapter;
        assert_eq!((ends(&again), bytes(&again)), (Ends::Both, bytes(&both)));
        for (model, target, input_only) in
            [(&tied, "embeddings", true), (&exact(false, false).model, "embeddings", false)]
        {
            let folder = tempfile::tempdir().unwrap();
            let adapter = on(tag, target, input_only).random(model);
            adapter.save_peft(folder.path(), "base").unwrap();
            let loaded = Adapter::load(folder.path(), model).unwrap().adapter;
            assert_eq!((ends(&loaded), bytes(&loaded)), (Ends::Input, bytes(&adapter)), "{tag} {target}");
        }
    }
}

/// A folder as PEFT writes one, with an embedding that is adapted.
fn foreign(folder: &Path, model: &Mamba, ensure_weight_tying: Option<bool>) {
    let adapter = on("lora", "embeddings", true).random(model);
    adapter.save_peft(folder, "base").unwrap();
    let path = folder.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    match ensure_weight_tying {
        Some(tying) => config["ensure_weight_tying"] = tying.into(),
        None => drop(config.as_object_mut().unwrap().remove("ensure_weight_tying")),
    }
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn an_imported_adapter_is_for_the_input_unless_it_says_otherwise() {
    let ground = exact(true, false);
    let batch = Batch::new(&[sequence(17, 2)]).unwrap();
    for (tying, expected) in [(None, Ends::Input), (Some(false), Ends::Input), (Some(true), Ends::Both)] {
        let folder = tempfile::tempdir().unwrap();
        foreign(folder.path(), &ground.model, tying);
        let loaded = Adapter::load(folder.path(), &ground.model).unwrap();
        assert!(loaded.unused.is_empty(), "{:?}", loaded.unused);
        assert_eq!(ends(&loaded.adapter), expected, "{tying:?}");
        let merged = loaded.adapter.merge(&ground.model).unwrap();
        assert_eq!(merged.config().tie_word_embeddings, expected == Ends::Both, "{tying:?}");
        let unmerged = logits(&ground.model, loaded.adapter.patches(), &batch);
        close("merged", &unmerged, &logits(&merged, &Patches::none(), &batch), ground.tolerance);
        // Its own head is written, and read again.
        let saved = tempfile::tempdir().unwrap();
        merged.save(saved.path(), &[]).unwrap();
        let again = Mamba::load(saved.path(), merged.device(), DType::F64).unwrap();
        assert_eq!(again.config().tie_word_embeddings, expected == Ends::Both);
        assert_eq!(again.parameter("lm_head.weight").is_some(), expected == Ends::Input);
        close("on disk", &unmerged, &logits(&again, &Patches::none(), &batch), 1e-5);
    }
}
