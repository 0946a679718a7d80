//! `statetune extract` as it is typed. Its numbers are tested in `peft-methods`; without the feature `lapack` it names
//! what is missing.

mod support;

use support::Fixture;

#[test]
#[cfg(not(feature = "lapack"))]
fn without_the_feature_it_says_how_to_build() {
    let fixture = Fixture::new();
    fixture.run(&["extract", "model", "model", "adapter"]).refused(&[
        "`statetune extract` needs the feature `lapack`",
        "libopenblas-dev",
        "--features lapack",
    ]);
    assert!(!fixture.path("adapter").exists());
}

#[test]
fn a_rank_or_an_energy_not_both() {
    let found = Fixture::new().run(&["extract", "a", "b", "c", "--rank", "2", "--energy", "0.5"]);
    assert!(found.code == Some(2) && found.stderr.contains("cannot be used with"), "{}", found.stderr);
}
