//! The dialogue task: turns with the names of the speakers in front, to one sentence of what the talk comes to.

use super::{TaskExample, answered};
use crate::world::entities::World;
use crate::world::plots::PLOTS;
use crate::world::rng::Rng;
use crate::world::template::Scene;

/// An example of islands of its own, and its key.
pub(super) fn draw(rng: &mut Rng) -> (String, TaskExample) {
    let world = World::new(rng.next_u64());
    let scene = Scene::anywhere(&world, rng);
    let plot = rng.one_of(&PLOTS);
    let turns: Vec<String> =
        plot.play(&scene, rng).into_iter().map(|(speaker, words)| format!("{speaker}: {words}")).collect();
    let prompt = format!("Sum up the talk in one sentence. ### {} ###", turns.join("\n"));
    answered(prompt, plot.outcome(&scene, rng))
}
