//! How much memory a training step will need, from shapes: what `inspect` shows before a run; and how much this process has
//! taken.

use statetune_mamba_model::Mamba;
use statetune_mamba_model::patch::{Change, Patches};
use statetune_mamba_model::site::Site;

/// Rows of logits that are held at once by the fused loss.
const LOGIT_ROWS: usize = statetune_ssm_kernels::cross_entropy::ROWS_PER_BLOCK;

/// Planned bytes, by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// The base model's tensors.
    pub weights: usize,
    /// Trained tensors with gradient and two moments.
    pub trained: usize,
    /// What the blocks keep from forward to backward.
    pub activations: usize,
    /// The largest temporary values of a block and its gradients.
    pub working: usize,
    /// The block of logits.
    pub logits: usize,
}

impl MemoryPlan {
    /// For micro-batches of so many tokens, of which `labelled` at most carry a label.
    pub fn new(model: &Mamba, patches: &Patches, micro_batch_tokens: usize, labelled: usize) -> MemoryPlan {
        let config = model.config();
        let added = patches.added_states(config.num_hidden_layers).into_iter().max().unwrap_or(0);
        let (d, n, m) = (config.d_inner, config.d_state + added, config.d_model);
        let float = model.compute().bytes();
        let weights = model.parameters().iter().map(|p| p.value.len() * p.value.dtype().bytes()).sum();
        // A trained or low-rank linear layer keeps its input; a frozen one keeps nothing.
        let linear_inputs: usize = patches
            .patches()
            .iter()
            .filter_map(|patch| match (&patch.site, &patch.change) {
                (Site::Rows { parameter, .. }, Change::LowRank { .. } | Change::Train { .. } | Change::Add { .. }) => {
                    let shape = model.parameter(parameter)?.value.shape().to_vec();
                    parameter.ends_with("_proj.weight").then(|| shape[1])
                }
                _ => None,
            })
            .sum();
        // Norm: the sum; convolution: x; scan: u, Δ, z, B, C and a state every 32 tokens.
        let layer = m + 4 * d + 2 * n + (d * n).div_ceil(statetune_ssm_kernels::scan::CHUNK);
        let kept = config.num_hidden_layers * layer + linear_inputs;
        MemoryPlan {
            weights,
            trained: 4 * patches.trainable() * float,
            activations: kept * micro_batch_tokens * float,
            // Outputs of a block's operations and the gradients that replace them.
            working: (8 * d + 4 * m) * micro_batch_tokens * float,
            logits: labelled.min(LOGIT_ROWS) * config.vocab_size * float,
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.trained + self.activations + self.working + self.logits
    }
}

/// The most memory that this process has had at once, in MiB, where the system tells.
pub fn process_peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Lets the process's peak begin anew at what it has now; returns whether the system does so.
pub fn start_process_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Bytes of memory that this process could still take without others being pushed out, where the system tells: the least of what
/// is available in the machine and within the process's control group.
pub fn available() -> Option<usize> {
    let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<usize>().ok());
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = 1024 * number(meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?)?;
    let of_group = |file: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{file}")).ok();
    let group = || {
        let (most, now) = (number(&of_group("max")?)?, number(&of_group("current")?)?);
        // What was read from files and not used since is given back when it is needed.
        let stat = of_group("stat")?;
        let cache = stat.lines().find_map(|line| number(line.strip_prefix("inactive_file ")?)).unwrap_or(0);
        Some(most.saturating_sub(now.saturating_sub(cache)))
    };
    Some(group().map_or(machine, |group| machine.min(group)))
}
