//! Frozen tensors get no gradient work at all: the products of weight gradients that a step computes, counted by the device,
//! are those that the trained tensors call for and no more. (That no operation returns a gradient nobody asked for, the tape
//! asserts in every test.)

use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Ends, Patch, Value};
use statetune_mamba_model::site::{Operand, Site, VirtualPlace};
use statetune_mamba_model::{Batch, Bound, DropoutStep, Mamba};
use statetune_peft_methods::Adapter;
use statetune_ssm_kernels::Counts;
use statetune_tensor::Tape;

use crate::support::{Subject, VOCAB, entries, few, pairs, sequence};

/// Tokens of the batch.
const T: usize = 26;
/// Labelled rows.
const R: usize = 9;

/// Products of weight gradients in one step, the loss included.
fn counted(model: &Mamba, adapter: &Adapter) -> (Counts, Vec<&'static str>) {
    let device = model.device();
    let before = device.counts();
    let tape = Tape::new(model.device());
    let bound = Bound::new(&tape, model, adapter.patches(), Some(DropoutStep { seed: 1, step: 1 })).unwrap();
    let batch = Batch::new(&[sequence(17, 1), sequence(T - 17, 2)]).unwrap();
    let hidden = model.forward(&tape, &bound, &batch, None, false).unwrap().hidden;
    let rows: Vec<u32> = (0..R as u32).map(|i| i * 2 + 1).collect();
    let targets: Vec<u32> = rows.iter().map(|row| row % VOCAB as u32).collect();
    let loss = model.loss(&tape, &bound, &batch, &hidden, &rows, &targets, R as f64).unwrap().loss;
    let recorded = tape.recorded();
    tape.backward(&loss).unwrap();
    (device.counts() - before, recorded)
}

/// The multiply-adds that an adapter's trained tensors call for.
struct Formula<'a> {
    config: &'a MambaConfig,
    adapter: &'a Adapter,
}

impl Formula<'_> {
    fn is_trained(&self, name: &str) -> bool {
        self.adapter.patches().tensors().iter().any(|tensor| tensor.name == name && tensor.trained)
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.adapter.patches().tensor(name).unwrap().shape()
    }

    /// Rows that pass a layer's module: the batch, the soft tokens, which go through every layer for their states only, and
    /// the layer's virtual inputs.
    fn rows(&self, parameter: &str) -> usize {
        let last = format!("layers.{}.", self.config.num_hidden_layers - 1);
        let out_proj = parameter.ends_with("out_proj.weight");
        let of_layer = |layer: usize| parameter.contains(&format!("layers.{layer}."));
        let tokens = |patch: &Patch| {
            let Change::Operand(value) = &patch.change else { return 0 };
            let own = self.shape(value.tensors()[0])[0];
            match patch.site {
                Site::SoftTokens if !(out_proj && parameter.contains(&last)) => own,
                Site::VirtualInputs { layer, .. } if of_layer(layer) && !out_proj => own,
                _ => 0,
            }
        };
        T + self.adapter.patches().patches().iter().map(tokens).sum::<usize>()
    }

    /// Of a value: the right factor of a product of two matrices has a weight's gradient.
    fn value(&self, value: &Value) -> usize {
        match value {
            Value::Product { b, a } if self.is_trained(a) => self.shape(b)[0] * self.shape(a).iter().product::<usize>(),
            Value::Mlp { input, w1, .. } => 2 * self.shape(input)[0] * self.shape(w1).iter().product::<usize>(),
            Value::Transposed(of) | Value::RowSums(of) => self.value(of),
            Value::Times(one, other) => self.value(one) + self.value(other),
            _ => 0,
        }
    }

    /// A diagonal before A takes A's product with nothing; one after B takes the rows of B's own gradient.
    fn factor(&self, value: &Value, is_a: bool) -> bool {
        match value {
            Value::Dense(name) => self.is_trained(name),
            Value::ScaledRows { scale, of } => self.is_trained(of) || (!is_a && self.is_trained(scale)),
            other => panic!("{other:?} as a low-rank factor"),
        }
    }

    fn low_rank(&self, parameter: &str, outputs: usize, change: &Change) -> usize {
        let Change::LowRank { a, b, ends, magnitude, .. } = change else { unreachable!("asked for low-rank changes") };
        let [rank, inputs] = self.shape(a.tensors()[a.tensors().len() - 1])[..] else { panic!("A is a matrix") };
        let (a, b) = (usize::from(self.factor(a, true)), usize::from(self.factor(b, false)));
        let (d, tied) = (self.config.d_model, self.config.tie_word_embeddings);
        let (embedding, head) = (parameter.ends_with("embeddings.weight"), parameter == "lm_head.weight");
        if !embedding && !head {
            let rows = self.rows(parameter);
            return a * rank * inputs * rows + b * outputs * rank * rows;
        }
        // The gradient of rows of B that are looked up is no product.
        let input = if embedding && *ends != Ends::Output { a * rank * d * T } else { 0 };
        let output = match (head || (tied && *ends != Ends::Input), magnitude) {
            (false, _) => 0,
            // Gains of single tokens: the one case where W + sBA is a matrix, with its whole gradient.
            (true, Some(_)) if *ends == Ends::Output => VOCAB * d * R + rank * VOCAB * d,
            (true, _) => a * rank * d * R + b * VOCAB * rank * R,
        };
        input + output
    }

    fn patch(&self, patch: &Patch) -> usize {
        let MambaConfig { d_inner, d_state, tie_word_embeddings: tied, .. } = *self.config;
        let mixer = |layer: usize| format!("layers.{layer}.mixer.x_proj.weight");
        match (&patch.site, &patch.change) {
            (Site::Rows { parameter, .. }, Change::Train { value, ends }) => {
                let size: usize = self.shape(value).iter().product();
                match parameter.as_str() {
                    "lm_head.weight" => size * R,
                    name if name.ends_with("embeddings.weight") => usize::from(tied && *ends != Ends::Input) * size * R,
                    name if name.ends_with("_proj.weight") => size * self.rows(name),
                    _ => 0,
                }
            }
            (Site::Rows { parameter, rows }, change @ Change::LowRank { .. }) => {
                self.low_rank(parameter, rows.len(), change)
            }
            (Site::Rows { parameter, .. }, Change::Columns { values, .. }) => {
                self.shape(values).iter().product::<usize>() * self.rows(parameter)
            }
            // The head's bias is one more column.
            (Site::Rows { parameter, .. }, Change::Bias(_)) => {
                let head = ["lm_head.weight", "embeddings.weight"].iter().any(|end| parameter.ends_with(end));
                usize::from(head) * VOCAB * R
            }
            (Site::Rows { .. }, Change::Add { value, .. }) => self.value(value),
            (Site::Operand { layer, operand: Operand::PreviousMap }, Change::Operand(value)) => {
                self.value(value) + d_state * d_inner * self.rows(&mixer(*layer))
            }
            (_, Change::Operand(value)) => self.value(value),
            (Site::AddedState { layer }, Change::AddedState { b, .. }) => {
                2 * self.shape(b.tensors()[0]).iter().product::<usize>() * self.rows(&mixer(*layer))
            }
            other => panic!("{other:?}"),
        }
    }
}

/// An affix goes through in_proj for its x alone: what hangs there has rows of its own, which no formula here tells.
fn affix_through_patched_in_proj(adapter: &Adapter) -> bool {
    let patches = adapter.patches().patches();
    let affix = |p: &Patch| matches!(p.site, Site::VirtualInputs { place: VirtualPlace::BeforeInProj, .. });
    let in_proj = |p: &Patch| matches!(&p.site, Site::Rows { parameter, .. } if parameter.ends_with("in_proj.weight"));
    patches.iter().any(affix) && patches.iter().any(in_proj)
}

#[test]
fn weight_gradients_are_those_of_the_trained_tensors() {
    let (mut counts, mut left_out) = (0, 0);
    for ground in few() {
        for subject in entries().into_iter().chain(pairs()) {
            let adapter = subject.random(&ground.model);
            if affix_through_patched_in_proj(&adapter) {
                left_out += 1;
                continue;
            }
            let formula = Formula { config: ground.model.config(), adapter: &adapter };
            let expected: usize = adapter.patches().patches().iter().map(|patch| formula.patch(patch)).sum();
            let (found, _) = counted(&ground.model, &adapter);
            let name = format!("{} on {}", subject.name, ground.label);
            assert_eq!(found.multiply_adds, expected as u64, "{name}: {} products", found.weight_gradients);
            counts += 1;
        }
    }
    println!("{counts} steps counted; {left_out} left out, with an affix through a patched in_proj");
    assert!(left_out <= 4);
}

/// Of methods on the state there is none at all, whatever the length of the batch.
#[test]
fn state_based_methods_have_no_weight_gradients() {
    let of = |config: serde_json::Value| Subject::new(vec![config]);
    for ground in few() {
        for subject in [
            of(serde_json::json!({"method": "state-offset-h"})),
            of(serde_json::json!({"method": "state-offset-y"})),
            of(serde_json::json!({"method": "initial-state"})),
            of(serde_json::json!({"method": "conv-initial-state"})),
            of(serde_json::json!({"method": "state-to-output"})),
            of(serde_json::json!({"method": "prefix-tuning"})),
            of(serde_json::json!({"method": "affix-tuning"})),
            of(serde_json::json!({"method": "prompt-tuning"})),
            of(serde_json::json!({"method": "bitfit"})),
            of(serde_json::json!({"method": "sdt"})),
        ] {
            let (found, _) = counted(&ground.model, &subject.random(&ground.model));
            assert_eq!(found, Counts::default(), "{} on {}", subject.name, ground.label);
        }
    }
}

/// What lies before the first trained tensor is not recorded.
#[test]
fn nothing_before_the_first_trained_tensor_is_recorded() {
    for ground in few() {
        let of = |config: serde_json::Value| {
            let (_, recorded) = counted(&ground.model, &Subject::new(vec![config]).random(&ground.model));
            let count = |op: &str| recorded.iter().filter(|name| **name == op).count();
            ["embedding", "conv1d", "scan", "linear", "add_rms_norm", "linear_cross_entropy"].map(count)
        };
        let trained = |parameter: &str| of(serde_json::json!({"method": "partial", "parameters": [parameter]}));
        // The skip of the last scan: its readout, out_proj, the last norm, the loss.
        assert_eq!(trained("layers.1.mixer.D"), [0, 0, 1, 1, 1, 1], "{}", ground.label);
        // The bias of the last convolution: it, x_proj, dt_proj, the scan, out_proj, and so on.
        assert_eq!(trained("layers.1.mixer.conv1d.bias"), [0, 1, 1, 3, 1, 1], "{}", ground.label);
        assert_eq!(trained("norm_f.weight"), [0, 0, 0, 0, 1, 1], "{}", ground.label);
        // Everything behind the embedding.
        assert_eq!(trained("embeddings.weight"), [1, 2, 2, 8, 3, 1], "{}", ground.label);
    }
}
