//! The configuration of a Mamba-2 language model. Read completely, so that a folder can be inspected; its blocks do
//! not exist yet.

use super::SpecialTokens;

/// Shapes and options of a Mamba-2 language model (Dao and Gu 2024). Docs give the Hugging Face name of each field.
#[derive(Debug, Clone, PartialEq)]
pub struct Mamba2Config {
    /// `vocab_size`: rows of the embedding, padding rows of the original layout included.
    pub vocab_size: usize,
    /// `hidden_size`: width of the residual stream.
    pub d_model: usize,
    /// `num_hidden_layers`.
    pub num_hidden_layers: usize,
    /// `state_size`: N, state dimensions per channel.
    pub d_state: usize,
    /// `conv_kernel`: K, width of the causal convolution over x, B and C together.
    pub d_conv: usize,
    /// `expand`: `d_inner` over `d_model`.
    pub expand: f64,
    /// `num_heads`: H.
    pub num_heads: usize,
    /// `head_dim`: P, channels per head; H · P = `d_inner`.
    pub head_dim: usize,
    /// `n_groups`: G, groups of heads that share B and C.
    pub n_groups: usize,
    /// `chunk_size`: tokens per chunk of the scan. Changes only the order of summation.
    pub chunk_size: usize,
    /// `use_bias`: biases on `in_proj` and `out_proj`.
    pub use_bias: bool,
    /// `use_conv_bias`: bias on the convolution.
    pub use_conv_bias: bool,
    /// `tie_word_embeddings`: the LM head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// `layer_norm_epsilon`: of every RMSNorm.
    pub layer_norm_epsilon: f64,
    /// `residual_in_fp32`: the residual stream is f32 whatever the compute type.
    pub residual_in_fp32: bool,
    /// `time_step_limit`: step sizes are clamped into this range; (0, infinity) when the file is silent.
    pub time_step_limit: (f64, f64),
    /// `time_step_min`: least step size at random initialisation.
    pub time_step_min: f64,
    /// `time_step_max`: largest step size at random initialisation.
    pub time_step_max: f64,
    /// `time_step_floor`: initial step sizes are clamped to at least this.
    pub time_step_floor: f64,
    /// `rmsnorm` of the original layout: the gated norm before `out_proj` exists.
    pub gated_norm: bool,
    /// `norm_before_gate` of the original layout: normalise y, then gate it.
    pub norm_before_gate: bool,
    /// `D_has_hdim` of the original layout: the skip D has one entry per channel, not per head.
    pub d_skip_per_channel: bool,
    /// `bos_token_id`, `eos_token_id`, `pad_token_id`.
    pub special_tokens: SpecialTokens,
    /// `dtype` or `torch_dtype`: what the weights are stored in, as the file says. The weights themselves decide.
    pub dtype: Option<String>,
}
