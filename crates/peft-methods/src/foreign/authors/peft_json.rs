//! From a `peft_type` of the authors to configurations of our methods, with a sentence for what has no effect.

use std::path::Path;

use serde_json::{Map, Value, json};
use statetune_mamba_model::checkpoint::expected_tensors;
use statetune_mamba_model::config::MambaConfig;

use super::keys::Keys;
use super::names::{stored_names, target};
use crate::PeftError;
use crate::foreign::Configs;

/// The kinds that are the authors' own; `LORA` is PEFT's.
pub(in crate::foreign) const KINDS: [&str; 7] =
    ["SUFFIX_TUNING", "STATE_OFFSET_TUNING", "SSMPEFT", "DIM_EXTEND", "SD_LORA", "BITFIT", "LAYER_FREEZE"];

/// What the reparametrising networks of states are called in refusals.
const NO_NETWORK: &str = "states made by a network are not there";

/// The dropout of the LoRA that comes beside other kinds: a constant in the authors' code.
const LORA_DROPOUT: f64 = 0.1;

/// The methods that a configuration of the authors describes, and the sentences.
pub(in crate::foreign) fn configs(
    path: &Path,
    kind: &str,
    config: &Map<String, Value>,
    model: &MambaConfig,
) -> Result<Configs, PeftError> {
    let keys = Keys::new(path, kind, config);
    let mut notes = Vec::new();
    let methods = match kind {
        "SUFFIX_TUNING" => suffix_tuning(&keys, model, &mut notes),
        "STATE_OFFSET_TUNING" => state_offset_tuning(&keys, model, &mut notes),
        "SSMPEFT" => ssm_peft(&keys, &mut notes),
        "DIM_EXTEND" => dim_extend(&keys),
        "SD_LORA" => sd_lora(&keys, model, &mut notes),
        "BITFIT" => bitfit(&keys, model),
        _ => layer_freeze(&keys, model, &mut notes),
    }?;
    keys.rest(&mut notes);
    Ok((methods, notes))
}

/// A method's table from `json!`.
fn table(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("a table, not {other}"),
    }
}

/// State-offset Tuning as it was published first: h' or y', by `bias_type`.
fn suffix_tuning(
    keys: &Keys,
    model: &MambaConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<Map<String, Value>>, PeftError> {
    let kind = keys.word("bias_type", &["SILU_Z_C", "SILU_Z"])?;
    let kind = kind.ok_or_else(|| keys.wrong("bias_type", "\"SILU_Z_C\" or \"SILU_Z\""))?;
    keys.idle(&["dropout", "C_scale_shape", "C_bias_shape"], notes);
    let random = keys.word("bias_init", &["ZERO", "RANDOM"])? == Some("RANDOM");
    offset(keys, kind == "SILU_Z_C", ("bias_type", "bias_init"), random, model, notes)
}

/// The same method in the code of SSM-PEFT.
fn state_offset_tuning(
    keys: &Keys,
    model: &MambaConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<Map<String, Value>>, PeftError> {
    let kind = keys.word("tuning_mode", &["STATE_OFFSET_TUNING", "OUTPUT_TUNING"])?;
    let kind = kind.ok_or_else(|| keys.wrong("tuning_mode", "\"STATE_OFFSET_TUNING\" or \"OUTPUT_TUNING\""))?;
    if keys.asks("dropout") {
        let why = match keys.get("r") {
            Some(_) => "drops columns of A in the authors' code; here nothing is dropped",
            None => "has no effect without `r` in the authors' code, and none here",
        };
        notes.push(format!("{} {why}", keys.name("dropout")));
    }
    let random = keys.word("init", &["zero", "random"])? == Some("random");
    offset(keys, kind == "STATE_OFFSET_TUNING", ("tuning_mode", "init"), random, model, notes)
}

/// The offset on h or y. `names` are what the kind and the start are called there.
fn offset(
    keys: &Keys,
    on_h: bool,
    names: (&str, &str),
    random: bool,
    model: &MambaConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<Map<String, Value>>, PeftError> {
    let (rank, ratio) = (keys.count("r")?, keys.count("r_ratio")?);
    let mut methods = match (on_h, rank) {
        (true, Some(rank)) => {
            let ratio = ratio.unwrap_or(1);
            vec![table(json!({"method": "state-offset-h", "rank": rank, "rank_ratio": ratio}))]
        }
        (true, None) => vec![table(json!({"method": "state-offset-h"}))],
        (false, None) => vec![table(json!({"method": "state-offset-y"}))],
        (false, Some(_)) => return Err(keys.unsupported(names.0, "an offset on y is a vector and has no rank `r`")),
    };
    if rank.is_none() && ratio.is_some() {
        notes.push(format!("{} has no effect without `r`, there as here", keys.name("r_ratio")));
    }
    if random {
        notes.push(match rank {
            Some(_) => format!("{} has no effect with `r` in the authors' code, and none here", keys.name(names.1)),
            None => format!("{}: the offset starts at random there, at zero here", keys.name(names.1)),
        });
    }
    methods.extend(finetuned(keys, model, notes)?);
    Ok(methods)
}

/// Trained initial states of scan and convolution, transforms of the readout, the previous state.
fn ssm_peft(keys: &Keys, notes: &mut Vec<String>) -> Result<Vec<Map<String, Value>>, PeftError> {
    keys.refuse(&["conv_init_state_mlp_hidden_dim"], NO_NETWORK)?;
    let mut methods = Vec::new();
    let random = |keys: &Keys, key: &str| {
        format!("{}: the tensors start at random there, here so that the model is unchanged", keys.name(key))
    };
    // The one key has two names in the two codes.
    let scan = match keys.table("scan_state")? {
        Some(scan) => Some(scan),
        None => keys.table("scan")?,
    };
    if let Some(scan) = &scan {
        scan.word("type", &["init_state"])?.ok_or_else(|| scan.wrong("type", "\"init_state\""))?;
        scan.refuse(&["hidden_dim"], NO_NETWORK)?;
        if scan.word("init", &["zero", "random"])? != Some("zero") {
            notes.push(random(scan, "init"));
        }
        scan.rest(notes);
        methods.push(table(json!({"method": "initial-state"})));
    }
    if keys.flag("conv_init_state")? {
        if keys.word("conv_init_state_init", &["zero", "random"])? == Some("random") {
            notes.push(random(keys, "conv_init_state_init"));
        }
        methods.push(table(json!({"method": "conv-initial-state"})));
    } else {
        // The default is there in configurations that were written by a program.
        keys.get("conv_init_state_init");
    }
    if let Some(readout) = keys.table("state_to_y")? {
        let kind = readout.word("type", &["transform", "prev_state"])?;
        if kind.ok_or_else(|| readout.wrong("type", "\"transform\" or \"prev_state\""))? == "transform" {
            let mut method = table(json!({"method": "state-to-output"}));
            for key in ["scale", "bias", "scale_C", "bias_C"] {
                method.insert(key.into(), readout.flag(key)?.into());
            }
            if readout.word("init", &["zero", "random"])? == Some("random") {
                notes.push(random(&readout, "init"));
            }
            methods.push(method);
        } else {
            let zeros = readout.word("init", &["random", "zero"])? == Some("zero");
            let init = if zeros { "zeros" } else { "kaiming" };
            methods.push(table(json!({"method": "previous-state", "init": init})));
            if scan.is_some() {
                let name = readout.name("type");
                notes.push(format!("{name} = \"prev_state\": before the first token it is zero there, h_0 here"));
            }
        }
        readout.rest(notes);
    }
    methods.extend(projection_lora(keys, &["out_proj"])?);
    if methods.is_empty() {
        return Err(keys.wrong("scan_state", "there, or `state_to_y`, or `conv_init_state` = true: nothing is trained"));
    }
    // Written out by a program they are what follows from the other keys.
    let derived = ["mixer", "selective_scan_fn", "conv1d", "out_proj"];
    if keys.names("target_modules")?.iter().any(|name| !derived.contains(name)) {
        return Err(keys.unsupported("target_modules", "it follows from the other keys"));
    }
    Ok(methods)
}

/// More state dimensions.
fn dim_extend(keys: &Keys) -> Result<Vec<Map<String, Value>>, PeftError> {
    keys.refuse(&["hidden_dim", "hidden_dim_BC"], NO_NETWORK)?;
    let states = keys.count("d_state")?.ok_or_else(|| keys.wrong("d_state", "a whole number above 0"))?;
    // There A_log of the new dimensions starts at N instead of ln N.
    let mut methods = vec![table(json!({"method": "additional-scan", "states": states, "init": "released"}))];
    methods.extend(projection_lora(keys, &["out_proj"])?);
    Ok(methods)
}

/// The LoRA (or DoRA) that `proj_lora_r` puts beside another kind: alpha is the rank.
fn projection_lora(keys: &Keys, targets: &[&str]) -> Result<Option<Map<String, Value>>, PeftError> {
    let (rank, dora) = (keys.count("proj_lora_r")?, keys.flag("use_dora")?);
    Ok(rank.map(|rank| {
        let targets: Vec<String> = targets.iter().map(|name| target(name)).collect();
        let method = if dora { "dora" } else { "lora" };
        let alpha = rank as f64;
        table(json!({"method": method, "targets": targets, "rank": rank, "alpha": alpha, "dropout": LORA_DROPOUT}))
    }))
}

/// Sparse dimension tuning with LoRA on the projections.
fn sd_lora(keys: &Keys, model: &MambaConfig, notes: &mut Vec<String>) -> Result<Vec<Map<String, Value>>, PeftError> {
    for (key, only) in [("select_mode", "CHANNELS_PER_STATE_CHANNELS"), ("proj_select_mode", "CHANNELS_ALL_STATES")] {
        keys.word(key, &[only])?;
    }
    keys.idle(&["reg_scale"], notes);
    keys.refuse(&["sdlora_alpha"], "updates are not scaled here")?;

    let targets = keys.names("target_modules")?;
    let sparse = ["A_log", "x_proj_B", "x_proj_C"];
    let projections = ["in_proj_x", "in_proj_z", "out_proj"];
    let has = |name: &str| targets.iter().any(|target| target.trim_end_matches("_adapter") == name);
    let known = |name: &&str| {
        let name = name.trim_end_matches("_adapter");
        sparse.contains(&name) || projections.contains(&name)
    };
    if !sparse.iter().all(|name| has(name)) || !targets.iter().all(known) {
        let why = "A_log, x_proj_B and x_proj_C belong together; beside them only in_proj_x, in_proj_z, out_proj";
        return Err(keys.unsupported("target_modules", why));
    }
    let projections: Vec<&str> = projections.into_iter().filter(|name| has(name)).collect();
    let lora = projection_lora(keys, &projections)?;
    if lora.is_none() && !projections.is_empty() {
        return Err(keys.unsupported("target_modules", "projections need a `proj_lora_r`"));
    }

    let freeze =
        keys.table("num_freeze")?.ok_or_else(|| keys.wrong("num_freeze", "a table of `state` and `channel`"))?;
    let zero = keys.table("num_zero")?.ok_or_else(|| keys.wrong("num_zero", "a table of `state` and `channel`"))?;
    let (states, channels) = (share(&freeze, "state", model.d_state)?, share(&freeze, "channel", model.d_inner)?);
    let (zero_states, zero_channels) = (share(&zero, "state", model.d_state)?, share(&zero, "channel", model.d_inner)?);
    // States set to zero are not: they only are no longer trained.
    let states = match zero_states {
        0.0 => states,
        zero_states => {
            notes
                .push(format!("{}: in the authors' code as here such states are frozen, not zero", zero.name("state")));
            let count = |fraction: f64| (fraction * model.d_state as f64).round_ties_even();
            (count(states) + count(zero_states)) / model.d_state as f64
        }
    };
    freeze.rest(notes);
    zero.rest(notes);
    let last = keys.get("num_warmup_it").and_then(Value::as_u64);
    let last = last.ok_or_else(|| keys.wrong("num_warmup_it", "a whole number, at least 0"))?;
    // There the counter starts at 0 and the warm-up goes on as long as it is at most this.
    let mut methods = vec![table(json!({"method": "sdt", "channels": channels, "states": states,
        "zero_channels": zero_channels, "warmup_steps": last + 1}))];
    methods.extend(lora);
    methods.extend(finetuned(keys, model, notes)?);
    Ok(methods)
}

/// A fraction of a dimension: a float is one, a whole number counts.
fn share(keys: &Keys, key: &str, size: usize) -> Result<f64, PeftError> {
    let expected = format!("a fraction from 0.0 to 1.0, or a whole number up to {size}");
    let value = keys.get(key).ok_or_else(|| keys.wrong(key, &expected))?;
    let fraction = match (value.as_u64(), value.as_f64()) {
        (Some(count), _) => count as f64 / size as f64,
        (None, Some(fraction)) => fraction,
        (None, None) => return Err(keys.wrong(key, &expected)),
    };
    if (0.0..=1.0).contains(&fraction) { Ok(fraction) } else { Err(keys.wrong(key, &expected)) }
}

/// Biases: those that are stored, and new ones where a target has none.
fn bitfit(keys: &Keys, model: &MambaConfig) -> Result<Vec<Map<String, Value>>, PeftError> {
    let targets: Vec<String> = keys.names("target_modules")?.into_iter().map(target).collect();
    if targets.is_empty() {
        return Err(keys.wrong("target_modules", "a list of names"));
    }
    let stored = expected_tensors(model);
    let without = |target: &String| !stored.iter().any(|(name, _)| name.ends_with(&format!(".{target}.bias")));
    let mut method = table(json!({"method": "bitfit", "targets": targets}));
    if targets.iter().any(without) {
        method.insert("add_missing".into(), true.into());
    }
    Ok(vec![method])
}

/// Stored tensors whose names contain one of the given words.
fn layer_freeze(
    keys: &Keys,
    model: &MambaConfig,
    notes: &mut Vec<String>,
) -> Result<Vec<Map<String, Value>>, PeftError> {
    let words = keys.names("trainable_layers")?;
    let method = partial(keys, "trainable_layers", &words, model, notes, |name, word| name.contains(word))?;
    Ok(vec![method.ok_or_else(|| keys.wrong("trainable_layers", "a list of words that tensors' names contain"))?])
}

/// Stored tensors that are trained beside another method.
fn finetuned(
    keys: &Keys,
    model: &MambaConfig,
    notes: &mut Vec<String>,
) -> Result<Option<Map<String, Value>>, PeftError> {
    let ends = keys.names("finetune_parameters")?;
    partial(keys, "finetune_parameters", &ends, model, notes, |name, end| name.ends_with(&format!(".{end}")))
}

/// The method `partial` for the stored tensors that some words name, if they name any. What names a part of a tensor
/// only is refused.
fn partial(
    keys: &Keys,
    key: &str,
    words: &[&str],
    model: &MambaConfig,
    notes: &mut Vec<String>,
    names: impl Fn(&str, &str) -> bool,
) -> Result<Option<Map<String, Value>>, PeftError> {
    let stored = expected_tensors(model).into_iter().map(|(name, _)| {
        let theirs = stored_names(&name);
        (name, theirs)
    });
    let stored: Vec<(String, Vec<String>)> = stored.collect();
    let all = || stored.iter().flat_map(|(_, theirs)| theirs);
    for word in words.iter().filter(|word| !all().any(|name| names(name, word))) {
        notes.push(format!("\"{word}\" in {} names no tensor of this model", keys.name(key)));
    }
    let is_named = |name: &String| words.iter().any(|word| names(name, word));
    let mut chosen: Vec<String> = Vec::new();
    for (name, theirs) in &stored {
        if theirs.iter().all(is_named) {
            chosen.push(name.clone());
        } else if theirs.iter().any(is_named) {
            return Err(keys.unsupported(key, &format!("it names a part of {name}; name all of its parts")));
        }
    }
    if chosen.is_empty() {
        return Ok(None);
    }
    // What is chosen in every layer is written once.
    let mut parameters: Vec<String> = Vec::new();
    for name in &chosen {
        let inner = name.strip_prefix("backbone.layers.").and_then(|rest| rest.split_once('.')).map(|(_, inner)| inner);
        let everywhere = |inner: &&str| {
            let has = |layer: usize| chosen.iter().any(|name| *name == format!("backbone.layers.{layer}.{inner}"));
            (0..model.num_hidden_layers).all(has)
        };
        let parameter = inner.filter(everywhere).unwrap_or(name);
        if !parameters.iter().any(|known| known == parameter) {
            parameters.push(parameter.to_owned());
        }
    }
    Ok(Some(table(json!({"method": "partial", "parameters": parameters}))))
}

/// LoRA's configuration as `read` with PEFT's meaning, without the convolution among the targets, which PEFT does not adapt.
pub(in crate::foreign) fn lora_configs(
    path: &Path,
    config: &Map<String, Value>,
    model: &MambaConfig,
    read: impl Fn(&Map<String, Value>) -> Result<Configs, PeftError>,
) -> Result<Configs, PeftError> {
    const CONVOLUTION: &str = "conv1d";
    let targets = config.get("target_modules").and_then(Value::as_array);
    let Some(targets) = targets.filter(|targets| targets.iter().any(|name| name == CONVOLUTION)) else {
        return read(config);
    };
    let others: Vec<Value> = targets.iter().filter(|name| *name != CONVOLUTION).cloned().collect();
    let (mut methods, mut notes) = match others.is_empty() {
        true => Configs::default(),
        false => {
            let mut rest = config.clone();
            rest.insert("target_modules".into(), others.into());
            read(&rest)?
        }
    };
    let keys = Keys::new(path, "LORA", config);
    let (asked, alpha) = (keys.count("r")?, keys.number("lora_alpha")?.unwrap_or(8.0));
    let (asked, rslora) = (asked.ok_or_else(|| keys.wrong("r", "a whole number above 0"))?, keys.flag("use_rslora")?);
    // As a matrix [D, d_conv] its rank is at most d_conv; s stays.
    let rank = asked.min(model.d_conv as u64);
    let ratio = rank as f64 / asked as f64;
    let alpha = alpha * if rslora { ratio.sqrt() } else { ratio };
    methods.push(table(json!({"method": "conv-lora", "rank": rank, "alpha": alpha, "rslora": rslora})));
    notes.push(format!(
        "{}: the authors' PEFT has no LoRA for {CONVOLUTION}; here it is conv-lora of rank {rank}, without dropout",
        keys.name("target_modules")
    ));
    Ok((methods, notes))
}
