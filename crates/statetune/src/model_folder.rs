//! What belongs to a model's folder beside configuration and weights.

/// Files that stay as they are, as Hugging Face names them.
pub(crate) const COMPANIONS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
];
