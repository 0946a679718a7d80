//! `statetune convert` as a user types it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const EXPERIMENT: &str = "model: state-spaces/mamba-130m\ndata: glue_sst2\nlearning_rate: 1.0e-04\nnum_epochs: 2\nprec: bf16\npeft: offset.json\n";
const OFFSET: &str = r#"{"peft_type": "SUFFIX_TUNING", "bias_type": "SILU_Z_C", "bias_init": "ZERO", "dropout": 0.1}"#;

fn statetune(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_statetune"));
    command.current_dir(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn an_experiment_becomes_a_configuration_with_notes() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one.yaml"), EXPERIMENT).unwrap();
    fs::write(folder.path().join("offset.json"), OFFSET).unwrap();

    let shown = statetune(folder.path(), &["convert", "one.yaml"]);
    let shown_text = text(&shown.stdout);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(shown_text.contains("# - `dropout` of SUFFIX_TUNING has no effect"), "{shown_text}");
    assert!(shown_text.contains("method = \"state-offset-h\""), "{shown_text}");

    let written = statetune(folder.path(), &["convert", "one.yaml", "--out", "run.toml"]);
    assert_eq!(text(&written.stdout), "run.toml\n");
    assert!(text(&written.stderr).contains("note: `prec` = bf16"), "{}", text(&written.stderr));
    assert_eq!(fs::read_to_string(folder.path().join("run.toml")).unwrap().trim_end(), shown_text.trim_end());
    let again = statetune(folder.path(), &["convert", "one.yaml", "--out", "run.toml"]);
    assert_eq!((again.status.code(), text(&again.stderr).contains("run.toml is there already")), (Some(2), true));

    let json = statetune(folder.path(), &["convert", "one.yaml", "--peft", "offset.json", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["config"]["train"]["learning_rate"], 1e-4);
    assert!(json["notes"].as_array().is_some_and(|notes| notes.len() > 3), "{json}");
}

#[test]
fn training_from_yaml_says_how_to_convert() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("one.yaml"), EXPERIMENT).unwrap();
    let refused = statetune(folder.path(), &["train", "one.yaml"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("statetune convert one.yaml --out run.toml"), "{}", text(&refused.stderr));
    let missing = statetune(folder.path(), &["convert", "one.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("`peft` names offset.json"), "{}", text(&missing.stderr));
}
