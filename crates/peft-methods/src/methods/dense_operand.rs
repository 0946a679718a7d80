//! One operand per layer, trained whole from zeros, with nothing to choose: what State-offset (y) and the initial states have
//! in common.

use serde::Deserialize;
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::{Operand, Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, Plan, TensorSpec};

/// Such a method.
#[derive(Debug, Clone)]
pub(super) struct DenseOperand {
    /// The name of its entry.
    pub tag: &'static str,
    /// What it trains.
    pub operand: Operand,
    /// The tensor's name under the layer's mixer.
    pub tensor: &'static str,
    /// How many numbers it trains per layer, by its formula.
    pub per_layer: fn(&MambaConfig) -> usize,
}

impl DenseOperand {
    /// Reads its configuration, which has no options.
    pub fn parse(self, value: Value) -> Result<Box<dyn Method>, PeftError> {
        #[derive(Deserialize)]
        struct NoOptions {}
        MethodInfo::read::<NoOptions>(self.tag, &[], value)?;
        Ok(Box::new(self))
    }
}

impl Method for DenseOperand {
    fn tag(&self) -> &'static str {
        self.tag
    }

    fn config(&self) -> Value {
        json!({})
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let name = format!("{}.{}", mixer_path(layer), self.tensor);
            let site = Site::Operand { layer, operand: self.operand };
            plan.patches.push(Patch { site, change: Change::dense(name.clone()) });
            plan.tensors.push(TensorSpec::new(name, self.operand.shape(model), Init::Zeros));
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * (self.per_layer)(model))
    }
}
