//! Patches whose tensors have other names are the same patches, and can be applied beside the first.

use statetune_mamba_model::{Batch, Patches};

use crate::support::{every_model, hang_on_everything, tokens, whole};

#[test]
fn other_names_are_the_same_patches() {
    every_model(|model, _, at| {
        let batch = Batch::new(&[tokens(40, 1), tokens(1, 1)]).unwrap();
        let patches = hang_on_everything(model);
        let renamed = patches.prefixed("other/");
        let logits = |patches: &Patches| whole(model, patches, &batch, None).0;
        assert_eq!(logits(&patches), logits(&renamed), "{at}");
        for (own, other) in patches.tensors().iter().zip(renamed.tensors()) {
            assert_eq!(other.name, format!("other/{}", own.name), "{at}");
        }
        // The same names exclude each other, others do not; the tensors are shared.
        assert!(patches.clone().and(patches.clone()).is_err(), "{at}");
        let both = patches.clone().and(renamed).unwrap();
        assert!(logits(&both) != logits(&patches), "{at}");
        let first = &patches.tensors()[0];
        let shared = both.tensor(&format!("other/{}", first.name)).unwrap();
        let zeros = statetune_tensor::Tensor::zeros(first.buffer.dtype(), &first.buffer.shape());
        first.buffer.set(zeros.clone()).unwrap();
        assert_eq!(shared.tensor().to_le_bytes(), zeros.to_le_bytes(), "{at}");
    });
}
