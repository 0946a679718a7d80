//! States: gathered, joined, taken apart into tensors and back; refused where they do not belong.

use statetune_mamba_model::{Batch, Patches, State};
use statetune_tensor::{DType, Tensor};

use crate::support::{close, configs, every_model, exact_path, model, tokens, whole};

fn bytes(state: &State) -> Vec<Vec<u8>> {
    state.tensors().iter().map(|(_, tensor)| tensor.to_le_bytes()).collect()
}

#[test]
fn gather_and_concat_move_sequences() {
    every_model(|model, _, at| {
        let none = Patches::none();
        let prompts = [tokens(1, 1), tokens(17, 2), tokens(3, 3)];
        let (all, _) = model.prefill(&none, &prompts, 2048).unwrap();
        let single: Vec<State> = (0..3).map(|s| all.gather(&[s]).unwrap()).collect();
        assert_eq!(bytes(&State::concat(&single.iter().collect::<Vec<_>>()).unwrap()), bytes(&all), "{at}");
        let picked = all.gather(&[2, 0, 2]).unwrap();
        assert_eq!(picked.sequences(), 3);
        let expected = State::concat(&[&single[2], &single[0], &single[2]]).unwrap();
        assert_eq!(bytes(&picked), bytes(&expected), "{at}");
        assert_eq!(bytes(&all.gather(&[0, 1, 2]).unwrap()), bytes(&all), "{at}");
        let total = 3 * single[0].bytes();
        assert_eq!((all.bytes(), bytes(&all).concat().len()), (total, total), "{at}");
        // A clone that is stepped leaves the original as it was.
        let before = bytes(&all);
        let branch = all.clone();
        let (after, _) = model.step(&none, &branch, &[1, 2, 3]).unwrap();
        assert_ne!(bytes(&after), before, "{at}");
        assert_eq!(bytes(&all), before, "{at}");
        assert_eq!(bytes(&branch), before, "{at}");
        // Nobody left: what a server does when every sequence has ended.
        let nobody = all.gather(&[]).unwrap();
        assert_eq!(nobody.gather(&[]).unwrap().sequences(), 0, "{at}");
    });
}

/// A gathered state goes on as the sequence it came from.
#[test]
fn gathered_states_go_on() {
    every_model(|model, path, at| {
        let none = Patches::none();
        let prompts = [tokens(5, 1), tokens(40, 2)];
        let (all, _) = model.prefill(&none, &prompts, 2048).unwrap();
        let (_, found) = model.step(&none, &all.gather(&[1]).unwrap(), &[7]).unwrap();
        let longer = [prompts[1].as_slice(), &[7]].concat();
        let (logits, _) = whole(model, &none, &Batch::new(&[longer]).unwrap(), None);
        close(at, &found.to_f64_vec(), &logits[40 * model.config().vocab_size..], path.tolerance);
    });
}

#[test]
fn tensors_and_back() {
    every_model(|model, path, at| {
        let (state, _) = model.prefill(&Patches::none(), &[tokens(9, 1), tokens(2, 1)], 4).unwrap();
        let tensors = state.tensors();
        let take = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor.clone());
        let back = State::from_tensors(model.config(), &[], statetune_tensor::Device::trained_type(path.compute), take)
            .unwrap();
        assert_eq!((back.sequences(), bytes(&back)), (2, bytes(&state)), "{at}");
        let (_, expected) = model.step(&Patches::none(), &state, &[1, 2]).unwrap();
        let (_, found) = model.step(&Patches::none(), &back, &[1, 2]).unwrap();
        assert_eq!(found.to_le_bytes(), expected.to_le_bytes(), "{at}");
    });
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let path = &exact_path();
    let configs = configs();
    let models: Vec<_> = configs.iter().map(|config| model(config, path)).collect();
    let model = &models[3];
    let (state, _) = model.prefill(&Patches::none(), &[tokens(3, 1), tokens(2, 1)], 4).unwrap();
    let message = |result: Result<State, statetune_mamba_model::ModelError>| result.map(drop).unwrap_err().to_string();

    assert!(message(state.gather(&[0, 2])).contains("sequence 2 of 2"));
    assert!(message(State::concat(&[])).contains("nothing"));
    let (other, _) = models[4].prefill(&Patches::none(), &[tokens(3, 1)], 4).unwrap();
    assert!(message(State::concat(&[&state, &other])).contains("shape"));
    // The same number of values in another shape.
    let reshaped = |shape: [usize; 3]| {
        let named = |name: &str| state.tensors().into_iter().find(|(n, _)| n == name).map(|(_, t)| t);
        let ssm = named("layers.1.ssm").unwrap().reshape(&shape).unwrap();
        State::from_tensors(&configs[3], &[], DType::F64, |name| {
            if name == "layers.1.ssm" { Some(ssm.clone()) } else { named(name) }
        })
    };
    assert!(reshaped([2, 12, 16]).is_ok());
    let error = message(reshaped([2, 16, 12]));
    assert!(
        error.contains("layers.1.ssm") && error.contains("[2, 16, 12]") && error.contains("[2, 12, 16]"),
        "{error}"
    );
    assert!(message(reshaped([1, 24, 16])).contains("layers.1.ssm"));
    let nothing = State::from_tensors(&configs[3], &[], DType::F64, |_| None);
    assert!(message(nothing).contains("`layers.0.conv` is missing"));
    let scalars = State::from_tensors(&configs[3], &[], DType::F64, |_| Some(Tensor::scalar(1.0)));
    assert!(message(scalars).contains("layers.0.conv"));
    let single = |_: &str| Some(Tensor::zeros(DType::F32, &[2, 12, 3]));
    assert!(message(State::from_tensors(&configs[3], &[], DType::F64, single)).contains("f32"));

    // In a forward pass: another number of sequences, another model.
    let step = |tokens: &[u32], state: &State| model.step(&Patches::none(), state, tokens).map(drop).unwrap_err();
    let error = step(&[1], &state).to_string();
    assert!(error.contains("2 sequences") && error.contains("1 sequences"), "{error}");
    let error = step(&[1], &other).to_string();
    assert!(error.contains("conv1d") && error.contains("initial state"), "{error}");
    assert!(state.vars().shared_by(3).unwrap_err().to_string().contains("one sequence"));
    let error = model.step(&Patches::none(), &state, &[1, 21]).map(drop).unwrap_err().to_string();
    assert!(error.contains("token id 21 at position 1"), "{error}");
}
