//! `statetune average`

use anyhow::bail;
use serde_json::json;
use statetune_tensor::DType;
use statetune_trainer::config::DeviceSection;

use super::adapters::{self, Named};
use super::{AverageArguments, Output, out, setup};

pub(super) fn run(arguments: &AverageArguments, output: Output) -> anyhow::Result<()> {
    let out = &arguments.out;
    // Before models are read for nothing.
    out::check_free(out)?;
    let all = Named::parse_all(&arguments.adapters)?;
    let weights = weights(&arguments.weights, all.len())?;
    let base = adapters::common_base(&all, arguments.model.as_deref())?;
    let device = setup::device(&DeviceSection { threads: arguments.threads, ..DeviceSection::default() })?;
    let model = setup::model(&base, &device, DType::F32)?;
    let mut set = adapters::load(&all, &model, output)?;
    let parts: Vec<(&str, f64)> = adapters::names(&all).into_iter().zip(weights.iter().copied()).collect();
    // A name that nobody gives.
    let average = set.average("=", &parts)?;
    out::write_whole(out, |folder| Ok(average.save(folder, &base.to_string_lossy())?))?;
    let (methods, numbers) = (average.config(), average.trainable());
    if output.json {
        say!(
            "{:#}",
            json!({"adapter": out, "base": base, "adapters": Named::json(&all), "weights": weights, "methods": methods,
                "numbers": numbers})
        );
        return Ok(());
    }
    for (named, weight) in all.iter().zip(&weights) {
        say!("{weight} of {}", named.path.display());
    }
    say!("{}: {numbers} numbers", out.display());
    Ok(())
}

/// The weights given, or equal ones.
fn weights(given: &[f64], adapters: usize) -> anyhow::Result<Vec<f64>> {
    if adapters < 2 {
        bail!("an average is of two adapters at least: give --adapter more than once");
    }
    match given.len() {
        0 => Ok(vec![1.0 / adapters as f64; adapters]),
        count if count == adapters => Ok(given.to_vec()),
        count => bail!("--weights has {count} numbers for {adapters} adapters"),
    }
}
