//! Documents: what kinds there are, how often each comes, and how its passages are put together. The sentences are in
//! the files beside this one, in `feeling.rs` and in `plots.rs`.

mod everyday;
mod portraits;
mod registers;
mod stories;
mod tales;
mod talk;

use super::entities::{Work, World};
use super::feeling;
use super::plots;
use super::rng::Rng;
use super::template::Scene;
use portraits as of;

/// A kind of passage: writes one at the end of the text.
type Passage = fn(&mut Scene, &mut Rng, &mut String);

/// Each kind with its share, in percent.
const KINDS: [(usize, Passage); 13] = [
    (12, person),
    (5, town),
    (7, shop),
    (6, ship),
    (15, story),
    (6, talk),
    (8, plots::as_prose),
    (6, day),
    (5, letter),
    (6, school),
    (12, feeling::review),
    (5, feeling::opinions),
    (7, registers::register),
];

impl World {
    /// `documents` English documents, the same for the same seeds. Other seeds of the text give other documents about
    /// the same world. A document has no line break at its end and none but single ones within.
    pub fn text(&self, seed: u64, documents: usize) -> impl Iterator<Item = String> + '_ {
        (0..documents as u64).map(move |index| self.document(seed, index))
    }

    fn document(&self, seed: u64, index: u64) -> String {
        let mut rng = Rng::new(self.seed, &format!("text {seed}"), index);
        let elsewhere;
        let world = if rng.percent(50) {
            elsewhere = World::new(rng.next_u64());
            &elsewhere
        } else {
            self
        };
        let mut out = String::with_capacity(1024);
        let mut share = rng.below(KINDS.iter().map(|kind| kind.0).sum());
        let passage = KINDS.iter().find(|kind| match share.checked_sub(kind.0) {
            Some(left) => {
                share = left;
                false
            }
            None => true,
        });
        let passage = passage.expect("the shares were summed").1;
        for part in 0..rng.between(1, 3) {
            if part > 0 {
                out.push('\n');
            }
            passage(&mut Scene::anywhere(world, &mut rng), &mut rng, &mut out);
        }
        out
    }
}

/// Writes one of `templates` as the next sentence.
pub(super) fn say(templates: &[&str], scene: &Scene, rng: &mut Rng, out: &mut String) {
    if !out.is_empty() && !out.ends_with('\n') {
        out.push(' ');
    }
    scene.write(rng.pick(templates), rng, out);
}

/// An opening and some of the groups of facts, in any order, one sentence of each.
fn portrait(open: &[&str], mut facts: Vec<&[&str]>, scene: &Scene, rng: &mut Rng, out: &mut String) {
    say(open, scene, rng, out);
    rng.shuffle(&mut facts);
    facts.truncate(rng.between(3, 6));
    for group in facts {
        say(group, scene, rng, out);
    }
}

fn person(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    scene.p = rng.pick(&scene.w.towns[scene.t].residents);
    let person = &scene.w.people[scene.p];
    let mut facts = of::PERSON_FACTS.to_vec();
    if matches!(person.work, Work::Captain(_)) {
        facts.pop();
        facts.push(&of::CAPTAIN_FACT);
    }
    facts.extend(person.pet.map(|_| &of::PET_FACT[..]));
    facts.extend(person.spouse.map(|_| &of::SPOUSE_FACT[..]));
    portrait(&of::PERSON_OPEN, facts, scene, rng, out);
}

fn town(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    portrait(&of::TOWN_OPEN, of::TOWN_FACTS.to_vec(), scene, rng, out);
}

fn shop(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    let mut facts = of::SHOP_FACTS.to_vec();
    facts.push(&of::GOODS_FACTS);
    portrait(&of::SHOP_OPEN, facts, scene, rng, out);
}

fn ship(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    portrait(&of::SHIP_OPEN, of::SHIP_FACTS.to_vec(), scene, rng, out);
}

/// The beats of a story or a talk in their order, with turns in between two times in three.
fn tell(beats: &[stories::Beat], turns: bool, scene: &Scene, rng: &mut Rng, out: &mut String) {
    let between = if turns && rng.percent(67) { Some(rng.between(1, beats.len() - 1)) } else { None };
    for (at, beat) in beats.iter().enumerate() {
        if Some(at) == between {
            say(&stories::BETWEEN, scene, rng, out);
        }
        say(beat, scene, rng, out);
    }
}

fn story(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    let half: &[&[stories::Beat]] = if rng.percent(50) { &stories::STORIES } else { &tales::TALES };
    tell(rng.pick(half), true, scene, rng, out);
}

fn talk(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    tell(rng.pick(&talk::TALKS), false, scene, rng, out);
}

/// `count` different templates of a list, in any order.
fn some(templates: &'static [&'static str], count: usize, scene: &Scene, rng: &mut Rng, out: &mut String) {
    let mut order: Vec<&str> = templates.to_vec();
    rng.shuffle(&mut order);
    for template in &order[..count] {
        say(&[template], scene, rng, out);
    }
}

/// A day in a town: its weather, its news, a price, a thought.
fn day(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    say(&everyday::WEATHER, scene, rng, out);
    let count = rng.between(1, 3);
    some(&everyday::NEWS, count, scene, rng, out);
    if rng.percent(50) {
        say(&of::GOODS_FACTS, scene, rng, out);
    }
    say(&everyday::THOUGHTS, scene, rng, out);
}

fn letter(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    say(&everyday::LETTER_OPEN, scene, rng, out);
    let count = rng.between(3, 6);
    some(&everyday::LETTER_BODY, count, scene, rng, out);
    say(&everyday::LETTER_CLOSE, scene, rng, out);
}

fn school(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    let count = rng.between(2, 4);
    some(&everyday::SCHOOL, count, scene, rng, out);
}

#[cfg(test)]
mod tests {
    use super::super::template::check;
    use super::*;

    #[test]
    fn templates_are_well_formed() {
        let beats = [&stories::STORIES[..], &tales::TALES, &talk::TALKS].concat();
        beats.iter().flat_map(|beats| beats.iter()).flat_map(|beat| beat.iter()).for_each(|t| check(t));
        let groups = [&of::PERSON_FACTS[..], &of::TOWN_FACTS, &of::SHOP_FACTS, &of::SHIP_FACTS].concat();
        groups.iter().flat_map(|group| group.iter()).for_each(|t| check(t));
        let lists: [&[&str]; 16] = [
            &of::PERSON_OPEN,
            &of::CAPTAIN_FACT,
            &of::PET_FACT,
            &of::SPOUSE_FACT,
            &of::TOWN_OPEN,
            &of::SHOP_OPEN,
            &of::SHIP_OPEN,
            &of::GOODS_FACTS,
            &stories::BETWEEN,
            &everyday::WEATHER,
            &everyday::NEWS,
            &everyday::LETTER_OPEN,
            &everyday::LETTER_BODY,
            &everyday::LETTER_CLOSE,
            &everyday::SCHOOL,
            &everyday::THOUGHTS,
        ];
        lists.iter().flat_map(|list| list.iter()).for_each(|t| check(t));
    }

    #[test]
    fn no_sentence_begins_small_or_holds_a_slot() {
        for document in World::new(5).text(9, 1500) {
            assert!(!document.contains(['{', '}', '[', ']']), "{document}");
            assert!(!document.contains("  ") && !document.contains(" .") && !document.contains("\n\n"), "{document}");
            assert!(document.is_ascii() && document.len() > 60, "{document}");
            for (at, _) in document.match_indices(" a ") {
                assert!(!document[at + 3..].starts_with(['a', 'e', 'i', 'o', 'u']), "{document}");
            }
            for line in document.lines() {
                assert!(!line.trim_start_matches('"').starts_with(|c: char| c.is_ascii_lowercase()), "{line}");
                assert!(line.ends_with(['.', '!', '?', '"']), "{line}");
            }
        }
    }
}
