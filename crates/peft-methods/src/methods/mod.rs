//! The methods. A new one is a file here and a line in [`METHODS`].

pub mod full;
pub mod lora;
pub mod state_offset_h;
pub mod state_offset_y;

use serde_json::{Map, Value};

use crate::method::{Method, MethodInfo};
use crate::{PeftError, nearest};

/// Every method. The configuration's tags, the command line's help, the methods table and the contract tests derive
/// from this list.
pub static METHODS: &[&MethodInfo] = &[&state_offset_h::INFO, &state_offset_y::INFO, &lora::INFO, &full::INFO];

/// The entry of this name.
///
/// # Errors
/// [`PeftError::UnknownMethod`], with the nearest known name.
pub fn find(tag: &str) -> Result<&'static MethodInfo, PeftError> {
    let tags = || METHODS.iter().map(|info| info.tag);
    METHODS.iter().copied().find(|info| info.tag == tag).ok_or_else(|| PeftError::UnknownMethod {
        found: tag.to_owned(),
        nearest: nearest(tag, tags()).map(str::to_owned),
        known: tags().collect::<Vec<_>>().join(", "),
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
            return Err(PeftError::UnknownMethod {
                found,
                nearest: None,
                known: METHODS.iter().map(|info| info.tag).collect::<Vec<_>>().join(", "),
            });
        }
    };
    (find(&tag)?.parse)(Value::Object(config))
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
