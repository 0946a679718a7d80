//! Saved = loaded: a random model of a half-precision storage type gives the same bits after a round trip.

use statetune_mamba_model::{Batch, Mamba, Patches};
use statetune_tensor::DType;

use crate::support::{configs, describe, exact_path, paths, tokens, whole};

#[test]
fn a_loaded_model_has_the_same_bits() {
    for path in paths() {
        for config in configs() {
            for storage in [DType::Bf16, DType::F16, DType::F32] {
                let at = format!("{}, stored in {storage}", describe(&config, &path));
                let model = Mamba::random(&config, &path.device, path.compute, storage, 8).unwrap();
                let folder = tempfile::tempdir().unwrap();
                model.save(folder.path(), &[]).unwrap();
                let loaded = Mamba::load(folder.path(), &path.device, path.compute).unwrap();
                assert_eq!(loaded.size(), model.size(), "{at}");
                for (found, expected) in loaded.parameters().iter().zip(model.parameters()) {
                    let of = |p: &statetune_mamba_model::Parameter| {
                        (p.name.clone(), p.stored, p.value.dtype(), p.value.shape().to_vec(), p.value.to_le_bytes())
                    };
                    assert_eq!(of(found), of(expected), "{at}, {}", expected.name);
                    assert_eq!(found.stored, storage, "{at}, {}", expected.name);
                }
                let batch = Batch::new(&[tokens(40, 1), tokens(1, 1)]).unwrap();
                let bits = |model: &Mamba| {
                    let (logits, _) = whole(model, &Patches::none(), &batch, None);
                    logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                };
                assert_eq!(bits(&loaded), bits(&model), "{at}");
            }
        }
    }
}

/// Half-precision weights are what is computed with: the model in f64 agrees with the same file in f32.
#[test]
fn a_file_computes_the_same_in_every_path() {
    for config in configs() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths();
        let model = Mamba::random(&config, &paths[0].device, DType::F32, DType::Bf16, 8).unwrap();
        model.save(folder.path(), &[]).unwrap();
        let batch = Batch::new(&[tokens(40, 1), tokens(1, 1)]).unwrap();
        let logits = |i: usize| {
            let model = Mamba::load(folder.path(), &paths[i].device, paths[i].compute).unwrap();
            whole(&model, &Patches::none(), &batch, None).0
        };
        let expected = logits(0);
        for (i, path) in paths.iter().enumerate().skip(1) {
            crate::support::close(&describe(&config, path), &logits(i), &expected, path.tolerance);
        }
    }
}

/// A refused compute type, not a wrong model.
#[test]
fn storage_types_are_not_computed_in() {
    let path = &exact_path();
    let config = &configs()[0];
    let folder = tempfile::tempdir().unwrap();
    Mamba::random(config, &path.device, DType::F32, DType::Bf16, 8).unwrap().save(folder.path(), &[]).unwrap();
    for compute in [DType::Bf16, DType::F16] {
        for result in [
            Mamba::load(folder.path(), &path.device, compute),
            Mamba::random(config, &path.device, compute, DType::Bf16, 8),
        ] {
            let error = result.map(drop).unwrap_err().to_string();
            assert!(error.contains("storage type"), "{error}");
        }
    }
}
