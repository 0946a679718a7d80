//! The error for what has no effect: it fires on methods with a planted fault, which it names, and spares the tensors that
//! a method exempts with a reason.

mod support;

use serde_json::{Value, json};
use statetune_mamba_model::Mamba;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Ends, Patch, Value as PatchValue};
use statetune_mamba_model::site::{Operand, Site};
use statetune_peft_methods::{Adapter, Init, METHODS, Method, PeftError, Plan, TensorSpec, methods};
use statetune_trainer::{Run, Silent, Summary, TrainError, TrainSettings};

use support::{LENGTHS, VOCAB, bytes, config, generation, paths, settings};

/// A method that trains and changes nothing, in one of the ways such a fault comes about.
#[derive(Debug, Clone, Copy)]
enum Planted {
    /// A low-rank addition whose B is frozen at zero.
    FrozenB,
    /// A state offset that is multiplied by zeros.
    TimesZero,
    /// The first with a magnitude beside it, which does learn: the patch has a gradient, A has none.
    BehindAMagnitude,
    /// The second with the reason that the framework asks for.
    Exempt,
}

const OUT_PROJ: &str = "backbone.layers.1.mixer.out_proj.weight";

impl Method for Planted {
    fn tag(&self) -> &'static str {
        "planted"
    }

    fn config(&self) -> Value {
        json!({})
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let dense = |name: &str| PatchValue::Dense(name.into());
        let (d, n) = (model.d_inner, model.d_state);
        let mut plan = Plan::default();
        match self {
            Planted::FrozenB | Planted::BehindAMagnitude => {
                let magnitude = matches!(self, Planted::BehindAMagnitude).then(|| "planted.m".to_owned());
                let rows = 0..model.d_model;
                plan.tensors.push(TensorSpec::new("planted.a", [2, d], Init::KaimingUniform));
                plan.tensors.push(TensorSpec::new("planted.b", [model.d_model, 2], Init::Zeros).constant());
                if let Some(name) = &magnitude {
                    let init = Init::Norms { parameter: OUT_PROJ.into(), rows: rows.clone(), of_columns: false };
                    plan.tensors.push(TensorSpec::new(name.clone(), [model.d_model], init));
                }
                let site = Site::Rows { parameter: OUT_PROJ.into(), rows };
                let (a, b) = (dense("planted.a"), dense("planted.b"));
                let change = Change::LowRank { a, b, scale: 1.0, dropout: 0.0, ends: Ends::Both, magnitude };
                plan.patches.push(Patch { site, change });
            }
            Planted::TimesZero | Planted::Exempt => {
                let offset = TensorSpec::new("planted.offset", [d, n], Init::KaimingUniform);
                plan.tensors.push(match self {
                    Planted::Exempt => offset.may_stay("planted, and told of"),
                    _ => offset,
                });
                plan.tensors.push(TensorSpec::new("planted.zeros", [d, n], Init::Zeros).constant());
                let (offset, zeros) = (dense("planted.offset"), dense("planted.zeros"));
                let value = PatchValue::Times(Box::new(offset), Box::new(zeros));
                let site = Site::Operand { layer: 0, operand: Operand::StateOffset };
                plan.patches.push(Patch { site, change: Change::Operand(value) });
            }
        }
        Ok(plan)
    }

    fn trainable(&self, _: &MambaConfig) -> Result<usize, PeftError> {
        Ok(0)
    }
}

/// The planted method beside one that does learn, so that the run as a whole has something to do.
fn train(model: &Mamba, planted: Planted) -> Result<Summary, TrainError> {
    let honest = methods::parse_value(json!({"method": "state-offset-y"})).unwrap();
    let adapter = Adapter::new(model, vec![honest, Box::new(planted)], 3).unwrap();
    run(model, adapter, &settings(5))
}

fn run(model: &Mamba, adapter: Adapter, settings: &TrainSettings) -> Result<Summary, TrainError> {
    let data = generation(0, &LENGTHS, VOCAB);
    Run { model, base_model: "base", train: &data, validation: None, settings, folder: None, keeps_adapters: true }
        .train(adapter, false, &mut Silent)
}

fn refused(label: &str, result: Result<Summary, TrainError>, name: &str, reason: &str) {
    let error = result.map(drop).expect_err("the fault was not found");
    let TrainError::NoEffect { name: found, reason: why } = &error else { panic!("{label}: {error}") };
    assert_eq!((found.as_str(), why.as_str()), (name, reason), "{label}");
    assert!(error.to_string().contains(name) && error.to_string().contains("no effect"), "{label}: {error}");
}

#[test]
fn a_planted_fault_is_found_and_named() {
    for path in paths() {
        let model = path.model(&config(true), 2);
        let first = "has a zero gradient at the first step";
        refused(&path.label, train(&model, Planted::FrozenB), &format!("{OUT_PROJ}[0..12]"), first);
        refused(&path.label, train(&model, Planted::TimesZero), "backbone.layers.0.mixer.state_offset", first);
        refused(&path.label, train(&model, Planted::BehindAMagnitude), "planted.a", "has not moved after 3 updates");
        // Told of, it is no fault.
        assert_eq!(train(&model, Planted::Exempt).unwrap().steps, 5, "{}", path.label);
    }
}

/// The released start has no memory: A_log has no gradient and stays, by declaration; B and C learn. exp(-Δ e^16) is zero in
/// every type.
#[test]
fn the_released_additional_scan_trains() {
    for path in paths() {
        let model = path.model(&MambaConfig { d_state: 16, ..config(true) }, 2);
        let of = |init: &str| {
            let config = json!({"method": "additional-scan", "states": 3, "init": init});
            Adapter::new(&model, vec![methods::parse_value(config).unwrap()], 3).unwrap()
        };
        let (adapter, start) = (of("released"), bytes(&of("released")));
        let exempt: Vec<&str> =
            adapter.specs().iter().filter(|spec| spec.may_stay.is_some()).map(|spec| spec.name.as_str()).collect();
        let a_log = [0, 1].map(|layer| format!("backbone.layers.{layer}.mixer.additional_scan.A_log"));
        assert_eq!(exempt, a_log);
        let trained = run(&model, adapter, &settings(6)).unwrap().adapter;
        for ((name, before), (_, after)) in start.iter().zip(bytes(&trained)) {
            assert_eq!(*before == after, name.ends_with("A_log"), "{}: `{name}`", path.label);
        }
        // The start that remembers is not exempt, and need not be.
        assert!(of("log").specs().iter().all(|spec| spec.may_stay.is_none()));
        run(&model, of("log"), &settings(6)).unwrap();
    }
}

/// No other method asks for an exemption, and a reason is given in words.
#[test]
fn exemptions_are_few_and_say_why() {
    let model = paths()[0].model(&config(true), 1);
    let mut exempt = Vec::new();
    for info in METHODS {
        for example in (info.examples)() {
            let plan = (info.parse)(example).unwrap().plan(model.config()).unwrap();
            let reasons: Vec<&str> = plan.tensors.iter().filter_map(|spec| spec.may_stay).collect();
            assert!(reasons.iter().all(|reason| reason.split(' ').count() > 3), "{}: {reasons:?}", info.tag);
            exempt.extend((!reasons.is_empty()).then_some(info.tag));
        }
    }
    assert_eq!(exempt, ["additional-scan"]);
}
