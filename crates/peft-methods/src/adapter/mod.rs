//! Methods on a model: the tensors they train, by name.

mod files;
mod merge;
mod start;

pub(crate) use files::bad;
pub use files::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Loaded};
pub use merge::{MergeReport, MergedTensor};

use serde_json::Value;
use start::Starts;
use statetune_mamba_model::patch::{Change, Value as PatchValue};
use statetune_mamba_model::{Mamba, ModelError, Patches};
use statetune_tensor::Tensor;

use crate::method::{Method, Plan, TensorSpec};
use crate::{PeftError, methods};

/// One or several methods on a model, with their trained tensors.
#[derive(Debug)]
pub struct Adapter {
    methods: Vec<Box<dyn Method>>,
    specs: Vec<TensorSpec>,
    patches: Patches,
    untied: bool,
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
        let mut starts = Starts::new(model, seed);
        let tensors = plan.tensors.iter().map(|spec| Ok((spec.name.clone(), starts.of(spec)?)));
        let tensors = tensors.collect::<Result<_, PeftError>>()?;
        Adapter::on(model, methods, plan, tensors)
    }

    /// The same with given tensors, which must be exactly those of the methods' plans that are saved; any order.
    ///
    /// # Errors
    /// When one is missing, unknown, or of another shape.
    pub fn with_tensors(
        model: &Mamba,
        methods: Vec<Box<dyn Method>>,
        mut tensors: Vec<(String, Tensor)>,
    ) -> Result<Adapter, PeftError> {
        let (plan, methods) = plan(model, methods)?;
        let mut starts = Starts::new(model, 0);
        let mut ordered = Vec::new();
        for spec in &plan.tensors {
            let fail = |reason: String| PeftError::Model(ModelError::Patch { name: spec.name.clone(), reason });
            let at = tensors.iter().position(|(name, _)| *name == spec.name);
            let (name, value) = match at {
                Some(at) => tensors.swap_remove(at),
                None if !spec.saved => (spec.name.clone(), starts.of(spec)?),
                None => return Err(fail("the adapter lacks this tensor".into())),
            };
            if value.shape() != spec.shape {
                return Err(fail(format!("shape {:?}, expected {:?} for this model", value.shape(), spec.shape)));
            }
            ordered.push((name, value.cast(model.trained_type())));
        }
        if let Some((name, _)) = tensors.first() {
            let reason = "the adapter's methods have no such tensor".into();
            return Err(PeftError::Model(ModelError::Patch { name: name.clone(), reason }));
        }
        Adapter::on(model, methods, plan, ordered)
    }

    fn on(
        model: &Mamba,
        methods: Vec<Box<dyn Method>>,
        plan: Plan,
        tensors: Vec<(String, Tensor)>,
    ) -> Result<Adapter, PeftError> {
        let constants = plan.tensors.iter().filter(|spec| !spec.trained).map(|spec| spec.name.as_str());
        let patches = Patches::new(model, plan.patches, tensors)?.with_constants(constants)?;
        Ok(Adapter { methods, specs: plan.tensors, patches, untied: !model.config().tie_word_embeddings })
    }

    /// Patches alone, of whatever methods, to be merged.
    pub(crate) fn of_patches(model: &Mamba, patches: Patches) -> Adapter {
        let untied = !model.config().tie_word_embeddings;
        Adapter { methods: Vec::new(), specs: Vec::new(), patches, untied }
    }

    /// The adapter without what only training needs: reparametrisations give way to the values they compute.
    ///
    /// # Errors
    /// None for an adapter of this model.
    pub fn exported(&self, model: &Mamba) -> Result<Adapter, PeftError> {
        let again = |method: &dyn Method| match method.exported() {
            Some(plain) => Ok(plain),
            None => methods::copy(method),
        };
        let plain = self.methods.iter().map(|method| again(method.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let (plan, plain) = plan(model, plain)?;
        let mut tensors = Vec::new();
        for spec in plan.tensors.iter().filter(|spec| spec.saved) {
            let own = self.patches.tensor(&spec.name);
            let value = match own {
                Ok(buffer) => buffer.tensor(),
                // A plain value that had been computed: by the patch at its place.
                Err(_) => {
                    let is_it = |change: &Change| *change == Change::Operand(PatchValue::Dense(spec.name.clone()));
                    let at = plan.patches.iter().position(|patch| is_it(&patch.change));
                    let Some(Change::Operand(value)) = at.map(|at| &self.patches.patches()[at].change) else {
                        return Err(ModelError::Patch { name: spec.name.clone(), reason: "no patch".into() }.into());
                    };
                    self.patches.value(model.device(), value)?
                }
            };
            tensors.push((spec.name.clone(), value));
        }
        Adapter::with_tensors(model, plain, tensors)
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

    /// The tensors' specifications, in the order of [`Patches::tensors`].
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Whether its model has a head apart from the embedding.
    pub(crate) fn is_untied(&self) -> bool {
        self.untied
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
        // Constants that are made from a seed may be shared by several methods.
        let shared = |spec: &TensorSpec| !spec.saved && whole.tensors.contains(spec);
        let own: Vec<TensorSpec> = plan.tensors.into_iter().filter(|spec| !shared(spec)).collect();
        whole.tensors.extend(own);
    }
    Ok((whole, methods))
}
