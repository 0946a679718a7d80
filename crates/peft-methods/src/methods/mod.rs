//! The methods. A new one is a file here and a line in [`METHODS`].

pub mod additional_scan;
pub mod bitfit;
pub mod conv_initial_state;
pub mod conv_lora;
mod dense_operand;
pub mod dora;
pub mod full;
pub mod initial_state;
pub mod lora;
pub mod lora_fa;
pub mod lora_plus;
pub mod partial;
pub mod previous_state;
pub mod principal;
pub mod prompt_tuning;
mod reparametrised;
pub mod sdt;
pub mod state_offset_h;
pub mod state_offset_y;
pub mod state_to_output;
pub mod targets;
pub mod vera;
pub mod virtual_inputs;

use serde_json::{Map, Value};

use crate::method::{Method, MethodInfo};
use crate::{PeftError, nearest};

/// Every method. The configuration's tags, the command line's help, the methods table and the contract tests derive
/// from this list.
pub static METHODS: &[&MethodInfo] = &[
    &state_offset_h::INFO,
    &state_offset_y::INFO,
    &initial_state::INFO,
    &conv_initial_state::INFO,
    &state_to_output::INFO,
    &previous_state::INFO,
    &additional_scan::INFO,
    &lora::INFO,
    &dora::INFO,
    &lora_plus::INFO,
    &lora_fa::INFO,
    &principal::PISSA_INFO,
    &principal::OLORA_INFO,
    &vera::INFO,
    &conv_lora::INFO,
    &sdt::INFO,
    &bitfit::INFO,
    &partial::INFO,
    &full::INFO,
    &prompt_tuning::INFO,
    &virtual_inputs::PREFIX_INFO,
    &virtual_inputs::AFFIX_INFO,
];

/// The entry of this name.
///
/// # Errors
/// [`PeftError::UnknownMethod`], with the nearest known name.
pub fn find(tag: &str) -> Result<&'static MethodInfo, PeftError> {
    let tags = || METHODS.iter().map(|info| info.tag);
    METHODS.iter().copied().find(|info| info.tag == tag).ok_or_else(|| PeftError::UnknownMethod {
        found: tag.to_owned(),
        nearest: nearest(tag, tags()).map(str::to_owned),
        known: known(),
    })
}

/// Reads a configured method: an object with the key `method` and the method's options.
///
/// # Errors
/// Unknown method, unknown option, or a value that cannot be.
pub fn parse(mut config: Map<String, Value>) -> Result<Box<dyn Method>, PeftError> {
    let tag = match config.remove("method") {
        Some(Value::String(tag)) => tag,
        other => {
            let found = other.map_or("nothing".into(), |value| value.to_string());
            return Err(PeftError::UnknownMethod { found, nearest: None, known: known() });
        }
    };
    (find(&tag)?.parse)(Value::Object(config))
}

/// The same from any JSON value.
///
/// # Errors
/// As [`parse`]; the value is no object.
pub fn parse_value(config: Value) -> Result<Box<dyn Method>, PeftError> {
    match config {
        Value::Object(object) => parse(object),
        other => Err(PeftError::UnknownMethod { found: other.to_string(), nearest: None, known: known() }),
    }
}

fn known() -> String {
    METHODS.iter().map(|info| info.tag).collect::<Vec<_>>().join(", ")
}

/// The same methods again.
///
/// # Errors
/// One is not in [`METHODS`].
pub fn copies(of: &[Box<dyn Method>]) -> Result<Vec<Box<dyn Method>>, PeftError> {
    of.iter().map(|method| copy(method.as_ref())).collect()
}

/// The same method again.
///
/// # Errors
/// It is not in [`METHODS`].
pub fn copy(method: &dyn Method) -> Result<Box<dyn Method>, PeftError> {
    parse_value(to_config(method))
}

/// Steps after which methods have chosen what they train; 0: they have nothing to choose, or have chosen.
pub fn warmup_steps(of: &[Box<dyn Method>]) -> u64 {
    of.iter().map(|method| method.warmup_steps()).max().unwrap_or(0)
}

/// The inverse of [`parse`]: the configuration with its `method` key first.
pub fn to_config(method: &dyn Method) -> Value {
    let mut object = Map::new();
    object.insert("method".into(), method.tag().into());
    if let Value::Object(options) = method.config() {
        object.extend(options);
    }
    Value::Object(object)
}
