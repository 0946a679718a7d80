//! The world itself: an archipelago of islands, towns, people, shops, ships and prices, all drawn once from a seed and
//! never changed. Whatever the text or a task says about an entity is read from here, so that facts agree everywhere.

use super::goods::{GOODS, SHOP_KINDS};
use super::lexicon as lex;
use super::rng::Rng;

const N_ISLANDS: usize = 8;
const N_TOWNS: usize = 24;
const N_SHOPS: usize = 72;
const N_SHIPS: usize = 48;
const N_PEOPLE: usize = 264;

/// What a person does for a living.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Keeps a shop (index into `World::shops`).
    Keeper(usize),
    /// Commands a ship (index into `World::ships`).
    Captain(usize),
    /// Has one of `lexicon::JOBS`.
    Job(usize),
}

/// A person. Indices point into the lists of `World` and of the lexicon.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) first: &'static str,
    pub(crate) name: String,
    pub(crate) woman: bool,
    pub(crate) age: usize,
    pub(crate) town: usize,
    pub(crate) born: usize,
    pub(crate) work: Work,
    pub(crate) street: &'static str,
    /// Without article: "small blue house".
    pub(crate) house: String,
    pub(crate) temper: &'static str,
    pub(crate) hobby: &'static str,
    pub(crate) pet: Option<&'static str>,
    pub(crate) spouse: Option<usize>,
    pub(crate) friend: usize,
    /// Goods to eat or drink (index into `GOODS`), the second different from the first.
    pub(crate) likes: usize,
    pub(crate) dislikes: usize,
}

/// A town with its harbour.
#[derive(Clone, Debug)]
pub(crate) struct Town {
    pub(crate) name: &'static str,
    pub(crate) island: &'static str,
    pub(crate) coast: &'static str,
    /// The good it is known for.
    pub(crate) known: usize,
    pub(crate) landmark: &'static str,
    pub(crate) market: &'static str,
    /// Number of inhabitants, in whole hundreds.
    pub(crate) people: usize,
    pub(crate) residents: Vec<usize>,
    pub(crate) shops: Vec<usize>,
    pub(crate) ships: Vec<usize>,
}

/// A shop.
#[derive(Clone, Debug)]
pub(crate) struct Shop {
    /// With its article: "the Copper Kettle".
    pub(crate) name: String,
    pub(crate) kind: usize,
    pub(crate) keeper: usize,
    pub(crate) town: usize,
    pub(crate) street: &'static str,
    pub(crate) closed: &'static str,
    /// Years since it opened.
    pub(crate) age: usize,
}

/// A ship.
#[derive(Clone, Debug)]
pub(crate) struct Ship {
    /// With its article: "the Grey Gull".
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) captain: usize,
    pub(crate) town: usize,
    pub(crate) colour: &'static str,
    pub(crate) cargo: usize,
    /// Hands beside the captain, 2 to 12.
    pub(crate) crew: usize,
    pub(crate) age: usize,
    /// Length in feet.
    pub(crate) length: usize,
}

/// One world, drawn from a seed.
#[derive(Clone, Debug)]
pub struct World {
    pub(crate) seed: u64,
    pub(crate) towns: Vec<Town>,
    pub(crate) people: Vec<Person>,
    pub(crate) shops: Vec<Shop>,
    pub(crate) ships: Vec<Ship>,
    /// Price in coins of one unit of each of `GOODS`, the same in every shop.
    pub(crate) prices: Vec<usize>,
}

/// `n` different "the First Second" names.
fn double_names(rng: &mut Rng, first: &[&str], second: &[&str], n: usize) -> Vec<String> {
    let mut all: Vec<String> = first.iter().flat_map(|a| second.iter().map(move |b| format!("the {a} {b}"))).collect();
    rng.shuffle(&mut all);
    all.truncate(n);
    all
}

/// Goods that can be eaten or drunk.
pub(crate) fn edible() -> Vec<usize> {
    (0..GOODS.len()).filter(|&i| GOODS[i].nature != super::goods::Nature::Ware).collect()
}

impl World {
    /// The world of `seed`.
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed, "world", 0);
        let prices = GOODS.iter().map(|g| rng.between(g.price.0, g.price.1)).collect();
        let mut world = World {
            seed,
            towns: draw_towns(&mut rng),
            people: Vec::with_capacity(N_PEOPLE),
            shops: Vec::with_capacity(N_SHOPS),
            ships: Vec::with_capacity(N_SHIPS),
            prices,
        };
        world.draw_shops(&mut rng);
        world.draw_ships(&mut rng);
        world.draw_people(&mut rng);
        world.draw_families(&mut rng);
        world
    }

    fn draw_shops(&mut self, rng: &mut Rng) {
        let names = double_names(rng, &lex::SHOP_FIRST, &lex::SHOP_SECOND, N_SHOPS);
        let mut kinds: Vec<usize> = (0..N_SHOPS).map(|i| i % SHOP_KINDS.len()).collect();
        rng.shuffle(&mut kinds);
        for (i, name) in names.into_iter().enumerate() {
            let town = i % N_TOWNS;
            self.towns[town].shops.push(i);
            // Keepers are the first people drawn, in the order of their shops.
            self.shops.push(Shop {
                name,
                kind: kinds[i],
                keeper: i,
                town,
                street: rng.pick(&lex::STREETS),
                closed: rng.pick(&lex::DAYS),
                age: rng.between(2, 80),
            });
        }
    }

    fn draw_ships(&mut self, rng: &mut Rng) {
        let names = double_names(rng, &lex::SHIP_FIRST, &lex::SHIP_SECOND, N_SHIPS);
        for (i, name) in names.into_iter().enumerate() {
            let town = i % N_TOWNS;
            self.towns[town].ships.push(i);
            self.ships.push(Ship {
                name,
                kind: rng.pick(&lex::SHIP_KINDS),
                captain: N_SHOPS + i,
                town,
                colour: rng.pick(&lex::COLOURS),
                cargo: rng.below(GOODS.len()),
                crew: rng.between(2, 12),
                age: rng.between(2, 40),
                length: rng.between(20, 90),
            });
        }
    }

    fn draw_people(&mut self, rng: &mut Rng) {
        // First names do not repeat within a town, full names not at all.
        let mut first_names: Vec<Vec<(&'static str, bool)>> = (0..N_TOWNS)
            .map(|_| {
                let women = lex::WOMEN.iter().map(|&n| (n, true));
                let mut names: Vec<_> = women.chain(lex::MEN.iter().map(|&n| (n, false))).collect();
                rng.shuffle(&mut names);
                names
            })
            .collect();
        let mut taken = std::collections::HashSet::new();
        let edible = edible();
        for i in 0..N_PEOPLE {
            let (work, town) = match i {
                i if i < N_SHOPS => (Work::Keeper(i), self.shops[i].town),
                i if i < N_SHOPS + N_SHIPS => (Work::Captain(i - N_SHOPS), self.ships[i - N_SHOPS].town),
                _ => (Work::Job(rng.below(lex::JOBS.len())), i % N_TOWNS),
            };
            let (first, woman) = first_names[town].pop().expect("a town has fewer people than there are first names");
            let name = loop {
                let name = format!("{first} {}", rng.pick(&lex::SURNAMES));
                if taken.insert(name.clone()) {
                    break name;
                }
            };
            let likes = rng.pick(&edible);
            let dislikes = loop {
                let other = rng.pick(&edible);
                if other != likes {
                    break other;
                }
            };
            self.towns[town].residents.push(i);
            self.people.push(Person {
                first,
                name,
                woman,
                age: rng.between(19, 78),
                town,
                born: if rng.percent(50) { town } else { rng.below(N_TOWNS) },
                work,
                street: rng.pick(&lex::STREETS),
                house: format!(
                    "{} {} {}",
                    rng.pick(&lex::HOUSES),
                    rng.pick(&lex::COLOURS),
                    rng.pick(&lex::HOUSE_KINDS)
                ),
                temper: rng.pick(&lex::TEMPERS),
                hobby: rng.pick(&lex::HOBBIES),
                pet: if rng.percent(60) { Some(rng.pick(&lex::PETS)) } else { None },
                spouse: None,
                friend: i,
                likes,
                dislikes,
            });
        }
    }

    /// Marries some of each town's people, who then share a home, and gives everybody a friend in town.
    fn draw_families(&mut self, rng: &mut Rng) {
        for town in 0..N_TOWNS {
            let mut residents = self.towns[town].residents.clone();
            rng.shuffle(&mut residents);
            let (women, men): (Vec<usize>, Vec<usize>) = residents.iter().partition(|&&i| self.people[i].woman);
            for (&w, &m) in women.iter().zip(&men) {
                if rng.percent(65) {
                    self.people[w].spouse = Some(m);
                    self.people[m].spouse = Some(w);
                    self.people[m].street = self.people[w].street;
                    self.people[m].house = self.people[w].house.clone();
                }
            }
            for &i in &residents {
                // Friends are neither themselves nor their spouse: a town has eleven people.
                self.people[i].friend = loop {
                    let other = rng.pick(&residents);
                    if other != i && self.people[i].spouse != Some(other) {
                        break other;
                    }
                };
            }
        }
    }

    /// The name of a person's job.
    pub(crate) fn job(&self, person: usize) -> &'static str {
        match self.people[person].work {
            Work::Keeper(shop) => SHOP_KINDS[self.shops[shop].kind].keeper,
            Work::Captain(_) => "captain",
            Work::Job(job) => lex::JOBS[job].name,
        }
    }

    /// What a person does all day, in the third person: "bakes bread before sunrise".
    pub(crate) fn does(&self, person: usize) -> &'static str {
        match self.people[person].work {
            Work::Keeper(shop) => SHOP_KINDS[self.shops[shop].kind].does,
            Work::Captain(_) => "commands a ship",
            Work::Job(job) => lex::JOBS[job].does,
        }
    }

    /// Where a person works, with the article.
    pub(crate) fn workplace(&self, person: usize) -> &str {
        match self.people[person].work {
            Work::Keeper(shop) => &self.shops[shop].name,
            Work::Captain(ship) => &self.ships[ship].name,
            Work::Job(job) => lex::JOBS[job].place,
        }
    }
}

fn draw_towns(rng: &mut Rng) -> Vec<Town> {
    let mut names = lex::TOWNS;
    let mut islands = lex::ISLANDS;
    let mut goods: Vec<usize> = (0..GOODS.len()).collect();
    rng.shuffle(&mut names);
    rng.shuffle(&mut islands);
    rng.shuffle(&mut goods);
    (0..N_TOWNS)
        .map(|i| Town {
            name: names[i],
            island: islands[i % N_ISLANDS],
            coast: rng.pick(&lex::COASTS),
            known: goods[i],
            landmark: rng.pick(&lex::LANDMARKS),
            market: rng.pick(&lex::DAYS),
            people: rng.between(2, 40) * 100,
            residents: Vec::new(),
            shops: Vec::new(),
            ships: Vec::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_world_holds_together() {
        for seed in [0, 1, 99] {
            let w = World::new(seed);
            let names: HashSet<&str> = w.people.iter().map(|p| p.name.as_str()).collect();
            assert_eq!(names.len(), N_PEOPLE);
            let named: HashSet<&str> =
                w.shops.iter().map(|s| s.name.as_str()).chain(w.ships.iter().map(|s| s.name.as_str())).collect();
            assert_eq!(named.len(), N_SHOPS + N_SHIPS, "a shop and a ship share a name");
            for (i, p) in w.people.iter().enumerate() {
                assert!(p.friend != i && p.spouse != Some(p.friend));
                assert_eq!(w.people[p.friend].town, p.town);
                if let Some(s) = p.spouse {
                    assert_eq!(w.people[s].spouse, Some(i));
                    assert_eq!((w.people[s].town, &w.people[s].house), (p.town, &p.house));
                }
                match p.work {
                    Work::Keeper(shop) => assert_eq!((w.shops[shop].keeper, w.shops[shop].town), (i, p.town)),
                    Work::Captain(ship) => assert_eq!((w.ships[ship].captain, w.ships[ship].town), (i, p.town)),
                    Work::Job(_) => {}
                }
            }
            for town in &w.towns {
                let first: HashSet<&str> = town.residents.iter().map(|&i| w.people[i].first).collect();
                assert_eq!(first.len(), town.residents.len());
                assert!(town.shops.len() >= 2 && !town.ships.is_empty());
            }
        }
    }
}
