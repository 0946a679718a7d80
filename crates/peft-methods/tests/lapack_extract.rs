//! `extract` on models whose difference is known: a merged LoRA comes back with its rank and the same logits, what is
//! left out is reported, and what cannot be is refused.
#![cfg(feature = "lapack")]

use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Bound, Mamba, Patches};
use statetune_peft_methods::extract::{Options, Report, extract};
use statetune_peft_methods::linalg::Rank;
use statetune_peft_methods::{Adapter, PeftError, methods};
use statetune_ssm_kernels::random::{normal, stream_of};
use statetune_ssm_kernels::{Cpu, Level};
use statetune_tensor::{DType, Device, Tape, Tensor};

/// The untied model has a head of its own.
fn model(tied: bool, compute: DType) -> Mamba {
    let config = MambaConfig { tie_word_embeddings: tied, use_bias: true, ..MambaConfig::new(23, 16, 2) };
    let device = Device::Cpu(Cpu::new(Level::Reference, 2).unwrap());
    Mamba::random(&config, &device, compute, DType::F32, 1).unwrap()
}

fn adapter(model: &Mamba, config: Value) -> Adapter {
    let Value::Object(config) = config else { panic!("a table") };
    let adapter = Adapter::new(model, vec![methods::parse(config).unwrap()], 3).unwrap();
    for tensor in adapter.patches().tensors() {
        tensor.buffer.set(noise(&tensor.name, &tensor.buffer.shape(), 0.2).cast(model.compute())).unwrap();
    }
    adapter
}

fn noise(name: &str, shape: &[usize], deviation: f64) -> Tensor {
    let mut values = vec![0f64; shape.iter().product()];
    normal(&mut values, 0.0, deviation, 9, stream_of(name));
    Tensor::from_vec(values, shape).unwrap()
}

fn logits(model: &Mamba, patches: &Patches) -> Vec<f64> {
    let batch = Batch::new(&[(0..17).map(|i| (i * 7 + i * i) % 23).collect::<Vec<u32>>()]).unwrap();
    let tape = Tape::inference(model.device());
    let bound = Bound::new(&tape, model, patches, None).unwrap();
    let hidden = model.forward(&tape, &bound, &batch, None, false).unwrap().hidden;
    model.logits(&tape, &bound, &hidden, (0..17).collect::<Vec<u32>>()).unwrap().tensor().to_f64_vec()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0f64, |worst, (a, b)| worst.max((a - b).abs()))
}

fn run(base: &Mamba, tuned: &Mamba, options: Options) -> (Adapter, Report) {
    extract(base, tuned, &options, |_, _| {}).unwrap()
}

/// A model with some stored tensors moved by random amounts.
fn moved(base: &Mamba, names: &[&str]) -> Mamba {
    let replaced = names.iter().map(|name| {
        let value = &base.parameter(name).unwrap().value;
        let sum: Vec<f64> =
            value.to_f64_vec().iter().zip(noise(name, value.shape(), 0.1).to_f64_vec()).map(|(v, n)| v + n).collect();
        ((*name).to_owned(), Tensor::from_vec(sum, value.shape()).unwrap())
    });
    base.with_parameters(replaced.collect()).unwrap()
}

#[test]
fn a_merged_lora_comes_back() {
    let all = json!(["embeddings", "in_proj", "x_proj", "dt_proj", "out_proj"]);
    for (tied, compute, tolerance) in [(true, DType::F64, 1e-10), (false, DType::F64, 1e-10), (true, DType::F32, 1e-5)]
    {
        let base = model(tied, compute);
        let lora = json!({"method": "lora", "targets": all, "rank": 3, "alpha": 6, "rank_pattern": {"dt_proj": 1}});
        let tuned = adapter(&base, lora).merge(&base).unwrap();
        // In f32 the merge rounds, and the rounding has every rank.
        let rank = if compute == DType::F64 { Rank::Energy(1.0) } else { Rank::Fixed(3) };
        let (found, report) = run(&base, &tuned, Options { rank, ..Options::default() });
        for site in &report.sites {
            let expected = if site.name.ends_with("dt_proj") { 1 } else { 3 };
            assert!(site.rank == expected.min(site.shape[0].min(site.shape[1])), "{site:?}");
            assert!(site.energy > 1.0 - 1e-9 && site.error <= 1e-4 * site.norm, "{site:?}");
        }
        assert_eq!(report.sites.len(), 9);
        assert_eq!(report.unchanged, if tied { vec![] } else { vec!["lm_head"] });
        assert!(report.rest.is_empty());
        let (expected, plain) = (logits(&tuned, &Patches::none()), logits(&base, &Patches::none()));
        assert!(distance(&expected, &plain) > 0.1);
        let worst = distance(&expected, &logits(&base, found.patches()));
        assert!(worst <= tolerance, "tied {tied} {compute}: {worst:e}");
    }
}

#[test]
fn saved_for_others_and_loaded_again() {
    let base = model(true, DType::F32);
    let tuned = adapter(
        &base,
        json!({"method": "lora", "targets": ["in_proj", "out_proj"], "rank": 3,
        "rank_pattern": {"layers.1.mixer.out_proj": 2}}),
    );
    let tuned = tuned.merge(&base).unwrap();
    let (found, _) = run(&base, &tuned, Options { rank: Rank::Energy(1.0 - 1e-6), ..Options::default() });
    let folder = tempfile::tempdir().unwrap();
    found.save(folder.path(), "base").unwrap();
    let config = std::fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    assert!(config.contains("\"LORA\""), "Hugging Face PEFT reads it: {config}");
    let loaded = Adapter::load(folder.path(), &base).unwrap().adapter;
    assert_eq!(logits(&base, found.patches()), logits(&base, loaded.patches()));
}

#[test]
fn what_is_cut_off_is_what_the_report_says() {
    let base = model(true, DType::F64);
    let name = "backbone.layers.1.mixer.out_proj";
    let tuned = moved(&base, &[&format!("{name}.weight")]);
    for rank in [Rank::Fixed(2), Rank::Energy(0.7)] {
        let (found, report) = run(&base, &tuned, Options { rank, ..Options::default() });
        let [site] = &report.sites[..] else { panic!("{report:?}") };
        let merged = found.merge(&base).unwrap();
        let norm = |a: &Mamba, b: &Mamba| {
            let value = |model: &Mamba| model.parameter(&format!("{name}.weight")).unwrap().value.to_f64_vec();
            value(a).iter().zip(value(b)).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
        };
        let (error, whole) = (norm(&tuned, &merged), norm(&tuned, &base));
        assert!((site.error - error).abs() < 1e-12 && (site.norm - whole).abs() < 1e-12, "{site:?} {error} {whole}");
        assert!((site.energy - (1.0 - error * error / whole / whole)).abs() < 1e-12, "{site:?}");
        if let Rank::Energy(least) = rank {
            let fewer = run(&base, &tuned, Options { rank: Rank::Fixed(site.rank - 1), ..Options::default() }).1;
            assert!(site.energy >= least && fewer.sites[0].energy < least, "{site:?} {fewer:?}");
        }
    }
}

#[test]
fn what_differs_elsewhere_is_named_or_taken_along() {
    let base = model(true, DType::F64);
    let elsewhere = [
        "backbone.layers.0.norm.weight",
        "backbone.layers.0.mixer.conv1d.weight",
        "backbone.layers.1.mixer.A_log",
        "backbone.layers.1.mixer.out_proj.bias",
    ];
    // in_proj is chosen by half: the other half is a difference elsewhere.
    let in_proj = "backbone.layers.1.mixer.in_proj.weight";
    let tuned = moved(&base, &[&elsewhere[..], &[in_proj]].concat());
    let options = Options { targets: vec!["in_proj.x".into()], rank: Rank::Energy(1.0), rest: false };
    let (found, report) = run(&base, &tuned, options.clone());
    assert_eq!(
        report.sites.iter().map(|site| &site.name[..]).collect::<Vec<_>>(),
        ["backbone.layers.1.mixer.in_proj.x"]
    );
    assert_eq!(report.unchanged, ["backbone.layers.0.mixer.in_proj.x"]);
    let mut names: Vec<&str> = report.rest.iter().map(|tensor| &tensor.name[..]).collect();
    names.sort_unstable();
    let mut expected = [&elsewhere[..], &[in_proj]].concat();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert!(report.rest.iter().all(|tensor| tensor.norm > 0.0) && !report.rest_included);
    let goal = logits(&tuned, &Patches::none());
    assert!(distance(&goal, &logits(&base, found.patches())) > 1e-3);

    let (found, report) = run(&base, &tuned, Options { rest: true, ..options });
    assert!(report.rest_included && report.rest.len() == 5);
    let worst = distance(&goal, &logits(&base, found.patches()));
    assert!(worst <= 1e-9, "{worst:e}");
}

#[test]
fn what_cannot_be_extracted_is_refused() {
    let base = model(true, DType::F64);
    let norm = moved(&base, &["backbone.norm_f.weight"]);
    let refused = |tuned: &Mamba, options: &Options, word: &str| {
        let error = extract(&base, tuned, options, |_, _| {}).unwrap_err();
        assert!(matches!(error, PeftError::Extract { .. } | PeftError::LinearAlgebra { .. }), "{error}");
        assert!(error.to_string().contains(word), "no {word:?} in: {error}");
    };
    let targets =
        |names: &[&str]| Options { targets: names.iter().map(|name| (*name).into()).collect(), ..Options::default() };
    refused(&base, &Options::default(), "are equal");
    refused(&norm, &Options::default(), "`backbone.norm_f.weight`");
    refused(&model(false, DType::F64), &Options::default(), "`lm_head.weight`");
    let wider = Mamba::random(&MambaConfig::new(24, 16, 2), base.device(), DType::F64, DType::F32, 1).unwrap();
    refused(&wider, &Options::default(), "[24, 16]");
    refused(&norm, &targets(&["in_porj"]), "did you mean `in_proj`");
    refused(&norm, &targets(&["in_proj", "in_proj.x"]), "overlap");
    refused(&norm, &Options { rank: Rank::Energy(0.0), ..Options::default() }, "energy");
}
