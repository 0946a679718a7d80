//! The configurations and names of the authors' released code (State-offset Tuning as `SUFFIX_TUNING`).

use std::path::Path;

use serde_json::{Map, Value};

use crate::methods::state_offset_h::StateOffsetH;
use crate::methods::state_offset_y::StateOffsetY;
use crate::{Method, PeftError};

/// The parts of `in_proj` and `x_proj` in the authors' modules and here.
const PARTS: [(&str, &str); 5] = [
    ("in_proj_x", "in_proj.x"),
    ("in_proj_z", "in_proj.z"),
    ("x_proj_dt", "x_proj.dt"),
    ("x_proj_B", "x_proj.b"),
    ("x_proj_C", "x_proj.c"),
];

/// Keys that concern the authors' training code only.
const HARMLESS: [&str; 6] =
    ["auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "revision", "task_type"];

/// State-offset Tuning from its configuration: `bias_type` says which state gets the offset.
pub(super) fn method(path: &Path, config: &Map<String, Value>) -> Result<(Box<dyn Method>, Vec<String>), PeftError> {
    let unsupported = |feature: String| PeftError::Unsupported { path: path.to_path_buf(), feature };
    let number = |key: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(n) if n > 0 => Ok(Some(n as usize)),
            _ => Err(unsupported(format!("`{key}` = {value}"))),
        },
    };
    let (rank, ratio) = (number("r")?, number("r_ratio")?);
    let method: Box<dyn Method> = match config.get("bias_type").and_then(Value::as_str) {
        Some("SILU_Z_C") => Box::new(StateOffsetH { rank, rank_ratio: ratio.unwrap_or(1) }),
        Some("SILU_Z") if rank.is_none() => Box::new(StateOffsetY {}),
        found => return Err(unsupported(format!("`bias_type` {found:?} with `r` {rank:?}"))),
    };
    let used = ["bias_type", "r", "r_ratio", "bias_init"];
    let unused = config.iter().filter(|(key, value)| {
        !used.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()) && !super::hugging_face::is_neutral(value)
    });
    Ok((method, unused.map(|(key, _)| key.clone()).collect()))
}

/// A target in our words.
pub(super) fn target(name: &str) -> String {
    let part = PARTS.iter().find(|(theirs, _)| *theirs == name);
    part.map_or(name, |(_, ours)| ours).to_owned()
}

/// The offset's module in the authors' code. The offsets on h and on y share it; the configuration tells them apart.
const OFFSET: &str = "parameter_processors.x_after_ssm.suffixtuning_bias";

/// A tensor's name in our words, PEFT's prefixes and suffixes being gone. `offset` is our name for the trained offset.
pub(super) fn tensor_name(name: &str, offset: &str) -> String {
    let mut name = name.to_owned();
    for (theirs, ours) in PARTS {
        let module = ours.split('.').next().expect("two words");
        name = name.replace(&format!("mixer.{module}.{theirs}."), &format!("mixer.{ours}."));
    }
    name.replace(OFFSET, offset)
}
