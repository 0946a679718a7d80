//! Frozen tensors of methods: LoRA-FA's A, PiSSA's and OLoRA's start, VeRA's projections, SDT's channels without memory. They
//! have no gradient (`gradients.rs`), cost no gradient work (`work.rs`) and do not move in training (the trainer's tests).

use serde_json::{Value, json};
use statetune_peft_methods::{Adapter, methods};
use statetune_tensor::DType;

use crate::support::{Subject, bytes, entries, exact, few};

/// The frozen tensors of a subject and whether they are in files.
fn frozen(adapter: &Adapter) -> Vec<(&str, bool)> {
    adapter.specs().iter().filter(|spec| !spec.trained).map(|spec| (spec.name.as_str(), spec.saved)).collect()
}

#[test]
fn each_method_freezes_what_its_paper_freezes() {
    let model = exact(true, false).model;
    let mut found = std::collections::BTreeMap::new();
    for subject in entries() {
        let adapter = subject.start(&model);
        let tag = adapter.methods()[0].tag();
        let of_tag: &mut Vec<_> = found.entry(tag).or_default();
        of_tag.extend(frozen(&adapter).into_iter().map(|(name, saved)| (name.to_owned(), saved)));
        for spec in adapter.specs().iter().filter(|spec| !spec.trained) {
            assert!(!spec.decay && spec.rate == 1.0, "{}: `{}` is a constant that learns", subject.name, spec.name);
        }
    }
    found.retain(|_, frozen| !frozen.is_empty());
    // What others freeze, a new method say, their counts tell.
    let all = |tag: &str, ends: &[&str], saved: bool| {
        found[tag].iter().all(|(name, in_file)| ends.iter().any(|end| name.contains(end)) && *in_file == saved)
    };
    assert!(all("lora-fa", &[".lora_A"], true), "{found:?}");
    assert!(
        all("pissa", &[".lora_A0", ".lora_B0"], true) && all("olora", &[".lora_A0", ".lora_B0"], true),
        "{found:?}"
    );
    assert!(all("vera", &["vera_A.", "vera_B."], false), "{found:?}");
}

/// A file of VeRA has two vectors per site; the projections come back to the bit, whatever the run's seed was.
#[test]
fn projections_are_made_again_from_their_own_seed() {
    let config = |seed: u64| json!({"method": "vera", "rank": 5, "projection_seed": seed});
    for ground in few() {
        let of = |config: Value, run_seed: u64| {
            Adapter::new(&ground.model, vec![methods::parse_value(config).unwrap()], run_seed).unwrap()
        };
        let projections = |adapter: &Adapter| -> Vec<Vec<u8>> {
            let shared = adapter.specs().iter().zip(bytes(adapter)).filter(|(spec, _)| !spec.saved);
            shared.map(|(_, (_, bytes))| bytes).collect()
        };
        let first = projections(&of(config(7), 1));
        // x_proj [.., 24] and out_proj [12, 24] share A; each has a B. Two layers share all.
        assert_eq!(first.len(), 3);
        assert!(first == projections(&of(config(7), 2)), "the run's seed changes a projection");
        assert!(first != projections(&of(config(8), 1)), "its own seed does not change the projections");
        let folder = tempfile::tempdir().unwrap();
        of(config(7), 9).save(folder.path(), "base").unwrap();
        let loaded = Adapter::load(folder.path(), &ground.model).unwrap().adapter;
        assert!(first == projections(&loaded), "loaded");
        let numbers = std::fs::metadata(folder.path().join("adapter_model.safetensors")).unwrap().len();
        let trained = of(config(7), 1).trainable() as u64 * ground.model.compute().bytes() as u64;
        assert!(numbers < trained + 2000, "{numbers} bytes for {trained} of trained numbers");
    }
}

/// Drawn in single precision, so that the exact path is about the same model as the fast one.
#[test]
fn random_starts_are_the_same_numbers_in_both_precisions() {
    let exact = exact(true, true);
    let fast = few().into_iter().find(|ground| ground.model.compute() != DType::F64).expect("a fast path");
    for subject in entries() {
        let (wide, narrow) = (subject.start(&exact.model), subject.start(&fast.model));
        for ((wide, narrow), spec) in wide.patches().tensors().iter().zip(narrow.patches().tensors()).zip(wide.specs())
        {
            let (wide, narrow) = (wide.buffer.tensor().to_f64_vec(), narrow.buffer.tensor().to_f64_vec());
            let same = wide.iter().zip(&narrow).all(|(w, n)| (w - n).abs() <= 1e-6 * (1.0 + w.abs()));
            assert!(same, "{}: `{}`", subject.name, spec.name);
        }
    }
}

/// The channels that SDT takes the memory from: constants that bring `A_log` to 10, saved with the selection.
#[test]
fn channels_without_memory_are_constants() {
    let ground = exact(true, false);
    let layer = |zero: &[u32]| json!({"channels": [1, 4], "states": [[0, 2], [3]], "zero": zero});
    let config =
        json!({"method": "sdt", "channels": 0.5, "zero_channels": 0.1, "selection": [layer(&[0, 9]), layer(&[])]});
    let adapter = Subject::new(vec![config]).random(&ground.model);
    assert_eq!(frozen(&adapter), [("backbone.layers.0.mixer.A_log.sdt_zero", true)]);
    let fresh = Subject::new(adapter.config()).start(&ground.model);
    let merged = fresh.merge(&ground.model).unwrap();
    let a_log = |layer: usize| {
        let name = format!("backbone.layers.{layer}.mixer.A_log");
        [&merged, &ground.model].map(|model| model.parameter(&name).unwrap().value.to_f64_vec())
    };
    let [found, base] = a_log(0);
    for (i, (found, base)) in found.iter().zip(base).enumerate() {
        let zero = [0, 9].contains(&(i / 5));
        assert!((found - if zero { 10.0 } else { base }).abs() < 1e-12, "entry {i}: {found} from {base}");
    }
    let [found, base] = a_log(1);
    assert_eq!(found, base);
}
