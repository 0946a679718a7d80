//! Damaged, hostile and unfitting model folders: each is refused with a message that names the cause, and none panics.

mod checkpoint_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use checkpoint_support::{
    View, dict, original_model, save, small_config, small_model, small_tensors, tensor, text, zip,
};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use statetune_mamba_model::ModelError;
use statetune_mamba_model::checkpoint::{Checkpoint, EMBEDDING, LM_HEAD, TensorToSave};
use statetune_mamba_model::config::MambaConfig;

/// Opens and checks a folder, and reads every byte of it.
fn load(folder: &Path) -> Result<Checkpoint, ModelError> {
    let checkpoint = Checkpoint::open(folder)?;
    checkpoint.validate()?;
    Ok(checkpoint)
}

fn refusal(folder: &Path) -> (ModelError, String) {
    let error = load(folder).expect_err("this folder must be refused");
    let message = error.to_string();
    (error, message)
}

#[track_caller]
fn assert_refused(folder: &Path, named: &[&str]) -> ModelError {
    let (error, message) = refusal(folder);
    assert!(named.iter().all(|part| message.contains(part)), "{message}");
    error
}

/// Overwrites the weights of the small model by these, unchecked.
fn write_weights(path: &Path, tensors: &[TensorToSave]) {
    let views: BTreeMap<&str, TensorView> = tensors
        .iter()
        .map(|t| (t.name.as_str(), TensorView::new(Dtype::F32, t.shape.clone(), &t.bytes).unwrap()))
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn with_weights(change: impl Fn(&mut Vec<TensorToSave<'static>>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = small_model(folder.path());
    change(&mut tensors);
    write_weights(&folder.path().join("model.safetensors"), &tensors);
    folder
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_named() {
    let folder = with_weights(|tensors| drop(tensors.remove(4)));
    let error = assert_refused(folder.path(), &["lacks 1 of the tensors", "backbone.layers.0.mixer.conv1d.weight"]);
    assert!(matches!(error, ModelError::MissingTensors { .. }));

    let folder = with_weights(|tensors| {
        let mut extra = tensors[4].clone();
        extra.name = "backbone.layers.0.mixer.q_proj.weight".into();
        tensors.push(extra);
    });
    let error = assert_refused(folder.path(), &["no place", "backbone.layers.0.mixer.q_proj.weight"]);
    assert!(matches!(error, ModelError::UnexpectedTensors { .. }));

    let folder = with_weights(|tensors| tensors[2].shape.reverse());
    let error = assert_refused(folder.path(), &["in_proj.weight", "[4, 16]", "[16, 4]", "model.safetensors"]);
    assert!(matches!(error, ModelError::WrongShape { .. }));

    let folder = with_weights(|tensors| tensors[4].bytes.to_mut()[8..12].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert_refused(folder.path(), &["backbone.layers.0.mixer.conv1d.weight", "NaN", "element 2", "model.safetensors"]);
}

#[test]
fn a_redundant_head_must_be_the_embedding() {
    let head = |tensors: &mut Vec<TensorToSave<'static>>| {
        let mut head = tensors.iter().find(|t| t.name == EMBEDDING).unwrap().clone();
        head.name = LM_HEAD.into();
        tensors.push(head);
    };
    load(with_weights(head).path()).unwrap();
    let folder = with_weights(|tensors| {
        head(tensors);
        tensors.last_mut().unwrap().bytes.to_mut()[5 * 4] ^= 1;
    });
    assert_refused(folder.path(), &["tie_word_embeddings = true", "lm_head.weight", "element 5"]);
    let folder = with_weights(|tensors| {
        head(tensors);
        tensors.last_mut().unwrap().shape = vec![4, 13];
    });
    assert_refused(folder.path(), &["lm_head.weight", "[4, 13]", "[13, 4]"]);
}

#[test]
fn shards_must_be_complete_and_disjoint() {
    let sharded = || {
        let folder = tempfile::tempdir().unwrap();
        let tensors = small_tensors(&small_config());
        save(folder.path(), &small_config(), &tensors, 2000).unwrap();
        load(folder.path()).unwrap();
        (folder, tensors)
    };
    let shard = |folder: &Path, number: usize| {
        let mut shards: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        shards.retain(|path| path.to_str().unwrap().contains("-of-"));
        shards.sort();
        shards[number].clone()
    };
    let index = |folder: &Path| folder.join("model.safetensors.index.json");

    let (folder, _) = sharded();
    std::fs::remove_file(shard(folder.path(), 1)).unwrap();
    assert_refused(folder.path(), &["model-00002-of-", "not in the folder", "index.json"]);

    let (folder, tensors) = sharded();
    write_weights(&shard(folder.path(), 1), &tensors[..1]);
    assert_refused(folder.path(), &[EMBEDDING, "twice", "model-00001-of-", "model-00002-of-"]);

    let (folder, _) = sharded();
    write_weights(&shard(folder.path(), 1), &[]);
    assert_refused(folder.path(), &["says that tensor", "model-00002-of-", "lacks it"]);

    let (folder, _) = sharded();
    for (text, named) in [
        ("{}", "weight_map"),
        ("{\"weight_map\": ", "EOF"),
        ("{\"weight_map\": {\"a\": \"../x.safetensors\"}}", "../x.safetensors"),
        ("{\"weight_map\": {\"a\": \"\"}}", "no name of a file"),
        ("{\"weight_map\": {\"a\": 1}}", "no name of a file"),
        ("{\"weight_map\": {}}", "lacks"),
    ] {
        std::fs::write(index(folder.path()), text).unwrap();
        assert_refused(folder.path(), &[named]);
    }
}

#[test]
fn missing_and_foreign_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(folder.path(), &["cannot read", "config.json"]);
    small_model(folder.path());
    let weights = folder.path().join("model.safetensors");
    std::fs::remove_file(&weights).unwrap();
    assert_refused(folder.path(), &["holds no weights", "model.safetensors", "pytorch_model.bin"]);
    std::fs::write(&weights, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    assert_refused(folder.path(), &["git lfs pull"]);
    std::fs::write(&weights, "").unwrap();
    assert_refused(folder.path(), &["model.safetensors", "0 bytes"]);
    std::fs::remove_file(&weights).unwrap();
    std::fs::create_dir(&weights).unwrap();
    assert_refused(folder.path(), &["model.safetensors", "not a regular file"]);
    std::fs::remove_dir(&weights).unwrap();
    let view = TensorView::new(Dtype::I64, vec![1], &[0; 8]).unwrap();
    safetensors::serialize_to_file([("backbone.norm_f.weight", view)], None, &weights).unwrap();
    assert_refused(folder.path(), &["backbone.norm_f.weight", "I64", "BF16"]);
}

/// Every length through the headers, and some of the rest.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..len).filter(move |at| *at < 6000 || at % 89 == 0 || len - at < 2000)
}

#[test]
fn truncated_weights_are_refused_at_every_length() {
    for name in ["model.safetensors", "pytorch_model.bin"] {
        let folder = tempfile::tempdir().unwrap();
        if name == "model.safetensors" {
            small_model(folder.path())
        } else {
            original_model(folder.path(), false)
        };
        let whole = std::fs::read(folder.path().join(name)).unwrap();
        load(folder.path()).unwrap();
        for len in cuts(whole.len()) {
            std::fs::write(folder.path().join(name), &whole[..len]).unwrap();
            let (error, message) = refusal(folder.path());
            assert!(matches!(error, ModelError::DamagedFile { .. }), "{name} cut to {len}: {message}");
            assert!(message.contains(name), "{message}");
        }
    }
}

/// A folder whose `pytorch_model.bin` has this pickle and one storage of eight floats, `data/0`.
fn with_pickle(pickle: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"d_model": 4, "n_layer": 1}"#).unwrap();
    let storage: Vec<u8> = (0..8u8).flat_map(|x| f32::from(x).to_le_bytes()).collect();
    let file = zip(&[("m/data.pkl", pickle), ("m/data/0", &storage)], false, 0);
    std::fs::write(folder.path().join("pytorch_model.bin"), file).unwrap();
    folder
}

fn view<'a>(shape: &'a [i32], strides: &'a [i32], offset: i32) -> View<'a> {
    View { name: "w", class: "FloatStorage", key: "0", len: 8, offset, shape, strides }
}

fn opened(view: &View) -> Result<Vec<f32>, ModelError> {
    let checkpoint = Checkpoint::open(with_pickle(&dict(&[text(view.name), tensor(view)])).path())?;
    let found = checkpoint.tensor(view.name)?;
    assert_eq!(found.shape(), view.shape.iter().map(|&size| size as usize).collect::<Vec<_>>());
    found.to_f32()
}

#[test]
fn torch_views_are_read_where_they_lie() {
    assert_eq!(opened(&view(&[2, 4], &[4, 1], 0)).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(opened(&view(&[3], &[1], 5)).unwrap(), [5.0, 6.0, 7.0]);
    assert_eq!(opened(&view(&[], &[], 2)).unwrap(), [2.0]);
    assert_eq!(opened(&view(&[0, 4], &[4, 1], 0)).unwrap(), [0.0; 0]);
    // Transposed, and every other element from the second on.
    assert_eq!(opened(&view(&[4, 2], &[1, 4], 0)).unwrap(), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    assert_eq!(opened(&view(&[2, 1, 2], &[4, 99, 2], 1)).unwrap(), [1.0, 3.0, 5.0, 7.0]);
    for (shape, strides, offset) in [
        (&[9][..], &[1][..], 0),
        (&[4], &[1], 5),
        (&[2, 4], &[5, 1], 0),
        (&[1], &[1], -1),
        (&[-1], &[1], 0),
        (&[i32::MAX, i32::MAX, i32::MAX, i32::MAX], &[1, 1, 1, 1], 0),
    ] {
        let error = opened(&view(shape, strides, offset)).unwrap_err();
        assert!(matches!(error, ModelError::DamagedFile { .. }), "{error}");
    }
    let expanded = opened(&view(&[100_000, 8], &[0, 1], 0)).unwrap_err();
    assert!(expanded.to_string().contains("`w` is an expanded view"), "{expanded}");
    let missing = opened(&View { key: "1", ..view(&[8], &[1], 0) }).unwrap_err();
    assert!(missing.to_string().contains("data/1"), "{missing}");
    let short = opened(&View { class: "DoubleStorage", ..view(&[8], &[1], 0) }).unwrap_err();
    assert!(short.to_string().contains("32 bytes, too few for 8"), "{short}");
    let integers = opened(&View { class: "LongStorage", ..view(&[8], &[1], 0) }).unwrap_err();
    assert!(matches!(&integers, ModelError::UnsupportedDtype { found, .. } if found == "int64"), "{integers}");
}

#[test]
fn the_original_layout_is_read_with_and_without_zip64() {
    for zip64 in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let tensors = original_model(folder.path(), zip64);
        let checkpoint = load(folder.path()).unwrap();
        for saved in &tensors {
            assert_eq!(checkpoint.tensor(&saved.name).unwrap().bytes(), &*saved.bytes);
        }
        let (head, embedding) = (checkpoint.tensor(LM_HEAD).unwrap(), checkpoint.tensor(EMBEDDING).unwrap());
        assert!(head.shares_storage(embedding));
    }
}

#[test]
fn pickled_code_is_refused_and_not_run() {
    let mark = std::env::temp_dir().join(format!("statetune-pickle-{}", std::process::id()));
    let command = format!("touch {}", mark.display());
    for (module, name) in [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("torch", "load")] {
        let call = |import: Vec<u8>| [import, b"(".to_vec(), text(&command), b"tR".to_vec()].concat();
        let by_line = call(format!("c{module}\n{name}\n").into_bytes());
        let by_stack = call([text(module), text(name), b"\x93".to_vec()].concat());
        for code in [by_line, by_stack] {
            for pickle in [
                dict(&[text("backbone.norm_f.weight"), code.clone()]),
                [b"\x80\x02".to_vec(), code.clone(), b"0".to_vec(), dict(&[])[2..].to_vec()].concat(),
            ] {
                let folder = with_pickle(&pickle);
                let global = format!("`{module}.{name}`");
                let error = assert_refused(folder.path(), &[&global, "nothing was executed", "pytorch_model.bin"]);
                assert!(matches!(error, ModelError::ForbiddenGlobal { .. }));
            }
        }
    }
    assert!(!mark.exists());
}

#[test]
fn pickles_of_other_things_are_refused() {
    let tensor = tensor(&view(&[8], &[1], 0));
    let nested = dict(&[text("state_dict"), b"}".to_vec()]);
    for (pickle, named) in [
        (nested, "`state_dict` is a dict, not a tensor"),
        (b"\x80\x02K\x05.".to_vec(), "an integer, not a dict"),
        (dict(&[b"K\x01".to_vec(), tensor.clone()]), "a key of its dict is an integer"),
        (dict(&[text("w"), tensor.clone(), text("w"), tensor.clone()]), "`w` is there twice"),
        (b"\x80\x09N.".to_vec(), "protocol 9"),
        (b"\x80\x02(i__main__\nx\n.".to_vec(), "opcode 0x69"),
        (b"\x80\x02)\x81.".to_vec(), "opcode 0x81"),
        (b"\x80\x02h\x07.".to_vec(), "memo 7"),
        (b"\x80\x02.".to_vec(), "the stack is empty"),
        (b"\x80\x02t.".to_vec(), "no mark"),
        (b"\x80\x02NQ.".to_vec(), "persistent id"),
        (b"\x80\x02N)R.".to_vec(), "a call of None"),
        (b"\x80\x02\x8a\x09123456789.".to_vec(), "9 bytes"),
    ] {
        assert_refused(with_pickle(&pickle).path(), &[named]);
    }
    // Attributes, as module.state_dict() leaves them on the dict, and parameters with or without some are fine.
    for (rebuild, hooks) in [("_rebuild_parameter", "}"), ("_rebuild_parameter_with_state", "}}")] {
        let import = format!("ctorch._utils\n{rebuild}\n(");
        let rest = format!("K\u{1}{hooks}tR"); // requires_grad, hooks, attributes
        let parameter = [import.into_bytes(), tensor.clone(), rest.into_bytes()].concat();
        let body = dict(&[text("w"), parameter]);
        let with_attributes = [&body[..body.len() - 1], b"}", &text("_metadata"), b"}sb."].concat();
        assert!(Checkpoint::open(with_pickle(&with_attributes).path()).unwrap().contains("w"));
    }
    // Depth costs no stack, neither on the way in nor on the way out.
    let deep = [b"\x80\x02N".to_vec(), vec![0x85; 3_000_000], b".".to_vec()].concat();
    assert_refused(with_pickle(&deep).path(), &["a tuple, not a dict"]);
}

#[test]
fn archives_of_other_forms_are_refused() {
    let pickle = dict(&[]);
    let folder = with_pickle(&pickle);
    let path = folder.path().join("pytorch_model.bin");
    for (bytes, named) in [
        (zip(&[("m/data.pkl", &pickle)], false, 8), "compressed"),
        (zip(&[("m/data.pkl", &pickle), ("m/byteorder", b"big")], false, 0), "big-endian"),
        (zip(&[("a/data.pkl", &pickle), ("b/data.pkl", &pickle)], false, 0), "no data.pkl, or several"),
        (zip(&[("weights.npy", &pickle)], false, 0), "no data.pkl, or several"),
        (zip(&[("m/data.pkl", &pickle), ("m/data.pkl", &pickle)], false, 0), "`m/data.pkl` is there twice"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "torch before 1.6"),
        (b"<html>404</html>".to_vec(), "does not begin as a zip"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert_refused(folder.path(), &["pytorch_model.bin", named]);
    }
}

#[test]
fn a_cut_off_pickle_is_refused_at_every_length() {
    let item = [text("w"), tensor(&view(&[8], &[1], 0))].concat();
    let pickle = dict(&[item]);
    for len in 0..pickle.len() {
        assert!(Checkpoint::open(with_pickle(&pickle[..len]).path()).is_err(), "cut to {len}");
    }
}

type Files = BTreeMap<&'static str, Vec<u8>>;

/// Sound folders in memory, with the file of each that is to be damaged: saving flushes to disk, which takes its time.
fn whole_folders() -> &'static [(&'static str, Files)] {
    static FOLDERS: OnceLock<Vec<(&str, Files)>> = OnceLock::new();
    FOLDERS.get_or_init(|| {
        let read = |folder: &Path, weights: &'static str| -> Files {
            [weights, "config.json"].map(|file| (file, std::fs::read(folder.join(file)).unwrap())).into()
        };
        let root = tempfile::tempdir().unwrap();
        small_model(&root.path().join("one"));
        original_model(&root.path().join("two"), false);
        original_model(&root.path().join("three"), true);
        let one = read(&root.path().join("one"), "model.safetensors");
        vec![
            ("config.json", one.clone()),
            ("model.safetensors", one),
            ("pytorch_model.bin", read(&root.path().join("two"), "pytorch_model.bin")),
            ("pytorch_model.bin", read(&root.path().join("three"), "pytorch_model.bin")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Whatever bytes are changed in whatever file: a checkpoint or an error, never a panic.
    #[test]
    fn changed_bytes_never_panic(
        kind in 0..4usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
    ) {
        let (name, files) = &whole_folders()[kind];
        let folder = tempfile::tempdir().unwrap();
        for (file, bytes) in files {
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        let mut bytes = files[*name].clone();
        for (index, value, in_headers) in changes {
            // Headers and directories are at the ends; the middle is weights.
            let len = bytes.len();
            let at = index.index(if in_headers { len.min(4000) } else { len });
            let at = if in_headers && *name == "pytorch_model.bin" && value % 2 == 0 { len - 1 - at } else { at };
            bytes[at] = value;
        }
        std::fs::write(folder.path().join(name), bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
            let _ = checkpoint.validate();
            for tensor in checkpoint.tensors() {
                prop_assert_eq!(tensor.to_f64().len(), tensor.shape().iter().product::<usize>());
            }
        }
    }

    /// Random programs of allowed opcodes, most of them nonsense.
    #[test]
    fn random_pickles_never_panic(
        opcodes in prop::collection::vec(
            prop::sample::select(b"(012NJKMXGtbQqrhjsuea]})RR\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8d\x93\x94\x95c.".to_vec()),
            0..200,
        ),
        storage in any::<bool>(),
    ) {
        let start = if storage { tensor(&view(&[8], &[1], 0)) } else { Vec::new() };
        let pickle = [b"\x80\x02}".to_vec(), text("w"), start, opcodes, b".".to_vec()].concat();
        let _ = Checkpoint::open(with_pickle(&pickle).path());
    }

    #[test]
    fn random_configurations_never_panic(text in "\\{(\"(d_model|n_layer|model_type|expand|ssm_cfg|vocab_size)\": ?[-0-9a-zA-Z{}\\[\\]\",]{0,8},?){0,4}\\}") {
        let _ = statetune_mamba_model::config::ConfigFile::parse(&text, "config.json");
    }
}

#[test]
fn the_small_models_are_sound() {
    let folder = tempfile::tempdir().unwrap();
    small_model(folder.path());
    let checkpoint = load(folder.path()).unwrap();
    let config = checkpoint.config().mamba().unwrap();
    assert_eq!(config, &MambaConfig { dtype: Some("float32".into()), ..small_config() });
}
