//! The stored tensors of a model in memory, by name and by place.

use std::collections::HashMap;

use statetune_tensor::{DType, Tensor};

use crate::checkpoint::{EMBEDDING, LM_HEAD, expected_tensors};
use crate::config::MambaConfig;
use crate::site::mixer_path;

/// A stored tensor in memory.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Name in the Hugging Face scheme.
    pub name: String,
    /// Values. Matrices of linear layers stay in their storage type; everything else is widened to the compute type.
    pub value: Tensor,
    /// The type it was stored in, and will be saved in.
    pub stored: DType,
}

/// A parameter's place in the list.
pub(crate) type Id = usize;

/// Where a layer's tensors are.
#[derive(Debug, Clone)]
pub(crate) struct LayerIds {
    pub norm: Id,
    pub in_proj: Id,
    pub in_proj_bias: Option<Id>,
    pub conv_weight: Id,
    pub conv_bias: Option<Id>,
    pub x_proj: Id,
    pub dt_proj: Id,
    pub dt_bias: Id,
    pub a_log: Id,
    pub d: Id,
    pub out_proj: Id,
    pub out_proj_bias: Option<Id>,
}

/// Where all tensors are.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub embedding: Id,
    pub layers: Vec<LayerIds>,
    pub norm_f: Id,
    pub head: Id,
    by_name: HashMap<String, Id>,
}

impl Ids {
    pub fn new(config: &MambaConfig) -> Ids {
        let by_name: HashMap<String, Id> =
            expected_tensors(config).into_iter().enumerate().map(|(i, (name, _))| (name, i)).collect();
        let layers = (0..config.num_hidden_layers).map(|layer| {
            let mixer = mixer_path(layer);
            let id = |name: &str| by_name[&format!("{mixer}.{name}")];
            LayerIds {
                norm: by_name[&format!("backbone.layers.{layer}.norm.weight")],
                in_proj: id("in_proj.weight"),
                in_proj_bias: config.use_bias.then(|| id("in_proj.bias")),
                conv_weight: id("conv1d.weight"),
                conv_bias: config.use_conv_bias.then(|| id("conv1d.bias")),
                x_proj: id("x_proj.weight"),
                dt_proj: id("dt_proj.weight"),
                dt_bias: id("dt_proj.bias"),
                a_log: id("A_log"),
                d: id("D"),
                out_proj: id("out_proj.weight"),
                out_proj_bias: config.use_bias.then(|| id("out_proj.bias")),
            }
        });
        Ids {
            embedding: by_name[EMBEDDING],
            layers: layers.collect(),
            norm_f: by_name["backbone.norm_f.weight"],
            head: by_name[if config.tie_word_embeddings { EMBEDDING } else { LM_HEAD }],
            by_name,
        }
    }

    pub fn find(&self, name: &str) -> Option<Id> {
        self.by_name.get(name).copied()
    }
}

/// Whether a tensor of this name is a matrix that products read in its storage type.
pub(crate) fn stays_in_storage_type(name: &str) -> bool {
    [EMBEDDING, LM_HEAD].contains(&name) || name.ends_with("_proj.weight")
}
