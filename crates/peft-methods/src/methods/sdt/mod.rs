//! SDT, sparse dimension tuning (Galim et al. 2024, arXiv 2410.09016, algorithm 1): in a few chosen channels a few chosen
//! entries of `A_log`, and the columns of `x_proj.b` and `x_proj.c` that read those channels, are trained.
//!
//! A warm-up decides which: for `warmup_steps` steps a full update of `A_log` is trained, together with whatever other method
//! the run names (the paper's has LoRA beside it). Then everything returns to its start and only the selection remains. It is
//! saved with the adapter, under `selection`.

pub mod selection;

use statetune_tensor::Staged;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value as PatchValue};
use statetune_mamba_model::site::{Site, mixer_path};

use self::selection::{Fractions, Selection};
use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec, TensorValues};

const TAG: &str = "sdt";

/// `A_log` of a channel that is set to zero: its decay exp(-Δ e^10) leaves no memory.
const NO_MEMORY: f64 = 10.0;

const OPTIONS: &[OptionInfo] = &[
    OptionInfo { name: "channels", default: "0.99", meaning: "the fraction of channels that is frozen" },
    OptionInfo {
        name: "states",
        default: "0.9",
        meaning: "the fraction of a trained channel's entries of A_log that is frozen",
    },
    OptionInfo {
        name: "zero_channels",
        default: "0.0",
        meaning: "the fraction of channels, those that changed least, that lose their memory: A_log = 10",
    },
    OptionInfo { name: "warmup_steps", default: "500", meaning: "steps of the warm-up that chooses" },
    OptionInfo {
        name: "selection",
        default: "none",
        meaning: "per layer the chosen channels, their states, and the channels set to zero: what a warm-up finds, or given \
                  to do without one",
    },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "SDT, sparse dimension tuning: entries of A_log and columns of x_proj.b and x_proj.c, chosen by a warm-up",
    reference: "Galim et al. 2024, arXiv 2410.09016",
    options: OPTIONS,
    sites: "A_log, x_proj.b, x_proj.c",
    mergeable: true,
    starts_unchanged: true,
    decoding: "two small products per layer",
    learning_rate: 5e-3,
    parse: |value| Ok(Box::new(Sdt::parse(value)?)),
    examples: || {
        // Of a model with two layers; the first is its form in a warm-up.
        let layer = |channels: &[u32], states: &[[u32; 2]]| json!({"channels": channels, "states": states, "zero": []});
        let selection = [layer(&[1, 4, 11], &[[0, 2], [1, 4], [3, 4]]), layer(&[0, 2, 7], &[[0, 1], [2, 3], [0, 4]])];
        vec![
            json!({"channels": 0.8, "states": 0.6, "warmup_steps": 4}),
            json!({"channels": 0.8, "states": 0.6, "selection": selection}),
        ]
    },
};

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sdt {
    /// The fraction of channels that is frozen.
    pub channels: f64,
    /// The fraction of a trained channel's states that is frozen.
    pub states: f64,
    /// The fraction of channels that lose their memory.
    pub zero_channels: f64,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Per layer what is trained; absent before and during the warm-up.
    pub selection: Option<Vec<Selection>>,
}

impl Default for Sdt {
    /// The fractions and the warm-up of the paper's experiments.
    fn default() -> Sdt {
        Sdt { channels: 0.99, states: 0.9, zero_channels: 0.0, warmup_steps: 500, selection: None }
    }
}

impl Sdt {
    fn parse(value: Value) -> Result<Sdt, PeftError> {
        let config: Sdt = MethodInfo::read(TAG, OPTIONS, value)?;
        let fractions = [config.channels, config.states, config.zero_channels];
        let fail = |reason: &str| Err(PeftError::Option { method: TAG, reason: reason.into() });
        if fractions.iter().any(|fraction| !(0.0..1.0).contains(fraction)) {
            return fail("`channels`, `states` and `zero_channels` are fractions, at least 0 and below 1");
        }
        if config.channels + config.zero_channels >= 1.0 {
            return fail("`channels` and `zero_channels` together leave no channel to train");
        }
        if config.warmup_steps == 0 && config.selection.is_none() {
            return fail("`warmup_steps` must be at least 1 where no `selection` is given");
        }
        Ok(config)
    }

    fn fractions(&self) -> Fractions {
        Fractions { channels: self.channels, states: self.states, zero_channels: self.zero_channels }
    }

    /// The selection, checked against a model.
    fn selected(&self, model: &MambaConfig) -> Result<Option<&[Selection]>, PeftError> {
        let Some(selection) = &self.selection else { return Ok(None) };
        let fail = |reason: String| Err(PeftError::Option { method: TAG, reason: format!("`selection`: {reason}") });
        if selection.len() != model.num_hidden_layers {
            return fail(format!("{} layers, the model has {}", selection.len(), model.num_hidden_layers));
        }
        match selection.iter().find_map(|layer| layer.check(model.d_inner, model.d_state).err()) {
            Some(reason) => fail(reason),
            None => Ok(Some(selection)),
        }
    }
}

/// The name of the warm-up's update of a layer.
fn warmup_name(layer: usize) -> String {
    format!("{}.A_log.warmup", mixer_path(layer))
}

impl Method for Sdt {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        let (d, n) = (model.d_inner, model.d_state);
        let selected = self.selected(model)?;
        for layer in 0..model.num_hidden_layers {
            let path = mixer_path(layer);
            let a_log = || Site::Rows { parameter: format!("{path}.A_log"), rows: 0..d };
            let Some(selection) = selected.map(|selection| &selection[layer]) else {
                let name = warmup_name(layer);
                let change = Change::Add { value: PatchValue::Dense(name.clone()), scale: 1.0 };
                plan.patches.push(Patch { site: a_log(), change });
                plan.tensors.push(TensorSpec::new(name, [d, n], Init::Zeros));
                continue;
            };
            let mut scattered = |name: String, entries: Vec<u32>, spec: fn(TensorSpec) -> TensorSpec, init: Init| {
                let entries: Staged<u32> = entries.into();
                plan.tensors.push(spec(TensorSpec::new(name.clone(), [entries.len()], init)));
                let value = PatchValue::Scattered { values: name, entries, shape: vec![d, n] };
                plan.patches.push(Patch { site: a_log(), change: Change::Add { value, scale: 1.0 } });
            };
            scattered(format!("{path}.A_log.sdt"), selection.entries(n), |spec| spec, Init::Zeros);
            if !selection.zero.is_empty() {
                let entries = selection.zero_entries(n);
                let init = Init::Complement {
                    parameter: format!("{path}.A_log"),
                    target: NO_MEMORY,
                    entries: entries.clone().into(),
                };
                scattered(format!("{path}.A_log.sdt_zero"), entries, TensorSpec::constant, init);
            }
            for (part, first) in [("b", model.dt_rank), ("c", model.dt_rank + n)] {
                let values = format!("{path}.x_proj.{part}.sdt");
                let columns: Staged<u32> = selection.channels.clone().into();
                plan.tensors.push(TensorSpec::new(values.clone(), [n, columns.len()], Init::Zeros).decayed());
                let site = Site::Rows { parameter: format!("{path}.x_proj.weight"), rows: first..first + n };
                plan.patches.push(Patch { site, change: Change::Columns { values, columns } });
            }
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let (d, n, layers) = (model.d_inner, model.d_state, model.num_hidden_layers);
        Ok(match self.selected(model)? {
            None => layers * d * n,
            // Each trained channel: its chosen states, and all N rows of B and of C.
            Some(selection) => selection
                .iter()
                .map(|layer| layer.states.iter().map(Vec::len).sum::<usize>() + 2 * n * layer.channels.len())
                .sum(),
        })
    }

    fn starts_unchanged(&self) -> bool {
        // Channels that lose their memory do so before the first step.
        self.selection.iter().flatten().all(|layer| layer.zero.is_empty())
    }

    fn warmup_steps(&self) -> u64 {
        if self.selection.is_some() { 0 } else { self.warmup_steps }
    }

    fn select(&self, model: &MambaConfig, tensor: TensorValues<'_>) -> Result<Option<Box<dyn Method>>, PeftError> {
        if self.selection.is_some() {
            return Ok(None);
        }
        let layer = |layer: usize| {
            let update = tensor(&warmup_name(layer))?;
            Ok(Selection::from_update(&update, model.d_inner, model.d_state, self.fractions()))
        };
        let selection = (0..model.num_hidden_layers).map(layer).collect::<Result<Vec<_>, PeftError>>()?;
        Ok(Some(Box::new(Sdt { selection: Some(selection), ..self.clone() })))
    }
}
