//! Packed = alone, gradients included, with dropout on.

use crate::support::{Pass, close, every_model, hang_on_everything, lengths, pass, tokens, train_everything};

/// Hidden states and losses of a packed batch are those of its sequences alone, and its gradients are their sum. Every
/// stored tensor is trained, operands and low-rank additions (with dropout) hang on the layers.
#[test]
fn packed_is_alone() {
    every_model(|model, path, at| {
        let patches = train_everything(model).and(hang_on_everything(model)).unwrap();
        let mut all: Vec<(u64, Vec<u32>)> = Vec::new();
        for (i, len) in lengths(model.config()).into_iter().rev().enumerate() {
            all.push((100 + i as u64, tokens(len, 4)));
        }
        all.push((7, tokens(2, 4)));
        let sequences: Vec<(u64, &[u32])> = all.iter().map(|(example, ids)| (*example, ids.as_slice())).collect();
        let total: usize = all.iter().map(|(_, ids)| ids.len()).sum();
        let packed = pass(model, &patches, &sequences, total as f64);
        let alone: Vec<Pass> = sequences.iter().map(|s| pass(model, &patches, &[*s], total as f64)).collect();

        let joined = |f: fn(&Pass) -> Vec<f64>| alone.iter().flat_map(f).collect::<Vec<f64>>();
        close(
            &format!("{at}, hidden"),
            &packed.hidden.to_f64_vec(),
            &joined(|p| p.hidden.to_f64_vec()),
            path.tolerance,
        );
        close(&format!("{at}, losses"), &packed.row_losses, &joined(|p| p.row_losses.clone()), path.tolerance);
        close(&format!("{at}, loss"), &[packed.loss], &[alone.iter().map(|p| p.loss).sum()], path.tolerance);
        for (i, (name, gradient)) in packed.gradients.iter().enumerate() {
            let gradient = gradient.as_ref().unwrap_or_else(|| panic!("{at}: {name} has no gradient")).to_f64_vec();
            assert!(gradient.iter().any(|&g| g != 0.0), "{at}: the gradient of {name} is zero");
            let mut sum = vec![0.0; gradient.len()];
            for pass in &alone {
                let part = pass.gradients[i].1.as_ref().expect("as in the packed batch").to_f64_vec();
                sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            close(&format!("{at}, gradient of {name}"), &gradient, &sum, path.tolerance);
        }
    });
}

/// Dropout does something, and follows the example: packed elsewhere as another example, a sequence differs.
#[test]
fn dropout_follows_the_example() {
    every_model(|model, _, at| {
        let (patches, sequence) = (hang_on_everything(model), tokens(9, 6));
        let hidden = |example| pass(model, &patches, &[(example, &sequence)], 1.0).hidden.to_f64_vec();
        assert_ne!(hidden(1), hidden(2), "{at}");
    });
}
