//! Random initialisation, as in the authors' code (`mamba_simple.py`, `mixer_seq_simple.py`; Gu and Dao 2023, section 3.6
//! and appendix E).
//!
//! Each tensor is drawn from a stream keyed by (seed, the tensor's name), so it does not depend on the others.

use statetune_ssm_kernels::random::{normal, stream_of, uniform};
use statetune_tensor::{DType, Device, Tensor};

use crate::checkpoint::{EMBEDDING, expected_tensors};
use crate::config::{MambaConfig, TimeStepInit};
use crate::parameters::{Parameter, stays_in_storage_type};
use crate::{Mamba, ModelError};

impl Mamba {
    /// A model with random weights, kept and saved in the type `storage`.
    ///
    /// Embedding: normal with the configured deviation. Linear layers and the convolution: uniform in ±1/√(inputs),
    /// biases of linear layers zero. `A_log` = ln(1..N), D = 1, norms 1. `dt_proj`: uniform in ±`dt_rank`^-1/2, its bias
    /// the inverse softplus of a step size log-uniform between `time_step_min` and `time_step_max`. `out_proj` divided
    /// by √(layers).
    ///
    /// # Errors
    /// The configuration is out of range, or `compute` is not f32 or f64.
    pub fn random(
        config: &MambaConfig,
        device: &Device,
        compute: DType,
        storage: DType,
        seed: u64,
    ) -> Result<Mamba, ModelError> {
        config.validate()?;
        crate::model::check_compute(device, compute)?;
        let wide = Device::trained_type(compute);
        let parameters = expected_tensors(config).into_iter().map(|(name, shape)| {
            let values = Tensor::from_vec(draw(config, &name, &shape, seed), &shape)?.cast(storage);
            let kept = if wide == DType::F32 && stays_in_storage_type(&name) { storage } else { wide };
            Ok(Parameter { name, value: values.cast(kept), stored: storage })
        });
        Mamba::new(config.clone(), device, compute, parameters.collect::<Result<_, ModelError>>()?)
    }
}

fn draw(config: &MambaConfig, name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let len = shape.iter().product();
    let (mut values, stream) = (vec![0f32; len], stream_of(name));
    let within = |values: &mut [f32], bound: f64| uniform(values, -bound, bound, seed, stream);
    let fan_in = |inputs: usize| 1.0 / (inputs as f64).sqrt();
    let kind = name.rsplit("mixer.").next().unwrap_or(name);
    match kind {
        EMBEDDING => normal(&mut values, 0.0, config.initializer_range, seed, stream),
        "A_log" => {
            for (i, value) in values.iter_mut().enumerate() {
                *value = ((i % config.d_state + 1) as f32).ln();
            }
        }
        "D" => values.fill(1.0),
        "conv1d.weight" | "conv1d.bias" => within(&mut values, fan_in(config.d_conv)),
        "dt_proj.weight" => {
            let bound = (config.dt_rank as f64).powf(-0.5) * config.time_step_scale;
            match config.time_step_init {
                TimeStepInit::Random => within(&mut values, bound),
                TimeStepInit::Constant => values.fill(bound as f32),
            }
        }
        "dt_proj.bias" => {
            let mut exponents = vec![0f64; len];
            uniform(&mut exponents, config.time_step_min.ln(), config.time_step_max.ln(), seed, stream);
            for (value, exponent) in values.iter_mut().zip(exponents) {
                let step = exponent.exp().max(config.time_step_floor);
                // softplus(value) = step.
                *value = (step + (-(-step).exp_m1()).ln()) as f32;
            }
        }
        "in_proj.bias" | "out_proj.bias" => {}
        _ if shape.len() == 1 => values.fill(1.0), // norms
        _ => {
            within(&mut values, fan_in(shape[1]));
            if kind == "out_proj.weight" && config.rescale_prenorm_residual {
                let layers = (config.num_hidden_layers as f32).sqrt();
                values.iter_mut().for_each(|value| *value /= layers);
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use statetune_ssm_kernels::{Cpu, Level};

    fn model(seed: u64) -> Mamba {
        let mut config = MambaConfig::new(40, 32, 4);
        config.use_bias = true;
        let device = Device::Cpu(Cpu::new(Level::Reference, 1).unwrap());
        Mamba::random(&config, &device, DType::F32, DType::F32, seed).unwrap()
    }

    fn values(model: &Mamba, name: &str) -> Vec<f64> {
        model.parameter(name).unwrap().value.to_f64_vec()
    }

    #[test]
    fn follows_the_authors_ranges() {
        let model = model(3);
        let mixer = "backbone.layers.1.mixer";
        let a_log = values(&model, &format!("{mixer}.A_log"));
        assert!((a_log[16 + 4] - 5f64.ln()).abs() < 1e-6);
        assert!(values(&model, &format!("{mixer}.D")).iter().all(|&d| d == 1.0));
        assert!(values(&model, "backbone.norm_f.weight").iter().all(|&w| w == 1.0));
        assert!(values(&model, &format!("{mixer}.in_proj.bias")).iter().all(|&b| b == 0.0));
        let steps: Vec<f64> =
            values(&model, &format!("{mixer}.dt_proj.bias")).iter().map(|b| b.exp().ln_1p()).collect();
        assert!(steps.iter().all(|s| (0.000_99..0.101).contains(s)), "{steps:?}");
        assert!(steps.iter().any(|&s| s < 0.004) && steps.iter().any(|&s| s > 0.025), "log-uniform");
        let largest = |name: &str| values(&model, &format!("{mixer}.{name}")).iter().fold(0f64, |m, x| m.max(x.abs()));
        let bounds = [("in_proj.weight", 1.0 / 32f64.sqrt()), ("out_proj.weight", 0.5 / 64f64.sqrt())];
        for (name, bound) in bounds {
            assert!((0.95 * bound..=bound * 1.0001).contains(&largest(name)), "{name}: {} of {bound}", largest(name));
        }
        let embedding = values(&model, EMBEDDING);
        let deviation = (embedding.iter().map(|x| x * x).sum::<f64>() / embedding.len() as f64).sqrt();
        assert!((deviation - 0.02).abs() < 0.002, "{deviation}");
    }

    #[test]
    fn seeds_decide() {
        let name = "backbone.layers.0.mixer.in_proj.weight";
        assert_eq!(values(&model(1), name), values(&model(1), name));
        assert_ne!(values(&model(1), name), values(&model(2), name));
    }
}
