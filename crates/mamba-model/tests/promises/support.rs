//! Random models of every shape, the paths they are computed on, tokens, patches and one comparison.

use statetune_mamba_model::checkpoint::expected_tensors;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value};
use statetune_mamba_model::site::{Operand, Site, linear_sites, matches};
use statetune_mamba_model::{Batch, Bound, DropoutStep, Mamba, Patches, StateVars};
use statetune_ssm_kernels::Level;
use statetune_ssm_kernels::random::{stream_of, uniform};
use statetune_tensor::{DType, Device, Tape, Tensor};

/// A device, the type computed in, and how far two ways to one result may be apart.
pub struct ComputePath {
    pub label: String,
    pub device: Device,
    pub compute: DType,
    /// Of the largest value of a tensor, or of 1.
    pub tolerance: f64,
}

#[path = "../../../../tests/support/test_device.rs"]
mod test_device;

/// `f64` on the reference, `f32` at every level.
pub fn paths() -> Vec<ComputePath> {
    if let Some((label, device, compute)) = test_device::asked_for() {
        return vec![ComputePath {
            label,
            device,
            compute,
            tolerance: if compute == DType::Bf16 { 3e-2 } else { 2e-5 },
        }];
    }
    let path = |level: Level, compute: DType, tolerance: f64| ComputePath {
        label: format!("{compute} {level}"),
        device: Device::cpu(level, 1).unwrap(),
        compute,
        tolerance,
    };
    let mut paths = vec![path(Level::Reference, DType::F64, 1e-12)];
    paths.extend(Level::available().into_iter().map(|level| path(level, DType::F32, 1e-5)));
    paths
}

/// `f64` on the reference, also where a GPU is asked for: what differences and refusals are tested on.
pub fn exact_path() -> ComputePath {
    let device = Device::cpu(Level::Reference, 1).unwrap();
    ComputePath { label: "f64 reference".into(), device, compute: DType::F64, tolerance: 1e-12 }
}

/// Two layers; K from 1 to 5, N of 1, 3 and 16, with and without biases, tied and untied, odd and even widths.
pub fn configs() -> Vec<MambaConfig> {
    let config = |d_conv, d_state, use_bias, tied| MambaConfig {
        d_conv,
        d_state,
        use_bias,
        use_conv_bias: d_conv != 3,
        tie_word_embeddings: tied,
        ..MambaConfig::new(21, 6, 2)
    };
    let odd = MambaConfig { d_inner: 11, dt_rank: 3, ..config(4, 3, true, false) };
    // Rows of whole 16 bytes in bf16, as published models have them.
    let even = MambaConfig { use_conv_bias: true, ..MambaConfig::new(21, 8, 2) };
    vec![
        config(1, 16, false, true),
        config(2, 3, true, false),
        config(3, 1, false, false),
        config(4, 16, true, true),
        config(5, 3, false, true),
        odd,
        even,
    ]
}

/// What makes a configuration differ from the others.
pub fn describe(config: &MambaConfig, path: &ComputePath) -> String {
    let MambaConfig { d_conv, d_state, use_bias, tie_word_embeddings, d_inner, .. } = config;
    format!("{}, K {d_conv}, N {d_state}, D {d_inner}, bias {use_bias}, tied {tie_word_embeddings}", path.label)
}

/// Numbers uniform within `bound`, the same in every precision.
pub fn noise(name: &str, shape: &[usize], bound: f64) -> Tensor {
    let mut values = vec![0f32; shape.iter().product()];
    uniform(&mut values, -bound, bound, 77, stream_of(name));
    Tensor::from_vec(values, shape).unwrap()
}

/// A random model moved off its initial values, none of whose tensors is zero, one or constant.
pub fn model(config: &MambaConfig, path: &ComputePath) -> Mamba {
    let model = Mamba::random(config, &path.device, path.compute, DType::F32, 3).unwrap();
    let moved = model.parameters().iter().map(|parameter| {
        let shift = noise(&parameter.name, parameter.value.shape(), 0.3).to_f64_vec();
        let values = parameter.value.to_f64_vec().iter().zip(shift).map(|(v, s)| f64::from((v + s) as f32)).collect();
        (parameter.name.clone(), Tensor::from_vec::<f64>(values, parameter.value.shape()).unwrap())
    });
    model.with_parameters(moved.collect()).unwrap()
}

/// Every model on every path.
pub fn every_model(mut f: impl FnMut(&Mamba, &ComputePath, &str)) {
    for path in paths() {
        for config in configs() {
            f(&model(&config, &path), &path, &describe(&config, &path));
        }
    }
}

/// The lengths of the promises: 1, K - 2, 17, and one that crosses two borders of the scan's chunks of 32.
pub fn lengths(config: &MambaConfig) -> Vec<usize> {
    let mut lengths = vec![1, config.d_conv.saturating_sub(2).max(1), 17, 70];
    lengths.dedup();
    lengths
}

/// A sequence of its own for every (length, stream).
pub fn tokens(len: usize, stream: u64) -> Vec<u32> {
    let mut draws = vec![0f64; len];
    uniform(&mut draws, 0.0, 21.0, 5, stream ^ (len as u64) << 32);
    draws.into_iter().map(|x| x as u32).collect()
}

/// Trains every stored tensor at its present value.
pub fn train_everything(model: &Mamba) -> Patches {
    let (mut patches, mut tensors) = (Vec::new(), Vec::new());
    for ((name, shape), parameter) in expected_tensors(model.config()).into_iter().zip(model.parameters()) {
        let site = Site::Rows { parameter: name.clone(), rows: 0..shape[0] };
        patches.push(Patch { site, change: Change::train(name.clone()) });
        tensors.push((name, parameter.value.cast(model.trained_type())));
    }
    Patches::new(model, patches, tensors).unwrap()
}

/// One of each other kind of patch in every layer: operands (initial states among them), and low-rank additions with
/// dropout that overlap on in_proj.
pub fn hang_on_everything(model: &Mamba) -> Patches {
    use Operand::{ConvInitial, OutputOffset, ScanInitial, StateExtra, StateOffset, StateScale};
    hang_on(model, &[ScanInitial, ConvInitial, StateScale, StateExtra, StateOffset, OutputOffset])
}

/// The same without the operands that change how the scan's states are read.
pub fn hang_on_offsets(model: &Mamba) -> Patches {
    use Operand::{ConvInitial, OutputOffset, ScanInitial, StateOffset};
    hang_on(model, &[ScanInitial, ConvInitial, StateOffset, OutputOffset])
}

fn hang_on(model: &Mamba, operands: &[Operand]) -> Patches {
    let (config, compute) = (model.config(), model.trained_type());
    let (mut patches, mut tensors) = (Vec::new(), Vec::new());
    for layer in 0..config.num_hidden_layers {
        for operand in operands.iter().copied().filter(|&o| o != Operand::ConvInitial || config.d_conv > 1) {
            let name = format!("{layer}.{operand}");
            tensors.push((name.clone(), noise(&name, &operand.shape(config), 0.5).cast(compute)));
            let change = Change::Operand(Value::Dense(name));
            patches.push(Patch { site: Site::Operand { layer, operand }, change });
        }
    }
    for site in linear_sites(config) {
        if !["embeddings", "in_proj", "in_proj.x", "x_proj.c", "out_proj"].iter().any(|p| matches(&site.name, p)) {
            continue;
        }
        let (a, b) = (format!("{}.a", site.name), format!("{}.b", site.name));
        tensors.push((a.clone(), noise(&a, &[2, site.in_features], 0.3).cast(compute)));
        tensors.push((b.clone(), noise(&b, &[site.out_features(), 2], 0.3).cast(compute)));
        let (a, b) = (Value::Dense(a), Value::Dense(b));
        let change = Change::LowRank { a, b, scale: 1.5, dropout: 0.25, ends: site.ends, magnitude: None };
        patches.push(Patch { site: Site::Rows { parameter: site.parameter, rows: site.rows }, change });
    }
    Patches::new(model, patches, tensors).unwrap()
}

/// The loss of predicting each token from those before it, hidden states and gradients.
pub struct Pass {
    pub loss: f64,
    pub row_losses: Vec<f64>,
    pub hidden: Tensor,
    pub gradients: Vec<(String, Option<Tensor>)>,
}

/// The position of a row in its sequence's text is (example, row + first position): what dropout keys on.
pub fn pass(model: &Mamba, patches: &Patches, sequences: &[(u64, &[u32])], divisor: f64) -> Pass {
    let ids: Vec<&[u32]> = sequences.iter().map(|(_, tokens)| *tokens).collect();
    let offsets = ids.iter().scan(0, |end, tokens| {
        *end += tokens.len();
        Some(*end)
    });
    let offsets = std::iter::once(0).chain(offsets).collect();
    let examples: Vec<u64> = sequences.iter().map(|(example, _)| *example).collect();
    let batch = Batch::packed(ids.concat(), offsets, &examples, &vec![0; ids.len()]).unwrap();
    let tape = Tape::new(model.device());
    let bound = Bound::new(&tape, model, patches, Some(DropoutStep { seed: 4, step: 9 })).unwrap();
    let hidden = model.forward(&tape, &bound, &batch, None, false).unwrap().hidden;
    // A rotation of the sequence stands in for the next tokens, so that every row has a target, whatever the length.
    let targets: Vec<u32> = ids.iter().flat_map(|t| (0..t.len()).map(|i| t[(i + 1) % t.len()])).collect();
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    let output = model.loss(&tape, &bound, &batch, &hidden, &rows, &targets, divisor).unwrap();
    let gradients = bound.gradients(&mut tape.backward(&output.loss).unwrap());
    Pass {
        loss: output.loss.tensor().item().unwrap(),
        row_losses: output.row_losses().unwrap(),
        hidden: hidden.tensor().clone(),
        gradients: patches.tensors().iter().map(|t| t.name.clone()).zip(gradients).collect(),
    }
}

/// The logits `[T, vocab_size]` at every position of a packed batch, and the final states.
pub fn whole(model: &Mamba, patches: &Patches, batch: &Batch, states: Option<&StateVars>) -> (Vec<f64>, StateVars) {
    let tape = Tape::inference(model.device());
    let bound = Bound::new(&tape, model, patches, None).unwrap();
    let output = model.forward(&tape, &bound, batch, states, true).unwrap();
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    let logits = model.logits(&tape, &bound, &output.hidden, &rows).unwrap();
    (logits.tensor().to_f64_vec(), output.states.unwrap())
}

/// |found - expected| <= tolerance · max(1, largest expected); says where it is worst.
#[track_caller]
pub fn close(name: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}: lengths");
    let scale = expected.iter().fold(1f64, |m, x| m.max(x.abs()));
    let error = |i: usize| if found[i].is_finite() { (found[i] - expected[i]).abs() / scale } else { f64::INFINITY };
    let Some(worst) = (0..found.len()).max_by(|&i, &j| error(i).total_cmp(&error(j))) else { return };
    let percent = 100.0 * error(worst) / tolerance;
    let (f, e) = (found[worst], expected[worst]);
    assert!(
        percent <= 100.0,
        "{name}: largest difference at {worst}: {f} instead of {e}, {percent:.0}% of the tolerance"
    );
}

/// The tensors of two states, one by one.
#[track_caller]
pub fn close_states(
    name: &str,
    found: &statetune_mamba_model::State,
    expected: &statetune_mamba_model::State,
    tolerance: f64,
) {
    assert_eq!(found.sequences(), expected.sequences(), "{name}: sequences");
    for ((part, found), (_, expected)) in found.tensors().iter().zip(expected.tensors()) {
        assert_eq!(found.shape(), expected.shape(), "{name}, {part}");
        close(&format!("{name}, {part}"), &found.to_f64_vec(), &expected.to_f64_vec(), tolerance);
    }
}
