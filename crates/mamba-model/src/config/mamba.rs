//! The configuration of a Mamba-1 language model, and its Hugging Face form.

use serde_json::{Value, json};

use super::SpecialTokens;
use super::fields::MAX_DIMENSION;
use crate::error::ModelError;

/// The most layers taken from a file, so that a damaged number cannot ask for more tensor names than memory holds.
const MAX_LAYERS: usize = 1 << 16;

/// The activation after the convolution and of the gate. Others exist in the library's list; no Mamba uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenAct {
    /// x · sigmoid(x), also called swish.
    Silu,
}

/// How the weight of `dt_proj` is drawn at random initialisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeStepInit {
    /// Uniform in ± `dt_rank^-1/2 · time_step_scale`.
    Random,
    /// All `dt_rank^-1/2 · time_step_scale`.
    Constant,
}

/// Shapes and options of a Mamba-1 language model (Gu and Dao 2023). Docs give the Hugging Face name of each field.
#[derive(Debug, Clone, PartialEq)]
pub struct MambaConfig {
    /// `vocab_size`: rows of the embedding, padding rows of the original layout included.
    pub vocab_size: usize,
    /// `hidden_size`: width of the residual stream.
    pub d_model: usize,
    /// `num_hidden_layers`.
    pub num_hidden_layers: usize,
    /// `state_size`: N, state dimensions per channel.
    pub d_state: usize,
    /// `conv_kernel`: K, width of the causal convolution.
    pub d_conv: usize,
    /// `expand`: `d_inner` over `d_model`.
    pub expand: f64,
    /// `intermediate_size`: D, channels of the SSM. A file may set it apart from `expand`, and then it decides.
    pub d_inner: usize,
    /// `time_step_rank`: rank of the step size's projection; "auto" is `d_model / 16`, rounded up.
    pub dt_rank: usize,
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
    /// `hidden_act`.
    pub hidden_act: HiddenAct,
    /// `initializer_range`: standard deviation of the embedding at random initialisation.
    pub initializer_range: f64,
    /// `rescale_prenorm_residual`: divide `out_proj` by the root of the number of layers at random initialisation.
    /// Never written as true, see [`to_hugging_face_json`](MambaConfig::to_hugging_face_json).
    pub rescale_prenorm_residual: bool,
    /// `time_step_init_scheme`.
    pub time_step_init: TimeStepInit,
    /// `time_step_scale`.
    pub time_step_scale: f64,
    /// `time_step_min`: least step size at random initialisation.
    pub time_step_min: f64,
    /// `time_step_max`: largest step size at random initialisation.
    pub time_step_max: f64,
    /// `time_step_floor`: initial step sizes are clamped to at least this.
    pub time_step_floor: f64,
    /// `bos_token_id`, `eos_token_id`, `pad_token_id`.
    pub special_tokens: SpecialTokens,
    /// `dtype` or `torch_dtype`: what the weights are stored in, as the file says. The weights themselves decide.
    pub dtype: Option<String>,
}

impl MambaConfig {
    /// A model of these sizes with everything else as in the authors' code (`mamba_simple.py`, `mixer_seq_simple.py`:
    /// state 16, convolution 4, expansion 2, automatic rank, no projection biases, tied embeddings, embedding std
    /// 0.02, rescaled `out_proj`, step sizes log-uniform in 0.001 to 0.1) and no special tokens.
    pub fn new(vocab_size: usize, d_model: usize, num_hidden_layers: usize) -> MambaConfig {
        MambaConfig {
            vocab_size,
            d_model,
            num_hidden_layers,
            d_state: 16,
            d_conv: 4,
            expand: 2.0,
            d_inner: 2 * d_model,
            dt_rank: automatic_dt_rank(d_model),
            use_bias: false,
            use_conv_bias: true,
            tie_word_embeddings: true,
            layer_norm_epsilon: 1e-5,
            residual_in_fp32: true,
            hidden_act: HiddenAct::Silu,
            initializer_range: 0.02,
            rescale_prenorm_residual: true,
            time_step_init: TimeStepInit::Random,
            time_step_scale: 1.0,
            time_step_min: 0.001,
            time_step_max: 0.1,
            time_step_floor: 1e-4,
            special_tokens: SpecialTokens::default(),
            dtype: None,
        }
    }

    /// Checks the ranges that every other part relies on; files are checked on reading.
    ///
    /// # Errors
    /// [`ModelError::ConfigField`] with the first field out of range.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.validate_from("model configuration")
    }

    pub(super) fn validate_from(&self, origin: &str) -> Result<(), ModelError> {
        let fail = |field: &str, expected: String, found: String| {
            Err(ModelError::ConfigField { origin: origin.to_string(), field: field.to_string(), expected, found })
        };
        for (field, size, largest) in [
            ("vocab_size", self.vocab_size, MAX_DIMENSION),
            ("hidden_size", self.d_model, MAX_DIMENSION),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("state_size", self.d_state, MAX_DIMENSION),
            ("conv_kernel", self.d_conv, MAX_DIMENSION),
            ("intermediate_size", self.d_inner, MAX_DIMENSION),
            ("time_step_rank", self.dt_rank, MAX_DIMENSION),
        ] {
            if !(1..=largest).contains(&size) {
                return fail(field, format!("from 1 to {largest}"), size.to_string());
            }
        }
        for (field, value, valid) in [
            ("layer_norm_epsilon", self.layer_norm_epsilon, self.layer_norm_epsilon >= 0.0),
            ("expand", self.expand, self.expand > 0.0),
            ("initializer_range", self.initializer_range, self.initializer_range >= 0.0),
            ("time_step_scale", self.time_step_scale, self.time_step_scale >= 0.0),
            ("time_step_min", self.time_step_min, self.time_step_min > 0.0),
            ("time_step_max", self.time_step_max, self.time_step_max >= self.time_step_min),
            ("time_step_floor", self.time_step_floor, self.time_step_floor > 0.0),
        ] {
            if !(value.is_finite() && valid) {
                let expected = match field {
                    "time_step_max" => format!("finite and at least time_step_min ({})", self.time_step_min),
                    "layer_norm_epsilon" | "initializer_range" | "time_step_scale" => "finite and not negative".into(),
                    _ => "finite and positive".into(),
                };
                return fail(field, expected, value.to_string());
            }
        }
        Ok(())
    }

    /// The text of a `config.json` that transformers loads as `MambaForCausalLM`.
    ///
    /// `rescale_prenorm_residual` is written as false whatever it is here: it concerns weights that are yet to be
    /// drawn, and transformers (5.23) applies it to loaded ones too, which divides every trained `out_proj` by the root
    /// of the number of layers.
    pub fn to_hugging_face_json(&self) -> String {
        let expand = if self.expand.fract() == 0.0 { json!(self.expand as u64) } else { json!(self.expand) };
        let eos = match self.special_tokens.eos.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            ids => json!(ids),
        };
        let mut object = json!({
            "architectures": ["MambaForCausalLM"],
            "bos_token_id": self.special_tokens.bos,
            "conv_kernel": self.d_conv,
            "eos_token_id": eos,
            "expand": expand,
            "hidden_act": match self.hidden_act { HiddenAct::Silu => "silu" },
            "hidden_size": self.d_model,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.d_inner,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "model_type": "mamba",
            "num_hidden_layers": self.num_hidden_layers,
            "pad_token_id": self.special_tokens.pad,
            "rescale_prenorm_residual": false,
            "residual_in_fp32": self.residual_in_fp32,
            "state_size": self.d_state,
            "tie_word_embeddings": self.tie_word_embeddings,
            "time_step_floor": self.time_step_floor,
            "time_step_init_scheme": match self.time_step_init {
                TimeStepInit::Random => "random",
                TimeStepInit::Constant => "constant",
            },
            "time_step_max": self.time_step_max,
            "time_step_min": self.time_step_min,
            "time_step_rank": self.dt_rank,
            "time_step_scale": self.time_step_scale,
            "use_bias": self.use_bias,
            "use_cache": true,
            "use_conv_bias": self.use_conv_bias,
            "vocab_size": self.vocab_size,
        });
        if let Some(dtype) = &self.dtype {
            // transformers 5 writes `dtype`; 4 reads only `torch_dtype`, which 5 still understands.
            object["torch_dtype"] = json!(dtype);
        }
        format!("{object:#}\n")
    }
}

/// Official rule for `time_step_rank = "auto"`: ceil(d_model / 16).
pub(super) fn automatic_dt_rank(d_model: usize) -> usize {
    d_model.div_ceil(16)
}

/// Official rule for the width of the SSM: the whole part of expand · d_model. Absurd factors saturate and are refused
/// by [`MambaConfig::validate`].
pub(super) fn expanded(expand: f64, d_model: usize) -> usize {
    (expand * d_model as f64) as usize
}
