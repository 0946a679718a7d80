//! `statetune extract` as it is typed, in a build with LAPACK: an adapter that writes what the tuned model writes.
#![cfg(feature = "lapack")]

mod support;

use support::{Fixture, change_weights, copy};

/// `tuned/`: the model with one difference of rank 1 in a matrix and one in a norm.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    copy(&fixture.path("model"), &fixture.path("tuned"));
    change_weights(&fixture.path("tuned"), |tensors| {
        for (name, shape, values) in tensors {
            let columns = shape.last().copied().unwrap_or(1);
            if name == "backbone.layers.0.mixer.out_proj.weight" {
                values.iter_mut().enumerate().for_each(|(i, w)| *w += if i / columns % 2 == 0 { 0.5 } else { -0.5 });
            } else if name == "backbone.layers.1.norm.weight" {
                values.iter_mut().for_each(|w| *w *= 1.0 + 1e-6);
            }
        }
    });
    fixture
}

#[test]
fn the_adapter_writes_what_the_tuned_model_writes() {
    let fixture = fixture();
    let found =
        fixture.run(&["extract", "model", "tuned", "adapter", "--rank", "1", "--json", "--quiet"]).well().json();
    let site = &found["report"]["sites"][0];
    assert_eq!(site["name"], "backbone.layers.0.mixer.out_proj");
    assert!(site["rank"] == 1 && site["energy"].as_f64().unwrap() > 1.0 - 1e-9, "{site}");
    assert_eq!(found["report"]["rest"][0]["name"], "backbone.layers.1.norm.weight");
    assert_eq!(found["report"]["rest_included"], false);
    let write = |arguments: &[&str]| {
        let all = [&["generate"], arguments, &["--prompt", "A quiet", "--max-new-tokens", "12", "--json", "--quiet"]];
        fixture.run(&all.concat()).well().json()[0]["tokens"].clone()
    };
    let (tuned, base) = (write(&["tuned"]), write(&["model"]));
    assert!(tuned != base);
    assert_eq!(write(&["model", "--adapter", "adapter"]), tuned);
}

#[test]
fn lines_for_people_and_refusals() {
    let fixture = fixture();
    let said = fixture.run(&["extract", "model", "tuned", "adapter", "--targets", "out_proj,x_proj"]).well().stdout;
    for part in [
        "mixer.out_proj [16, 32]: rank 1, 100.00%",
        "left out: mixer.x_proj in 2 layers",
        "see --rest): norm.weight in 1 layer",
        "numbers",
    ] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    fixture.run(&["extract", "model", "tuned", "adapter"]).refused(&["holds an adapter already"]);
    fixture.run(&["extract", "model", "model", "other"]).refused(&["the two models are equal"]);
    fixture.run(&["extract", "model", "tuned", "other", "--rank", "0"]).refused(&["at least 1"]);
    fixture.run(&["extract", "model", "tuned", "other", "--targets", "nothing"]).refused(&["matches nothing"]);
    assert!(!fixture.path("other").exists());
}
