//! The same bits on 1, 2 and 7 threads.

use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Mamba};
use statetune_ssm_kernels::Level;
use statetune_tensor::{DType, Device};

use crate::support::{ComputePath, Pass, hang_on_everything, model, pass, tokens, train_everything, whole};

/// Large enough that every kernel has several tasks.
fn wide(threads: usize) -> Mamba {
    let config = MambaConfig { use_bias: true, tie_word_embeddings: false, ..MambaConfig::new(301, 72, 2) };
    let level = Level::best();
    let device = Device::cpu(level, threads).unwrap();
    model(&config, &ComputePath { label: level.to_string(), device, compute: DType::F32, tolerance: 0.0 })
}

#[test]
fn forward_and_backward_have_the_same_bits() {
    let all = [(1, tokens(70, 1)), (2, tokens(1, 1)), (3, tokens(130, 1)), (4, tokens(17, 1))];
    let sequences: Vec<(u64, &[u32])> = all.iter().map(|(example, ids)| (*example, ids.as_slice())).collect();
    let run = |threads: usize| {
        let model = wide(threads);
        let patches = train_everything(&model).and(hang_on_everything(&model)).unwrap();
        let Pass { loss, row_losses, hidden, gradients } = pass(&model, &patches, &sequences, 218.0);
        let (logits, states) = whole(&model, &patches, &Batch::new(&[&all[0].1, &all[3].1]).unwrap(), None);
        let mut bits = vec![
            ("loss".to_owned(), loss.to_le_bytes().to_vec()),
            ("row losses".to_owned(), row_losses.iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("hidden".to_owned(), hidden.to_le_bytes()),
            ("logits".to_owned(), logits.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ];
        bits.extend(states.detach().tensors().into_iter().map(|(name, t)| (name, t.to_le_bytes())));
        bits.extend(gradients.into_iter().map(|(name, g)| (name, g.expect("trained").to_le_bytes())));
        bits
    };
    let one = run(1);
    for threads in [2, 7] {
        for ((name, one), (_, found)) in one.iter().zip(run(threads)) {
            assert!(*one == found, "{name}: 1 and {threads} threads differ");
        }
    }
}
