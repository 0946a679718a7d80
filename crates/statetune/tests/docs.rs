//! What the pages say of the methods is what METHODS says, and of evaluations and sweeps what the configuration has; the recipes are
//! configurations.

use std::fs;
use std::path::{Path, PathBuf};

use statetune::cli::methods_page::fill;
use statetune::mamba_model::config::MambaConfig;
use statetune::peft_methods::METHODS;
use statetune::trainer::RunConfig;
use statetune::trainer::config::EvaluationSection;
use statetune::trainer::sweep::SweepConfig;

fn page(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (path, text)
}

#[test]
fn pages_that_are_made_from_the_list_of_methods_are_up_to_date() {
    for name in ["docs/src/methods.md", "README.md"] {
        let (_, text) = page(name);
        let filled = fill(&text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(text.contains("<!-- METHODS: "), "{name} has no part made from METHODS");
        let differs = text.lines().zip(filled.lines()).find(|(is, should)| is != should);
        assert!(
            filled == text,
            "{name} is stale: write it anew by `cargo xtask docs --write`\n{}",
            differs.map_or_else(String::new, |(is, should)| format!("it has {is}\ninstead of {should}"))
        );
    }
}

#[test]
fn every_method_has_its_section() {
    let (path, text) = page("docs/src/methods.md");
    for info in METHODS {
        let heading = |line: &str| line.starts_with('#') && line.contains(&format!("`{}`", info.tag));
        assert!(text.lines().any(heading), "{}: no section on `{}`", path.display(), info.tag);
        let marker = format!("<!-- METHODS: options of {} -->", info.tag);
        assert!(text.contains(&marker), "{}: no `{marker}`", path.display());
    }
}

#[test]
fn the_table_counts_what_is_trained() {
    let (_, text) = page("docs/src/methods.md");
    // mamba-130m: 24 layers, D 1536, N 16, d_model 768, dt_rank 48; mamba-1.4b: 48, 4096, 16, 2048, 128.
    for (tag, small, large) in [
        ("state-offset-h", "589,824", "3,145,728"),   // L D N
        ("state-offset-y", "36,864", "196,608"),      // L D
        ("conv-initial-state", "110,592", "589,824"), // L D 3
        ("additional-scan", "884,736", "4,718,592"),  // L 3 k D, k = 8
        ("lora", "752,640", "3,993,600"),             // L 8 (D + R + 2 N + D + d_model)
        ("sdt", "12,240", "66,912"),                  // L c (2 + 2 N): 15 and 41 channels, 2 states each
        ("prompt-tuning", "12,288", "32,768"),        // 16 d_model
        ("full", "129,135,360", "1,372,178,432"),
    ] {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{tag}` |"))).expect("a row");
        assert!(row.contains(&format!("| {small} | {large} |")), "{row}");
    }
}

#[test]
fn every_method_is_shown_as_it_is_typed() {
    let (_, text) = page("docs/src/methods.md");
    let model = MambaConfig::new(50_280, 768, 24);
    let mut shown = Vec::new();
    for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let run = format!("[model]\npath = \"m\"\n[data]\nformat = \"text\"\n{block}");
        let config = RunConfig::parse(&run, Path::new("methods.md"), &[]).unwrap_or_else(|e| panic!("{e}\n{block}"));
        for method in config.methods().unwrap() {
            assert!(method.trainable(&model).unwrap_or_else(|error| panic!("{error}\n{block}")) > 0, "{block}");
            shown.push(method.tag());
        }
    }
    for info in METHODS {
        assert!(shown.contains(&info.tag), "no block of TOML shows `{}`", info.tag);
    }
}

#[test]
fn every_key_of_an_evaluation_is_explained() {
    let (_, text) = page("docs/src/configuration.md");
    let section =
        text.split("## `[evaluation]`").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let whole = EvaluationSection {
        metrics: Some(Vec::new()),
        limit: Some(1),
        wordnet: Some("w".into()),
        ..EvaluationSection::default()
    };
    let toml = toml::Table::try_from(&whole).expect("a table");
    for key in toml.keys() {
        assert!(section.contains(&format!("| `{key}` |")), "no row for `{key}`");
    }
    let rows = section.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, toml.len(), "a row for a key that there is not");
}

#[test]
fn recipes_are_tried_as_they_say() {
    for name in ["dart", "samsum", "spider"] {
        let (path, text) = page(&format!("benches/{name}.toml"));
        // What the first lines have typed after `--set`.
        let typed =
            text.lines().take_while(|line| line.starts_with('#')).map(|line| line[1..].trim()).collect::<Vec<_>>();
        let typed = typed.join(" ");
        let settings: Vec<String> = typed
            .split("--set ")
            .skip(1)
            .filter_map(|rest| rest.split([' ', ',']).next())
            .map(|setting| setting.trim_end_matches('.').to_owned())
            .collect();
        assert_eq!(settings.len(), 5, "{settings:?}");
        let config = SweepConfig::read(&path, &settings).unwrap_or_else(|error| panic!("{error}"));
        let evaluation = config.tasks[0].evaluation.as_ref().expect("answers judge");
        assert_eq!((config.tasks[0].data.limit, evaluation.limit), (Some(400), Some(24)), "{name}");
        let config = SweepConfig::read(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.output.folder, Some(format!("runs/{name}").into()));
    }
}

#[test]
fn every_key_of_a_sweep_is_explained() {
    let (_, text) = page("docs/src/methods-compared.md");
    let section = text.split("## Configuration").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let own = "name = \"a\"\nmetric = \"loss\"\nsearch = { rows = 1, share = 1.0, factors = [1.0] }\n\
               [tasks.data]\nformat = \"text\"\ntrain = \"t\"\nvalidation = \"v\"\n";
    let config = format!("base = true\n[model]\npath = \"m\"\n[output]\nfolder = \"o\"\n[[tasks]]\n{own}");
    let config = SweepConfig::parse(&config, Path::new("sweep.toml"), &[]).unwrap_or_else(|error| panic!("{error}"));
    let toml = toml::Table::try_from(&config).expect("a table");
    let keys = |name: &str| toml[name].as_table().expect("a table").keys().cloned().collect::<Vec<_>>();
    let whole = ["seeds", "every_method", "base"].map(str::to_owned).into_iter();
    let parts = ["search", "output"].into_iter();
    for key in whole.chain(parts.flat_map(|part| keys(part).into_iter().map(move |key| format!("{part}.{key}")))) {
        assert!(section.contains(&format!("| `{key}` |")), "no row for `{key}`");
    }
}
