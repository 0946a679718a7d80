//! The masks of a device are the CPU's.

use super::{DropoutKey, cuda, dropout};
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::testing::{self, numbers, reference};

#[test]
fn cuda_dropout_is_the_cpus() {
    let device = testing::cuda();
    let key = DropoutKey { seed: (1 << 40) | 7, step: 12, site: 0xdead_beef_0123_4567 };
    for cols in [1, 3, 4, 33, 100, 772, 2000] {
        let examples = [7, 7, 1 << 40, 0, u64::MAX];
        let positions = [0, 1, 0, u32::MAX, 5];
        let (on_examples, on_positions) = (device.upload(&examples).unwrap(), device.upload(&positions).unwrap());
        let step = device.upload(&[key.step]).unwrap();
        for p in [0.0, 0.3, 0.99] {
            for (act, _) in ACTIVATIONS {
                let x = numbers(5 * cols, 1);
                let (on_x, y) = (upload(&device, &x, act), device.array(act, x.len()).unwrap());
                let mut expected = vec![0.0; x.len()];
                let x = rounded(&x, act);
                dropout(&reference(), &mut expected, &x, p, key, &examples, &positions, 5, cols);
                // By value, and read on the device, where the key's own step is of no matter.
                for (key, step) in [(key, None), (DropoutKey { step: 99, ..key }, Some(step.view()))] {
                    let (examples, positions) = (on_examples.view(), on_positions.view());
                    cuda::dropout(&device, y.view(), on_x.view(), p, key, step, examples, positions, 5, cols).unwrap();
                    assert_eq!(download(&device, y.view()), rounded(&expected, act), "{cols} {p} {act:?}");
                }
            }
        }
    }
}
