//! SAMSum (Gliwa et al., 2019): a chat to its summary. The form is that of State-offset Tuning's published code, which
//! has no instruction.

use super::glue::SEPARATOR;
use crate::Preset;

/// The prompt: the dialogue and `###`; in the clean form without blanks around the dialogue and with plain line ends.
pub fn prompt(dialogue: &str, preset: Preset) -> String {
    match preset {
        Preset::Clean => dialogue.trim().replace("\r\n", "\n") + SEPARATOR,
        Preset::Paper => dialogue.to_owned() + SEPARATOR,
    }
}

/// The text to learn: the summary, in the clean form without blanks around it.
pub fn answer(summary: &str, preset: Preset) -> &str {
    match preset {
        Preset::Clean => summary.trim(),
        Preset::Paper => summary,
    }
}
