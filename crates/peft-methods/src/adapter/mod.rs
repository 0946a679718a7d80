//! Methods on a model: the tensors they train, by name.

mod files;
mod merge;

pub(crate) use files::bad;
pub use files::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Loaded};

use serde_json::Value;
use statetune_mamba_model::{Mamba, Patches};
use statetune_ssm_kernels::random::{stream_of, uniform};
use statetune_tensor::{DType, Tensor};

use crate::method::{Init, Method, Plan, TensorSpec};
use crate::{PeftError, methods};

/// One or several methods on a model, with their trained tensors.
#[derive(Debug)]
pub struct Adapter {
    methods: Vec<Box<dyn Method>>,
    specs: Vec<TensorSpec>,
    patches: Patches,
}

impl Adapter {
    /// New tensors at the values from which training starts: the model is unchanged by them.
    ///
    /// Random tensors depend on (seed, name) only. No methods make an empty adapter.
    ///
    /// # Errors
    /// When a method does not fit the model, or two methods train the same tensor.
    pub fn new(model: &Mamba, methods: Vec<Box<dyn Method>>, seed: u64) -> Result<Adapter, PeftError> {
        let (plan, methods) = plan(model, methods)?;
        let tensors = plan.tensors.iter().map(|spec| Ok((spec.name.clone(), initial(model, spec, seed)?)));
        let tensors = tensors.collect::<Result<_, PeftError>>()?;
        let patches = Patches::new(model, plan.patches, tensors)?;
        Ok(Adapter { methods, specs: plan.tensors, patches })
    }

    /// The same with given tensors, which must be exactly those of the methods' plans; any order.
    ///
    /// # Errors
    /// When one is missing, unknown, or of another shape.
    pub fn with_tensors(
        model: &Mamba,
        methods: Vec<Box<dyn Method>>,
        mut tensors: Vec<(String, Tensor)>,
    ) -> Result<Adapter, PeftError> {
        let (plan, methods) = plan(model, methods)?;
        let mut ordered = Vec::new();
        for spec in &plan.tensors {
            let fail = |reason: String| {
                PeftError::Model(statetune_mamba_model::ModelError::Patch { name: spec.name.clone(), reason })
            };
            let at = tensors.iter().position(|(name, _)| *name == spec.name);
            let (name, value) = tensors.swap_remove(at.ok_or_else(|| fail("the adapter lacks this tensor".into()))?);
            if value.shape() != spec.shape {
                return Err(fail(format!("shape {:?}, expected {:?} for this model", value.shape(), spec.shape)));
            }
            ordered.push((name, value.cast(model.compute())));
        }
        if let Some((name, _)) = tensors.first() {
            let reason = "the adapter's methods have no such tensor".into();
            return Err(PeftError::Model(statetune_mamba_model::ModelError::Patch { name: name.clone(), reason }));
        }
        let patches = Patches::new(model, plan.patches, ordered)?;
        Ok(Adapter { methods, specs: plan.tensors, patches })
    }

    /// The methods.
    pub fn methods(&self) -> &[Box<dyn Method>] {
        &self.methods
    }

    /// The methods' configurations, as they are written in files.
    pub fn config(&self) -> Vec<Value> {
        self.methods.iter().map(|method| methods::to_config(method.as_ref())).collect()
    }

    /// What the model applies.
    pub fn patches(&self) -> &Patches {
        &self.patches
    }

    /// The trained tensors' specifications, in the order of [`Patches::tensors`].
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// The number of trained numbers.
    pub fn trainable(&self) -> usize {
        self.patches.trainable()
    }
}

/// The plans of all methods as one.
fn plan(model: &Mamba, methods: Vec<Box<dyn Method>>) -> Result<(Plan, Vec<Box<dyn Method>>), PeftError> {
    let mut whole = Plan::default();
    for method in &methods {
        let plan = method.plan(model.config())?;
        whole.patches.extend(plan.patches);
        whole.tensors.extend(plan.tensors);
    }
    Ok((whole, methods))
}

/// A tensor's start value in the model's compute type.
fn initial(model: &Mamba, spec: &TensorSpec, seed: u64) -> Result<Tensor, PeftError> {
    let len = spec.shape.iter().product();
    let constant = |x: f32| Tensor::from_vec(vec![x; len], &spec.shape);
    let value = match &spec.init {
        Init::Zeros => constant(0.0)?,
        Init::Ones => constant(1.0)?,
        Init::KaimingUniform => {
            let bound = 1.0 / (spec.shape.last().copied().unwrap_or(1) as f64).sqrt();
            // Drawn in single precision whatever is computed in, so that both paths start alike.
            let mut values = vec![0f32; len];
            uniform(&mut values, -bound, bound, seed, stream_of(&spec.name));
            Tensor::from_vec(values, &spec.shape)?
        }
        Init::Parameter(name) => {
            let parameter = model.parameter(name).ok_or_else(|| {
                let reason = "the model has no such tensor".into();
                statetune_mamba_model::ModelError::Patch { name: name.clone(), reason }
            })?;
            parameter.value.clone()
        }
    };
    debug_assert!(matches!(model.compute(), DType::F32 | DType::F64));
    Ok(value.cast(model.compute()))
}
