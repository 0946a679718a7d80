//! What a data set is made of beside its file: Spider's schemas and databases, a chat template. It is part of the name
//! of a cache entry.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::chat::ChatTemplate;
use super::{decode, source};
use crate::tasks::spider::Schema;
use crate::{DataConfig, DataError, Format, Preset, Result, Split, Tokenizer};

/// The other files, read but not yet understood: an entry of the cache needs their bytes only.
#[derive(Debug, Default)]
pub(super) struct Resources {
    tables: Option<(PathBuf, Vec<u8>)>,
    /// Names of the databases that are there, sorted; looked up for a validation split only.
    pub(super) databases: Vec<String>,
    pub(super) chat: Option<ChatTemplate>,
}

impl Resources {
    /// Those that a configuration which has been checked asks for.
    pub(super) fn read(config: &DataConfig, split: Split, tokenizer: &Tokenizer) -> Result<Resources> {
        let mut resources = Resources::default();
        if let (Format::Spider, Some(file)) = (config.format, &config.tables) {
            resources.tables = Some((file.clone(), source::read(file)?));
        }
        if let (Split::Validation, Some(folder)) = (split, &config.databases) {
            resources.databases = databases(folder)?;
        }
        if config.messages_field.is_some() {
            resources.chat = Some(ChatTemplate::find(config, tokenizer)?);
        }
        Ok(resources)
    }

    /// What examples depend on, piece by piece.
    pub(super) fn fingerprints(&self) -> [Vec<u8>; 3] {
        let tables = self.tables.as_ref().map_or_else(Vec::new, |(_, bytes)| bytes.clone());
        let chat = self.chat.as_ref().map_or_else(Vec::new, ChatTemplate::fingerprint);
        [tables, format!("{:?}", self.databases).into_bytes(), chat]
    }

    /// The schemas as they stand in prompts, by database.
    pub(super) fn schemas(&self, preset: Preset) -> Result<HashMap<String, String>> {
        let Some((file, bytes)) = &self.tables else { return Ok(HashMap::new()) };
        let wrong = |line, found| DataError::Row {
            file: file.clone(),
            line,
            expected: "the schemas of databases".into(),
            found,
            hint: "give Spider's own tables.json",
        };
        let text = decode::decode(bytes, file)?;
        let schemas: Vec<Schema> =
            serde_json::from_str(text).map_err(|cause| wrong(cause.line(), format!("a mistake ({cause})")))?;
        let mut texts = HashMap::new();
        for schema in schemas {
            if let Some(problem) = schema.problem() {
                return Err(wrong(1, format!("{problem}, in `{}`", schema.db_id)));
            }
            let text = schema.text(preset);
            if texts.insert(schema.db_id.clone(), text).is_some() {
                return Err(wrong(1, format!("`{}` twice", schema.db_id)));
            }
        }
        Ok(texts)
    }
}

/// The folders that hold a database of their name, sorted.
fn databases(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| DataError::Io {
        file: folder.into(),
        source,
        hint: "give the folder of the databases, with <db_id>/<db_id>.sqlite",
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        if folder.join(&name).join(format!("{name}.sqlite")).is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
