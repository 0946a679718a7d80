//! Configurations in the Hugging Face layout. Absent keys take the defaults of transformers' `MambaConfig` and
//! `Mamba2Config`, which differ between the two families.

use super::fields::Fields;
use super::mamba::{HiddenAct, MambaConfig, TimeStepInit, automatic_dt_rank, expanded};
use super::{Mamba2Config, ModelConfig, SpecialTokens};
use crate::error::ModelError;

pub(super) fn parse(fields: &mut Fields) -> Result<ModelConfig, ModelError> {
    let family = family(fields)?;
    if let Some(quantization) = fields.take("quantization_config") {
        return Err(fields.unsupported(
            format!("quantization_config = {quantization}"),
            "weights in f32, f64, bf16 or f16; save the model dequantised".to_string(),
        ));
    }
    match family {
        Family::Mamba => mamba(fields).map(ModelConfig::Mamba),
        Family::Mamba2 => mamba2(fields).map(ModelConfig::Mamba2),
    }
}

enum Family {
    Mamba,
    Mamba2,
}

/// `model_type` decides; `architectures`, where given, must agree, since a class of another name computes another
/// function from the same fields.
fn family(fields: &mut Fields) -> Result<Family, ModelError> {
    let model_type = fields.text("model_type")?;
    let class = match fields.take("architectures") {
        None => None,
        Some(value) => match value.as_array().and_then(|list| list.first()).and_then(|class| class.as_str()) {
            Some(class) => Some(class.to_string()),
            None => return Err(fields.mismatch("architectures", "a list of class names", value.to_string())),
        },
    };
    // Written by the library itself on every save; says nothing about the model.
    for bookkeeping in ["transformers_version", "_name_or_path"] {
        fields.take(bookkeeping);
    }
    let by_type = match model_type.as_deref() {
        Some("mamba") => Some(Family::Mamba),
        Some("mamba2") => Some(Family::Mamba2),
        Some(other) => return Err(fields.unknown_architecture(format!("model_type = `{other}`"))),
        None => None,
    };
    match (by_type, class.as_deref()) {
        (Some(family), None) => Ok(family),
        (Some(family), Some("MambaLMHeadModel")) => Ok(family),
        (None | Some(Family::Mamba), Some("MambaForCausalLM" | "MambaModel")) => Ok(Family::Mamba),
        (None | Some(Family::Mamba2), Some("Mamba2ForCausalLM" | "Mamba2Model")) => Ok(Family::Mamba2),
        (_, Some(class)) => {
            let model_type = model_type.as_deref().unwrap_or("absent");
            Err(fields.unknown_architecture(format!("architectures = [`{class}`] with model_type = `{model_type}`")))
        }
        (None, None) => Err(fields.unknown_architecture("(neither model_type nor architectures)".to_string())),
    }
}

/// Defaults: transformers 5.23, `models/mamba/configuration_mamba.py`.
fn mamba(fields: &mut Fields) -> Result<MambaConfig, ModelError> {
    hidden_act(fields)?;
    let d_model = fields.dimension("hidden_size", 768)?;
    let expand = fields.number("expand", 2.0)?;
    let config = MambaConfig {
        vocab_size: fields.dimension("vocab_size", 50280)?,
        d_model,
        num_hidden_layers: fields.dimension("num_hidden_layers", 32)?,
        d_state: fields.dimension("state_size", 16)?,
        d_conv: fields.dimension("conv_kernel", 4)?,
        expand,
        d_inner: fields.dimension("intermediate_size", expanded(expand, d_model))?,
        dt_rank: fields.dimension_or_auto("time_step_rank", automatic_dt_rank(d_model))?,
        use_bias: fields.flag("use_bias", false)?,
        use_conv_bias: fields.flag("use_conv_bias", true)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings", true)?,
        layer_norm_epsilon: fields.number("layer_norm_epsilon", 1e-5)?,
        residual_in_fp32: fields.flag("residual_in_fp32", true)?,
        hidden_act: HiddenAct::Silu,
        initializer_range: fields.number("initializer_range", 0.1)?,
        rescale_prenorm_residual: fields.flag("rescale_prenorm_residual", false)?,
        time_step_init: time_step_init(fields, "time_step_init_scheme")?,
        time_step_scale: fields.number("time_step_scale", 1.0)?,
        time_step_min: fields.number("time_step_min", 0.001)?,
        time_step_max: fields.number("time_step_max", 0.1)?,
        time_step_floor: fields.number("time_step_floor", 1e-4)?,
        special_tokens: special_tokens(fields, [0, 0, 0])?,
        dtype: dtype(fields)?,
    };
    config.validate_from(fields.origin())?;
    Ok(config)
}

/// Defaults: transformers 5.23, `models/mamba2/configuration_mamba2.py`.
fn mamba2(fields: &mut Fields) -> Result<Mamba2Config, ModelError> {
    hidden_act(fields)?;
    let config = Mamba2Config {
        vocab_size: fields.dimension("vocab_size", 32768)?,
        d_model: fields.dimension("hidden_size", 4096)?,
        num_hidden_layers: fields.dimension("num_hidden_layers", 64)?,
        d_state: fields.dimension("state_size", 128)?,
        d_conv: fields.dimension("conv_kernel", 4)?,
        expand: fields.number("expand", 2.0)?,
        num_heads: fields.dimension("num_heads", 128)?,
        head_dim: fields.dimension("head_dim", 64)?,
        n_groups: fields.dimension("n_groups", 8)?,
        chunk_size: fields.dimension("chunk_size", 256)?,
        use_bias: fields.flag("use_bias", false)?,
        use_conv_bias: fields.flag("use_conv_bias", true)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        layer_norm_epsilon: fields.number("layer_norm_epsilon", 1e-5)?,
        residual_in_fp32: fields.flag("residual_in_fp32", true)?,
        time_step_limit: fields.pair("time_step_limit", (0.0, f64::INFINITY))?,
        time_step_min: fields.number("time_step_min", 0.001)?,
        time_step_max: fields.number("time_step_max", 0.1)?,
        time_step_floor: fields.number("time_step_floor", 1e-4)?,
        gated_norm: true,
        norm_before_gate: false,
        d_skip_per_channel: false,
        special_tokens: special_tokens(fields, [0, 2, 1])?,
        dtype: dtype(fields)?,
    };
    let d_inner = expanded(config.expand, config.d_model);
    if config.num_heads * config.head_dim != d_inner {
        let found = format!("{} heads of {} channels", config.num_heads, config.head_dim);
        return Err(fields.mismatch("num_heads", &format!("such that heads cover {d_inner} channels"), found));
    }
    if !config.num_heads.is_multiple_of(config.n_groups) {
        let found = format!("{} groups for {} heads", config.n_groups, config.num_heads);
        return Err(fields.mismatch("n_groups", "a divisor of num_heads", found));
    }
    Ok(config)
}

fn hidden_act(fields: &mut Fields) -> Result<(), ModelError> {
    match fields.text("hidden_act")?.as_deref() {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(fields.unsupported(format!("hidden_act = `{other}`"), "silu, also named swish".to_string())),
    }
}

pub(super) fn time_step_init(fields: &mut Fields, key: &str) -> Result<TimeStepInit, ModelError> {
    match fields.text(key)?.as_deref() {
        None | Some("random") => Ok(TimeStepInit::Random),
        Some("constant") => Ok(TimeStepInit::Constant),
        Some(other) => Err(fields.mismatch(key, "\"random\" or \"constant\"", format!("\"{other}\""))),
    }
}

/// Token ids with the library's defaults for absent keys, in the order bos, eos, pad.
fn special_tokens(fields: &mut Fields, [bos, eos, pad]: [u32; 3]) -> Result<SpecialTokens, ModelError> {
    Ok(SpecialTokens {
        bos: fields.token_id("bos_token_id", Some(bos))?,
        eos: fields.token_ids("eos_token_id", Some(eos))?,
        pad: fields.token_id("pad_token_id", Some(pad))?,
    })
}

/// `dtype`, or `torch_dtype` as it was called before transformers 5.
fn dtype(fields: &mut Fields) -> Result<Option<String>, ModelError> {
    let (new, old) = (fields.text("dtype")?, fields.text("torch_dtype")?);
    Ok(new.or(old))
}
