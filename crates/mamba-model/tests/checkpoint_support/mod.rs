//! What the checkpoint tests share: a small model and writers of torch files by hand.
#![allow(dead_code)] // every test binary uses its own part

use std::borrow::Cow;
use std::path::Path;

use statetune_mamba_model::ModelError;
use statetune_mamba_model::checkpoint::{SaveOptions, TensorToSave, expected_tensors, save_hugging_face};
use statetune_mamba_model::config::MambaConfig;
use statetune_tensor::DType;

/// Two layers, every dimension another number. Comes back from its file unchanged but for `dtype`.
pub fn small_config() -> MambaConfig {
    MambaConfig {
        rescale_prenorm_residual: false,
        d_state: 3,
        d_conv: 5,
        dt_rank: 2,
        use_bias: true,
        ..MambaConfig::new(13, 4, 2)
    }
}

/// All tensors of a configuration, each element a number of its own.
pub fn small_tensors(config: &MambaConfig) -> Vec<TensorToSave<'static>> {
    let mut next = 0;
    let mut values = |elements: usize| -> Vec<u8> {
        next += elements;
        (next - elements..next).flat_map(|x| (x as f32 * 0.25 - 7.0).to_le_bytes()).collect()
    };
    expected_tensors(config)
        .into_iter()
        .map(|(name, shape)| {
            let bytes = Cow::Owned(values(shape.iter().product()));
            TensorToSave { name, dtype: DType::F32, shape, bytes }
        })
        .collect()
}

pub fn save(
    folder: &Path,
    config: &MambaConfig,
    tensors: &[TensorToSave],
    max_shard_bytes: usize,
) -> Result<(), ModelError> {
    let options = SaveOptions { max_shard_bytes, companions: Vec::new() };
    save_hugging_face(folder, config, tensors.iter().cloned().map(Ok), &options)
}

/// Writes the small model into `folder` as one file and returns its tensors.
pub fn small_model(folder: &Path) -> Vec<TensorToSave<'static>> {
    let config = small_config();
    let tensors = small_tensors(&config);
    save(folder, &config, &tensors, usize::MAX).unwrap();
    tensors
}

/// A zip archive with these stored entries. With `zip64` every size and offset is in its 64-bit place, as in archives
/// beyond 4 GB; `method` is what the headers claim.
pub fn zip(entries: &[(&str, &[u8])], zip64: bool, method: u16) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = file.len() as u64;
        let size = data.len() as u64;
        let narrow = |value: u64| if zip64 { u32::MAX } else { value as u32 }.to_le_bytes();
        let wide: Vec<u8> = if zip64 {
            let mut extra = [[1, 0], [24, 0]].concat();
            extra.extend([size, size, offset].iter().flat_map(|value| value.to_le_bytes()));
            extra
        } else {
            Vec::new()
        };
        let name_len = (name.len() as u16).to_le_bytes();
        // Shared by both headers: version, flags, method, time, date, CRC, stored size, size, name length.
        let shared =
            [&[45, 0, 0, 0], &method.to_le_bytes()[..], &[0; 8], &narrow(size), &narrow(size), &name_len].concat();
        let padding = [0xfb, 0x0f, 3, 0, b'Z', b'Z', b'Z']; // an unknown extra field, as torch aligns data with
        file.extend(b"PK\x03\x04");
        file.extend(&shared);
        file.extend((padding.len() as u16).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(padding);
        file.extend(*data);
        directory.extend(b"PK\x01\x02\x2d\x00");
        directory.extend(&shared);
        directory.extend((wide.len() as u16).to_le_bytes());
        directory.extend([0; 10]); // comment length, disk, attributes
        directory.extend(narrow(offset));
        directory.extend(name.as_bytes());
        directory.extend(wide);
    }
    let (start, size, count) = (file.len() as u64, directory.len() as u64, entries.len() as u64);
    file.extend(directory);
    if zip64 {
        let record = file.len() as u64;
        file.extend(b"PK\x06\x06");
        file.extend(44u64.to_le_bytes());
        file.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend([count, count, size, start].iter().flat_map(|value| value.to_le_bytes()));
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(record.to_le_bytes());
        file.extend([1, 0, 0, 0]);
    }
    let narrow = |value: u64| if zip64 { u32::MAX } else { value as u32 }.to_le_bytes();
    let count = if zip64 { u16::MAX } else { count as u16 }.to_le_bytes();
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].concat());
    file.extend(narrow(size));
    file.extend(narrow(start));
    file.extend([0, 0]);
    file
}

/// A tensor of a hand-made pickle: a view of the storage `data/<key>`.
pub struct View<'a> {
    pub name: &'a str,
    pub class: &'a str,
    pub key: &'a str,
    pub len: i32,
    pub offset: i32,
    pub shape: &'a [i32],
    pub strides: &'a [i32],
}

/// A text as pickle protocol 2 writes it.
pub fn text(value: &str) -> Vec<u8> {
    [b"X", &(value.len() as u32).to_le_bytes()[..], value.as_bytes()].concat()
}

fn int(value: i32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}

/// The opcodes that leave a tensor on the stack.
pub fn tensor(view: &View) -> Vec<u8> {
    let tuple =
        |values: &[i32]| [b"(", values.iter().flat_map(|v| int(*v)).collect::<Vec<_>>().as_slice(), b"t"].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{}\n", view.class).into_bytes(),
        text(view.key),
        text("cpu"),
        int(view.len),
        b"tQ".to_vec(),
        int(view.offset),
        tuple(view.shape),
        tuple(view.strides),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// A whole pickle: an ordered dict filled with `items`, which are keys and values in turn.
pub fn dict(items: &[Vec<u8>]) -> Vec<u8> {
    [b"\x80\x02ccollections\nOrderedDict\n)Rq\x00(".to_vec(), items.concat(), b"u.".to_vec()].concat()
}

/// The small model in the original layout, its head sharing the embedding's storage. `zip64` as for [`zip`].
pub fn original_model(folder: &Path, zip64: bool) -> Vec<TensorToSave<'static>> {
    let config = MambaConfig { tie_word_embeddings: true, ..small_config() };
    let tensors = small_tensors(&config);
    let (mut items, mut keys) = (Vec::new(), Vec::new());
    for (number, saved) in tensors.iter().enumerate() {
        keys.push(format!("archive/data/{number}"));
        let shape: Vec<i32> = saved.shape.iter().map(|&size| size as i32).collect();
        let strides: Vec<i32> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        let names = match saved.name.as_str() {
            "backbone.embeddings.weight" => vec!["backbone.embedding.weight", "lm_head.weight"],
            name => vec![name],
        };
        for name in names {
            let len = shape.iter().product();
            let (key, shape, strides) = (&number.to_string(), &shape, &strides);
            items.push(text(name));
            items.push(tensor(&View { name, class: "FloatStorage", key, len, offset: 0, shape, strides }));
        }
    }
    let pickle = dict(&items);
    let mut entries: Vec<(&str, &[u8])> = vec![("archive/data.pkl", &pickle), ("archive/byteorder", b"little")];
    entries.extend(keys.iter().zip(&tensors).map(|(key, saved)| (key.as_str(), &*saved.bytes)));
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("pytorch_model.bin"), zip(&entries, zip64, 0)).unwrap();
    let text = r#"{"d_model": 4, "n_layer": 2, "vocab_size": 13, "pad_vocab_size_multiple": 1,
        "ssm_cfg": {"d_state": 3, "d_conv": 5, "dt_rank": 2, "bias": true}}"#;
    std::fs::write(folder.join("config.json"), text).unwrap();
    tensors
}
