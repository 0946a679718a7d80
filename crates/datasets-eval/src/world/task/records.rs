//! The records task: fields in any order, `name: X | town: Y`, to one to three sentences in a fixed order. Each record
//! is of islands drawn anew, so names and facts have to be copied, not remembered.

use super::{TaskExample, answered};
use crate::world::entities::{Ship, Shop, World};
use crate::world::goods::{GOODS, SHOP_KINDS};
use crate::world::rng::Rng;
use crate::world::template::{article, capital_at};

/// Fields of a record that may be left out, and those that were kept.
struct Record<'r> {
    rng: &'r mut Rng,
    fields: Vec<(&'static str, String)>,
}

impl Record<'_> {
    /// A field that is always there.
    fn keep(&mut self, name: &'static str, value: impl ToString) -> String {
        let value = value.to_string();
        self.fields.push((name, value.clone()));
        value
    }

    /// A field that is there two times in three.
    fn maybe(&mut self, name: &'static str, value: impl ToString) -> Option<String> {
        self.rng.percent(67).then(|| self.keep(name, value))
    }
}

/// An example, and its key.
pub(super) fn draw(rng: &mut Rng) -> (String, TaskExample) {
    let world = World::new(rng.next_u64());
    let tell = rng.pick(&[person, person, ship, shop, town]);
    let mut record = Record { rng, fields: Vec::new() };
    let mut sentences = tell(&world, &mut record);
    let Record { rng, mut fields } = record;
    rng.shuffle(&mut fields);
    sentences.iter_mut().for_each(|sentence| capital_at(sentence, 0));
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    answered(format!("Tell the record in sentences. ### {} ###", fields.join(" | ")), sentences.join(" "))
}

/// " in Kelby" where there is a value, otherwise nothing.
fn with(before: &str, value: Option<String>) -> String {
    value.map_or_else(String::new, |value| format!(" {before} {value}"))
}

fn a(word: &str) -> String {
    format!("{}{word}", article(word))
}

fn person(world: &World, record: &mut Record) -> Vec<String> {
    let index = record.rng.below(world.people.len());
    let person = &world.people[index];
    let (he, his) = if person.woman { ("she", "her") } else { ("he", "his") };
    let name = record.keep("name", &person.name);
    let work = record.keep("work", world.job(index));
    let town = with("in", record.maybe("town", world.towns[person.town].name));
    let mut told = vec![format!("{name} is {}{town}.", a(&work))];
    let age = record.maybe("age", person.age).map(|age| format!("{he} is {age} years old"));
    let street = record.maybe("street", person.street).map(|street| format!("lives on {street}"));
    told.extend(match (age, street) {
        (Some(age), Some(street)) => Some(format!("{age} and {street}.")),
        (Some(age), None) => Some(format!("{age}.")),
        (None, Some(street)) => Some(format!("{he} {street}.")),
        (None, None) => None,
    });
    told.extend(record.maybe("likes", person.hobby).map(|hobby| format!("{he} likes {hobby}.")));
    if record.fields.len() < 5
        && let Some(pet) = person.pet
    {
        let pet = record.keep("pet", pet);
        told.push(format!("{his} pet is {}.", a(&pet)));
    }
    told
}

fn ship(world: &World, record: &mut Record) -> Vec<String> {
    let ship: &Ship = record.rng.one_of(&world.ships);
    let name = record.keep("name", &ship.name);
    let kind = record.keep("kind", ship.kind);
    let looks = match record.maybe("colour", ship.colour) {
        Some(colour) => a(&format!("{colour} {kind}")),
        None => a(&kind),
    };
    let town = with("from", record.maybe("town", world.towns[ship.town].name));
    let mut told = vec![format!("{name} is {looks}{town}.")];
    let captain = record.maybe("captain", &world.people[ship.captain].name);
    told.extend(captain.map(|captain| format!("its captain is {captain}.")));
    let cargo = record.maybe("cargo", GOODS[ship.cargo].name).map(|cargo| format!("it carries {cargo}"));
    let crew = record.maybe("crew", ship.crew).map(|crew| format!("has a crew of {crew}"));
    told.extend(match (cargo, crew) {
        (Some(cargo), Some(crew)) => Some(format!("{cargo} and {crew}.")),
        (Some(cargo), None) => Some(format!("{cargo}.")),
        (None, Some(crew)) => Some(format!("it {crew}.")),
        (None, None) => None,
    });
    told
}

fn shop(world: &World, record: &mut Record) -> Vec<String> {
    let shop: &Shop = record.rng.one_of(&world.shops);
    let name = record.keep("name", &shop.name);
    let kind = record.keep("kind", SHOP_KINDS[shop.kind].name);
    let street = with("on", record.maybe("street", shop.street));
    let town = with("in", record.maybe("town", world.towns[shop.town].name));
    let mut told = vec![format!("{name} is {}{street}{town}.", a(&kind))];
    let keeper = record.maybe("keeper", &world.people[shop.keeper].name);
    told.extend(keeper.map(|keeper| format!("it belongs to {keeper}.")));
    told.extend(record.maybe("closed", shop.closed).map(|day| format!("it is closed on {day}.")));
    let good = record.rng.pick(&SHOP_KINDS[shop.kind].goods.clone().collect::<Vec<_>>());
    if record.rng.percent(50) {
        record.keep("sells", GOODS[good].name);
        told.push(format!("it sells {}.", GOODS[good].name));
    }
    told
}

fn town(world: &World, record: &mut Record) -> Vec<String> {
    let town = record.rng.one_of(&world.towns);
    let name = record.keep("name", town.name);
    let island = with("on the island of", record.maybe("island", town.island));
    let mut told = vec![format!("{name} is a town{island}.")];
    told.extend(record.maybe("people", town.people).map(|people| format!("{people} people live there.")));
    told.extend(record.maybe("known for", GOODS[town.known].name).map(|good| format!("it is known for its {good}.")));
    told.extend(record.maybe("market", town.market).map(|day| format!("the market is held on {day}.")));
    told
}
