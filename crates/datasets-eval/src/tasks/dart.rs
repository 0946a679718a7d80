//! DART (Nan et al., 2021): triples of subject, relation and object to English. The instruction and the form are those
//! of State-offset Tuning's published code.

use super::glue::SEPARATOR;
use crate::Preset;

/// What every prompt begins with; tokenised on its own.
pub const INSTRUCTION: &str = "Generate text for the following RDF triples:\n";

/// The prompt after the instruction, in both forms: triples as `a : b : c` joined by ` | `, and `###`.
pub fn prompt<S: AsRef<str>>(triples: &[[S; 3]]) -> String {
    let triples: Vec<String> =
        triples.iter().map(|triple| triple.each_ref().map(|part| part.as_ref()).join(" : ")).collect();
    triples.join(" | ") + SEPARATOR
}

/// The text to learn: the annotation, in the clean form without blanks around it.
pub fn answer(annotation: &str, preset: Preset) -> &str {
    match preset {
        Preset::Clean => annotation.trim(),
        Preset::Paper => annotation,
    }
}
