//! Packed against padded batches of a real task: the same examples in the same order, end to end, or each filled up to the
//! longest of its batch as programs with rectangular batches do it. Tokens per second count the examples' own.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use statetune::datasets_eval::{Dataset, Pool, Split, Tokenizer, load};
use statetune::mamba_model::{Batch, Mamba};
use statetune::peft_methods::{Adapter, methods};
use statetune::ssm_kernels::runtime::Cuda;
use statetune::tensor::{DType, Device};
use statetune::trainer::cuda::DeviceSteps;
use statetune::trainer::data::micro_batch;
use statetune::trainer::step::MicroBatch;
use statetune::trainer::{AdamW, AdamWSettings, RunConfig};

const EXAMPLES: usize = 64;

/// Steps that are timed, after as many that load and capture.
const STEPS: usize = 100;

/// How the examples of a batch lie.
#[derive(Clone, Copy)]
enum Way {
    /// Packed, what all begin with computed once.
    Shared,
    Packed,
    Padded,
}

/// Times State-offset (h) on the model and the training data of a run's configuration.
pub fn run(config: &Path) -> anyhow::Result<()> {
    let config = RunConfig::read(config, &[])?;
    let tokenizer = Tokenizer::open(&config.model.tokenizer_path())?;
    let dataset = load(&config.data, Split::Train, &tokenizer, &Pool::new(8)?, None)?;
    anyhow::ensure!(dataset.examples.len() >= 2 * STEPS * EXAMPLES, "too few examples");
    for (name, way) in [("shared-prefix", Way::Shared), ("packed", Way::Packed), ("padded", Way::Padded)] {
        let cuda = Cuda::new(0)?;
        let model = Mamba::load(&config.model.path, &Device::Cuda(cuda.clone()), DType::Bf16).context("the model")?;
        let method = methods::parse_value(serde_json::json!({ "method": "state-offset-h" }))?;
        let adapter = Adapter::new(&model, vec![method], 0)?;
        let mut optimizer = AdamW::new(&adapter, AdamWSettings::default());
        let mut steps = DeviceSteps::new(&model, &adapter, &mut optimizer, true)?;
        let (mut own, mut computed, mut start) = (0, 0, Instant::now());
        for step in 0..2 * STEPS {
            if step == STEPS {
                cuda.synchronize()?;
                (own, computed, start) = (0, 0, Instant::now());
            }
            let indices: Vec<usize> = (step * EXAMPLES..(step + 1) * EXAMPLES).collect();
            let batch = batch(&dataset, &indices, way)?;
            own += indices.iter().map(|&i| dataset.examples[i].tokens.len() - 1).sum::<usize>();
            computed += batch.tokens();
            steps.gradients(&[batch], None)?;
            steps.outcome()?;
            steps.update(1e-3, 1.0)?;
        }
        cuda.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        let name = format!("cuda/padding/{name}");
        println!("METRIC:{name}/tokens_per_s:{:.0}:tokens/s", own as f64 / seconds);
        println!("METRIC:{name}/step_ms:{:.3}:ms", 1e3 * seconds / STEPS as f64);
        println!("METRIC:{name}/computed_per_own_token:{:.3}:tokens", computed as f64 / own as f64);
    }
    Ok(())
}

fn batch(dataset: &Dataset, indices: &[usize], way: Way) -> anyhow::Result<MicroBatch> {
    let packed = micro_batch(dataset, indices, matches!(way, Way::Shared))?;
    if !matches!(way, Way::Padded) {
        return Ok(packed);
    }
    let offsets = packed.batch.offsets();
    let longest = offsets.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
    let ids: Vec<Vec<u32>> = offsets
        .windows(2)
        .map(|ends| {
            let mut ids = packed.batch.ids()[ends[0]..ends[1]].to_vec();
            ids.resize(longest, 0);
            ids
        })
        .collect();
    let sequence_of = packed.batch.sequence_of();
    let moved = |&row: &u32| {
        let s = sequence_of[row as usize] as usize;
        (s * longest + row as usize - offsets[s]) as u32
    };
    Ok(MicroBatch {
        prefix: None,
        batch: Batch::new(&ids)?,
        rows: packed.rows.iter().map(moved).collect(),
        targets: packed.targets,
    })
}
