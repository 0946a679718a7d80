//! Configurations in the original layout (`mamba_ssm/models/config_mamba.py`): `d_model`, `n_layer`, and the arguments
//! of the mixer under `ssm_cfg`. Absent keys take the defaults of the authors' classes.

use super::fields::{Fields, MAX_DIMENSION};
use super::hugging_face::time_step_init;
use super::mamba::{HiddenAct, MambaConfig, automatic_dt_rank, expanded};
use super::{Mamba2Config, ModelConfig, SpecialTokens};
use crate::error::ModelError;

/// What the two families share outside of `ssm_cfg`.
struct Outer {
    d_model: usize,
    num_hidden_layers: usize,
    vocab_size: usize,
    residual_in_fp32: bool,
    tie_word_embeddings: bool,
    layer_norm_epsilon: f64,
}

pub(super) fn parse(fields: &mut Fields) -> Result<ModelConfig, ModelError> {
    let mut ssm = fields.object("ssm_cfg")?;
    let outer = outer(fields)?;
    let model = match ssm.text("layer")?.as_deref() {
        None | Some("Mamba1") => ModelConfig::Mamba(mamba(&mut ssm, outer)?),
        Some("Mamba2") => ModelConfig::Mamba2(mamba2(&mut ssm, outer)?),
        Some(other) => return Err(fields.unknown_architecture(format!("ssm_cfg.layer = `{other}`"))),
    };
    // How the authors' code computes and initialises, not what.
    for key in ["use_fast_path", "use_mem_eff_path", "A_init_range", "conv_init", "device", "dtype", "layer_idx"] {
        ssm.take(key);
    }
    // The mixer takes no argument that it does not use, so an unknown one belongs to a changed mixer.
    if let Some(key) = ssm.into_unused().first() {
        return Err(
            fields.unsupported(format!("`{key}`"), "arguments of the official Mamba and Mamba2 mixers".to_string())
        );
    }
    Ok(model)
}

fn outer(fields: &mut Fields) -> Result<Outer, ModelError> {
    if !fields.flag("rms_norm", true)? {
        return Err(fields.unsupported("rms_norm = false (LayerNorm)".to_string(), "models with RMSNorm".to_string()));
    }
    if let Some(width) = fields.take("d_intermediate").filter(|width| width != 0) {
        return Err(fields.unsupported(
            format!("d_intermediate = {width} (an MLP in every block)"),
            "models of mixer blocks alone".to_string(),
        ));
    }
    if fields.flag("bidirectional", false)? {
        return Err(fields.unsupported("bidirectional = true".to_string(), "causal models".to_string()));
    }
    let vocab_size = fields.dimension("vocab_size", 50277)?;
    let multiple = fields.dimension("pad_vocab_size_multiple", 8)?;
    Ok(Outer {
        d_model: fields.dimension("d_model", 2560)?,
        num_hidden_layers: fields.dimension("n_layer", 64)?,
        vocab_size: vocab_size.next_multiple_of(multiple),
        residual_in_fp32: fields.flag("residual_in_fp32", true)?,
        tie_word_embeddings: fields.flag("tie_embeddings", true)?,
        layer_norm_epsilon: fields.number("norm_epsilon", 1e-5)?,
    })
}

/// Defaults: `mamba_ssm/modules/mamba_simple.py`, class `Mamba`.
fn mamba(ssm: &mut Fields, outer: Outer) -> Result<MambaConfig, ModelError> {
    let expand = ssm.number("expand", 2.0)?;
    let config = MambaConfig {
        d_state: ssm.dimension("d_state", 16)?,
        d_conv: ssm.dimension("d_conv", 4)?,
        expand,
        d_inner: expanded(expand, outer.d_model),
        dt_rank: ssm.dimension_or_auto("dt_rank", automatic_dt_rank(outer.d_model))?,
        use_bias: ssm.flag("bias", false)?,
        use_conv_bias: ssm.flag("conv_bias", true)?,
        tie_word_embeddings: outer.tie_word_embeddings,
        layer_norm_epsilon: outer.layer_norm_epsilon,
        residual_in_fp32: outer.residual_in_fp32,
        hidden_act: HiddenAct::Silu,
        time_step_init: time_step_init(ssm, "dt_init")?,
        time_step_scale: ssm.number("dt_scale", 1.0)?,
        time_step_min: ssm.number("dt_min", 0.001)?,
        time_step_max: ssm.number("dt_max", 0.1)?,
        time_step_floor: ssm.number("dt_init_floor", 1e-4)?,
        ..MambaConfig::new(outer.vocab_size, outer.d_model, outer.num_hidden_layers)
    };
    config.validate_from(ssm.origin())?;
    Ok(config)
}

/// Defaults: `mamba_ssm/modules/mamba2.py`, class `Mamba2`.
fn mamba2(ssm: &mut Fields, outer: Outer) -> Result<Mamba2Config, ModelError> {
    let expand = ssm.number("expand", 2.0)?;
    let d_inner = expanded(expand, outer.d_model);
    if let Some(width) = ssm.take("d_ssm").filter(|width| width.as_u64() != Some(d_inner as u64)) {
        return Err(ssm.unsupported(
            format!("d_ssm = {width} (part of the channels bypass the SSM)"),
            format!("d_ssm = expand * d_model = {d_inner}"),
        ));
    }
    if !(1..=MAX_DIMENSION).contains(&d_inner) {
        return Err(ssm.mismatch(
            "expand",
            &format!("such that d_inner is from 1 to {MAX_DIMENSION}"),
            expand.to_string(),
        ));
    }
    let head_dim = ssm.dimension("headdim", 64)?;
    if !d_inner.is_multiple_of(head_dim) {
        return Err(ssm.mismatch(
            "headdim",
            &format!("a divisor of expand * d_model = {d_inner}"),
            head_dim.to_string(),
        ));
    }
    let num_heads = d_inner / head_dim;
    let n_groups = ssm.dimension("ngroups", 1)?;
    if !num_heads.is_multiple_of(n_groups) {
        return Err(ssm.mismatch("ngroups", &format!("a divisor of the {num_heads} heads"), n_groups.to_string()));
    }
    Ok(Mamba2Config {
        vocab_size: outer.vocab_size,
        d_model: outer.d_model,
        num_hidden_layers: outer.num_hidden_layers,
        d_state: ssm.dimension("d_state", 128)?,
        d_conv: ssm.dimension("d_conv", 4)?,
        expand,
        num_heads,
        head_dim,
        n_groups,
        chunk_size: ssm.dimension("chunk_size", 256)?,
        use_bias: ssm.flag("bias", false)?,
        use_conv_bias: ssm.flag("conv_bias", true)?,
        tie_word_embeddings: outer.tie_word_embeddings,
        layer_norm_epsilon: outer.layer_norm_epsilon,
        residual_in_fp32: outer.residual_in_fp32,
        time_step_limit: ssm.pair("dt_limit", (0.0, f64::INFINITY))?,
        time_step_min: ssm.number("dt_min", 0.001)?,
        time_step_max: ssm.number("dt_max", 0.1)?,
        time_step_floor: ssm.number("dt_init_floor", 1e-4)?,
        gated_norm: ssm.flag("rmsnorm", true)?,
        norm_before_gate: ssm.flag("norm_before_gate", false)?,
        d_skip_per_channel: ssm.flag("D_has_hdim", false)?,
        special_tokens: SpecialTokens::default(),
        dtype: None,
    })
}
