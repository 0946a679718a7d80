//! The places of a model that a fine-tuning method can touch, by name.
//!
//! A linear site is a stored matrix or a row range of it, named by the module's path as in checkpoints with the range
//! as a suffix: `backbone.layers.0.mixer.in_proj`, `backbone.layers.0.mixer.in_proj.x`. Patterns name sites by any
//! trailing part of the path: `in_proj.x` is that site in every layer. Operand sites are inputs of the convolution or
//! of the scan that the base model leaves absent; further state dimensions, virtual inputs of a layer and soft tokens in
//! front of the embedded sequence are sites of their own.

use std::fmt;
use std::ops::Range;

use crate::checkpoint::{EMBEDDING, LM_HEAD};
use crate::config::MambaConfig;

/// Which uses of a matrix a patch changes. It matters for embeddings that are tied to the language-model head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ends {
    /// Every use.
    Both,
    /// The lookup of tied embeddings, not the language-model head (the meaning of Hugging Face PEFT).
    Input,
    /// The language-model head, not the lookup.
    Output,
}

/// A matrix, or some of its rows, that multiplies activations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearSite {
    /// The site's name.
    pub name: String,
    /// The stored tensor it is part of.
    pub parameter: String,
    /// Its rows of that tensor; they are the site's outputs.
    pub rows: Range<usize>,
    /// The columns of that tensor; they are the site's inputs.
    pub in_features: usize,
    /// The uses of the tensor that are meant: of tied embeddings, `lm_head` is the output end.
    pub ends: Ends,
}

impl LinearSite {
    /// The number of outputs.
    pub fn out_features(&self) -> usize {
        self.rows.len()
    }

    /// Whether the site is the input embedding, whose rows are looked up and not multiplied.
    pub fn is_embedding(&self) -> bool {
        self.parameter == EMBEDDING && self.ends != Ends::Output
    }
}

/// An operand of the convolution or the scan that a method may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operand {
    /// h_0 `[D, N]`, the state before the first token of every sequence.
    ScanInitial,
    /// `[D, K - 1]`, the inputs of the convolution before the first token of every sequence.
    ConvInitial,
    /// S `[D, N]`, multiplies the state in the readout.
    StateScale,
    /// E `[D, N]`, added to S C.
    StateExtra,
    /// O `[D, N]`, the state offset h'.
    StateOffset,
    /// y' `[D]`, the output offset.
    OutputOffset,
    /// P `[N, D]`: C'_t = P u_t reads the previous state.
    PreviousMap,
}

impl Operand {
    /// The shape the operand has in a model of this configuration.
    pub fn shape(self, config: &MambaConfig) -> Vec<usize> {
        match self {
            Operand::ConvInitial => vec![config.d_inner, config.d_conv - 1],
            Operand::OutputOffset => vec![config.d_inner],
            Operand::PreviousMap => vec![config.d_state, config.d_inner],
            _ => vec![config.d_inner, config.d_state],
        }
    }

    /// The name in messages and tensor paths.
    pub fn name(self) -> &'static str {
        match self {
            Operand::ScanInitial => "scan_initial",
            Operand::ConvInitial => "conv_initial",
            Operand::StateScale => "state_scale",
            Operand::StateExtra => "state_extra",
            Operand::StateOffset => "state_offset",
            Operand::OutputOffset => "output_offset",
            Operand::PreviousMap => "previous_map",
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where virtual inputs enter a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VirtualPlace {
    /// In front of the layer's normalised input, `[k, d_model]`: before `in_proj`.
    BeforeInProj,
    /// In front of x, `[k, D]`: after `in_proj`, before the convolution.
    BeforeConv,
}

impl VirtualPlace {
    /// The width of an input there.
    pub fn width(self, config: &MambaConfig) -> usize {
        match self {
            VirtualPlace::BeforeInProj => config.d_model,
            VirtualPlace::BeforeConv => config.d_inner,
        }
    }
}

/// Where a patch goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Site {
    /// Rows of a stored tensor, or all of it.
    Rows {
        /// The tensor's name in the checkpoint.
        parameter: String,
        /// The rows.
        rows: Range<usize>,
    },
    /// An operand of one layer.
    Operand {
        /// The layer, from 0.
        layer: usize,
        /// Which operand.
        operand: Operand,
    },
    /// Further state dimensions of one layer's scan.
    AddedState {
        /// The layer, from 0.
        layer: usize,
    },
    /// Inputs in front of every sequence of one layer, whose outputs are dropped.
    VirtualInputs {
        /// The layer, from 0.
        layer: usize,
        /// Where they enter.
        place: VirtualPlace,
    },
    /// Tokens in front of every embedded sequence.
    SoftTokens,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Rows { parameter, rows } => write!(f, "{parameter}[{}..{}]", rows.start, rows.end),
            Site::Operand { layer, operand } => write!(f, "{}.{operand}", mixer_path(*layer)),
            Site::AddedState { layer } => write!(f, "{}.added_state", mixer_path(*layer)),
            Site::VirtualInputs { layer, place: VirtualPlace::BeforeInProj } => {
                write!(f, "{}.virtual_inputs_before_in_proj", mixer_path(*layer))
            }
            Site::VirtualInputs { layer, place: VirtualPlace::BeforeConv } => {
                write!(f, "{}.virtual_inputs_before_conv", mixer_path(*layer))
            }
            Site::SoftTokens => f.write_str("soft_tokens"),
        }
    }
}

/// The path of a layer's mixer in checkpoints.
pub fn mixer_path(layer: usize) -> String {
    format!("backbone.layers.{layer}.mixer")
}

/// All linear sites of a model, in the order of its computation.
pub fn linear_sites(config: &MambaConfig) -> Vec<LinearSite> {
    let MambaConfig { vocab_size, d_model, d_inner, d_state, dt_rank, .. } = *config;
    let site = |name: String, parameter: &str, rows: Range<usize>, in_features: usize| LinearSite {
        name,
        parameter: parameter.to_owned(),
        rows,
        in_features,
        ends: Ends::Both,
    };
    let ends = if config.tie_word_embeddings { Ends::Both } else { Ends::Input };
    let mut sites = vec![LinearSite { ends, ..site("backbone.embeddings".into(), EMBEDDING, 0..vocab_size, d_model) }];
    for layer in 0..config.num_hidden_layers {
        let path = mixer_path(layer);
        let mut module = |module: &str, parts: &[(&str, usize)], in_features: usize| {
            let (name, parameter) = (format!("{path}.{module}"), format!("{path}.{module}.weight"));
            let total = parts.iter().map(|(_, size)| size).sum();
            sites.push(site(name.clone(), &parameter, 0..total, in_features));
            let mut start = 0;
            for (part, size) in parts.iter().filter(|_| parts.len() > 1) {
                sites.push(site(format!("{name}.{part}"), &parameter, start..start + size, in_features));
                start += size;
            }
        };
        module("in_proj", &[("x", d_inner), ("z", d_inner)], d_model);
        module("x_proj", &[("dt", dt_rank), ("b", d_state), ("c", d_state)], d_inner);
        module("dt_proj", &[("", d_inner)], dt_rank);
        module("out_proj", &[("", d_model)], d_inner);
    }
    let head = if config.tie_word_embeddings { EMBEDDING } else { LM_HEAD };
    sites.push(LinearSite { ends: Ends::Output, ..site("lm_head".into(), head, 0..vocab_size, d_model) });
    sites
}

/// Whether `pattern` is the whole name or a trailing part of it that starts at a dot.
pub fn matches(name: &str, pattern: &str) -> bool {
    name == pattern || name.strip_suffix(pattern).is_some_and(|front| front.ends_with('.') && !pattern.is_empty())
}
