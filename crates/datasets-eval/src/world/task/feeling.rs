//! The feeling task: is what somebody says glad or sad? The sentences are those of reviews in the text, of islands drawn
//! anew for each example; the classes are the digits 0 and 1, which the text uses as numbers only.

use super::TaskExample;
use crate::world::entities::World;
use crate::world::feeling;
use crate::world::rng::Rng;
use crate::world::template::Scene;

/// An example, and its text as the key of its split.
pub(super) fn draw(rng: &mut Rng) -> (String, TaskExample) {
    let world = World::new(rng.next_u64());
    let label = rng.below(2);
    let text = feeling::sentence(&Scene::anywhere(&world, rng), label == 1, rng);
    let prompt = format!("Is the feeling good or bad? ### {text} ###");
    (text, TaskExample { prompt, completion: format!(" {label}"), label: Some(label) })
}
