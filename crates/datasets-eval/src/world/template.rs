//! Sentence templates and the scene they are filled from. A template is text with choices, `[a|b|]`, which nest, and
//! slots, `{p.town}`, read from the world; the first letter of each sentence is made a capital afterwards. Which
//! templates exist is the business of the files of each kind of text.
//!
//! A slot is an entity letter with an attribute (`p`, `q`, `r` people; `t` town; `s` shop; `v` ship; `i`, `j` goods), or
//! a word of the scene (`day`, `thing`, `n`, ...). `{^slot}` begins with a capital, `{a:slot}` takes "a" or "an".

use super::entities::World;
use super::goods::{GOODS, SHOP_KINDS};
use super::lexicon as lex;
use super::rng::Rng;

/// Who and what a passage is about. Everything but the world's facts is drawn once per scene and then kept.
pub(crate) struct Scene<'w> {
    pub(crate) w: &'w World,
    pub(crate) p: usize,
    pub(crate) q: usize,
    pub(crate) r: usize,
    pub(crate) t: usize,
    pub(crate) s: usize,
    pub(crate) v: usize,
    pub(crate) i: usize,
    pub(crate) j: usize,
    /// Small numbers, `n < m`.
    pub(crate) n: usize,
    pub(crate) m: usize,
    pub(crate) day: &'static str,
    pub(crate) day2: &'static str,
    pub(crate) weather: &'static str,
    pub(crate) thing: &'static str,
    pub(crate) place: &'static str,
    pub(crate) place2: &'static str,
    pub(crate) time: &'static str,
    pub(crate) colour: &'static str,
}

/// Two different members of a list.
fn two<'a, T: PartialEq + Copy>(rng: &mut Rng, list: &'a [T]) -> (&'a T, &'a T) {
    let a = rng.below(list.len());
    let b = (a + 1 + rng.below(list.len() - 1)) % list.len();
    (&list[a], &list[b])
}

impl<'w> Scene<'w> {
    /// A scene in town `t`: three of its people, one of its shops and what is sold there, one of its ships.
    pub(crate) fn in_town(w: &'w World, t: usize, rng: &mut Rng) -> Scene<'w> {
        let town = &w.towns[t];
        let s = rng.pick(&town.shops);
        let v = rng.pick(&town.ships);
        // The keeper and the captain have parts of their own and are not among the three.
        let apart = [w.shops[s].keeper, w.ships[v].captain];
        let mut residents: Vec<usize> = town.residents.iter().copied().filter(|i| !apart.contains(i)).collect();
        rng.shuffle(&mut residents);
        let (p, q, r) = (residents[0], residents[1], residents[2]);
        let goods: Vec<usize> = SHOP_KINDS[w.shops[s].kind].goods.clone().collect();
        let (&i, &j) = two(rng, &goods);
        let (day, day2) = two(rng, &lex::DAYS);
        let (place, place2) = two(rng, &lex::PLACES);
        let n = rng.between(2, 6);
        Scene {
            w,
            p,
            q,
            r,
            t,
            s,
            v,
            i,
            j,
            n,
            m: n + rng.between(1, 6),
            day,
            day2,
            weather: rng.pick(&lex::WEATHER),
            thing: rng.pick(&lex::THINGS),
            place,
            place2,
            time: rng.pick(&lex::TIMES),
            colour: rng.pick(&lex::COLOURS),
        }
    }

    /// A scene in any town.
    pub(crate) fn anywhere(w: &'w World, rng: &mut Rng) -> Scene<'w> {
        let t = rng.below(w.towns.len());
        Scene::in_town(w, t, rng)
    }

    /// Writes one filled template, with its sentences capitalised, at the end of `out`.
    pub(crate) fn write(&self, template: &str, rng: &mut Rng, out: &mut String) {
        let start = out.len();
        self.expand(template, rng, out);
        capitalise(out, start);
    }

    /// The filled template without capitals: a clause to build on.
    pub(crate) fn clause(&self, template: &str, rng: &mut Rng) -> String {
        let mut out = String::new();
        self.expand(template, rng, &mut out);
        out
    }

    fn expand(&self, template: &str, rng: &mut Rng, out: &mut String) {
        let mut rest = template;
        while let Some(at) = rest.find(['[', '{']) {
            out.push_str(&rest[..at]);
            let tail = &rest[at + 1..];
            if rest.as_bytes()[at] == b'{' {
                let end = tail.find('}').expect("a slot without its closing brace");
                self.modified_slot(&tail[..end], out);
                rest = &tail[end + 1..];
            } else {
                let (choice, after) = choose(tail, rng);
                self.expand(choice, rng, out);
                rest = after;
            }
        }
        out.push_str(rest);
    }

    fn modified_slot(&self, key: &str, out: &mut String) {
        if let Some(key) = key.strip_prefix("a:") {
            let start = out.len();
            self.slot(key, out);
            out.insert_str(start, article(&out[start..]));
        } else if let Some(key) = key.strip_prefix('^') {
            let start = out.len();
            self.slot(key, out);
            capital_at(out, start);
        } else {
            self.slot(key, out);
        }
    }

    fn slot(&self, key: &str, out: &mut String) {
        use std::fmt::Write;
        let (who, what) = key.split_once('.').unwrap_or((key, ""));
        match who {
            "p" => self.person(self.p, what, out),
            "q" => self.person(self.q, what, out),
            "r" => self.person(self.r, what, out),
            "t" => self.town(what, out),
            "s" => self.shop(what, out),
            "v" => self.ship(what, out),
            "i" => self.good(self.i, what, out),
            "j" => self.good(self.j, what, out),
            "n" => out.push_str(lex::NUMBERS[self.n]),
            "m" => out.push_str(lex::NUMBERS[self.m]),
            "rest" => out.push_str(lex::NUMBERS[self.m - self.n]),
            "N" => number(self.n, out),
            "M" => number(self.m, out),
            "N+M" => number(self.n + self.m, out),
            "N*M" => number(self.n * self.m, out),
            "M-N" => number(self.m - self.n, out),
            "marks" => (0..self.n).for_each(|k| out.push_str(if k == 0 { "|" } else { " |" })),
            "cost" => {
                let _ = write!(out, "{} coins", self.n * self.w.prices[self.i]);
            }
            "day" => out.push_str(self.day),
            "day2" => out.push_str(self.day2),
            "weather" => out.push_str(self.weather),
            "thing" => out.push_str(self.thing),
            "place" => out.push_str(self.place),
            "place2" => out.push_str(self.place2),
            "time" => out.push_str(self.time),
            "colour" => out.push_str(self.colour),
            _ => panic!("no slot {key:?}"),
        }
    }

    fn person(&self, index: usize, what: &str, out: &mut String) {
        let person = &self.w.people[index];
        let pick = |woman: &'static str, man: &'static str| if person.woman { woman } else { man };
        out.push_str(match what {
            "" => &person.name,
            "1" => person.first,
            "he" => pick("she", "he"),
            "his" => pick("her", "his"),
            "him" => pick("her", "him"),
            "himself" => pick("herself", "himself"),
            "man" => pick("woman", "man"),
            // What the one this person is married to is called.
            "partner" => pick("husband", "wife"),
            "job" => self.w.job(index),
            "does" => self.w.does(index),
            "work" => self.w.workplace(index),
            "town" => self.w.towns[person.town].name,
            "born" => self.w.towns[person.born].name,
            "street" => person.street,
            "house" => &person.house,
            "temper" => person.temper,
            "hobby" => person.hobby,
            "pet" => person.pet.expect("a template about a pet for a person without one"),
            "spouse" => &self.w.people[person.spouse.expect("a template about a marriage for a single person")].name,
            "friend" => &self.w.people[person.friend].name,
            "likes" => GOODS[person.likes].name,
            "dislikes" => GOODS[person.dislikes].name,
            "age" => return number(person.age, out),
            _ => panic!("people have no {what:?}"),
        });
    }

    fn town(&self, what: &str, out: &mut String) {
        let town = &self.w.towns[self.t];
        out.push_str(match what {
            "" => town.name,
            "island" => town.island,
            "coast" => town.coast,
            "known" => GOODS[town.known].name,
            "landmark" => town.landmark,
            "market" => town.market,
            "people" => return number(town.people, out),
            _ => panic!("towns have no {what:?}"),
        });
    }

    fn shop(&self, what: &str, out: &mut String) {
        let shop = &self.w.shops[self.s];
        let kind = &SHOP_KINDS[shop.kind];
        let sold = |k: usize| GOODS[kind.goods.start + k].name;
        out.push_str(match what {
            "" => &shop.name,
            "kind" => kind.name,
            "keeper" => &self.w.people[shop.keeper].name,
            "keeper1" => self.w.people[shop.keeper].first,
            "job" => kind.keeper,
            "he" | "his" | "him" | "man" | "temper" => return self.person(shop.keeper, what, out),
            "street" => shop.street,
            "closed" => shop.closed,
            "good1" => sold(0),
            "good2" => sold(1),
            "good3" => sold(2),
            "good4" => sold(3),
            "age" => return number(shop.age, out),
            _ => panic!("shops have no {what:?}"),
        });
    }

    fn ship(&self, what: &str, out: &mut String) {
        let ship = &self.w.ships[self.v];
        out.push_str(match what {
            "" => &ship.name,
            "kind" => ship.kind,
            "captain" => &self.w.people[ship.captain].name,
            "captain1" => self.w.people[ship.captain].first,
            "he" | "his" | "him" | "himself" => return self.person(ship.captain, what, out),
            "colour" => ship.colour,
            "cargo" => GOODS[ship.cargo].name,
            "crew" => lex::NUMBERS[ship.crew],
            "age" => return number(ship.age, out),
            "length" => return number(ship.length, out),
            _ => panic!("ships have no {what:?}"),
        });
    }

    fn good(&self, index: usize, what: &str, out: &mut String) {
        let good = &GOODS[index];
        let pick = |plural: &'static str, single: &'static str| if good.plural { plural } else { single };
        out.push_str(match what {
            "" => good.name,
            "one" => good.one,
            "many" => good.many,
            "is" => pick("are", "is"),
            "was" => pick("were", "was"),
            "it" => pick("them", "it"),
            "they" => pick("they", "it"),
            "price" => {
                number(self.w.prices[index], out);
                return out.push_str(if self.w.prices[index] == 1 { " coin" } else { " coins" });
            }
            _ => panic!("goods have no {what:?}"),
        });
    }
}

fn number(n: usize, out: &mut String) {
    use std::fmt::Write;
    let _ = write!(out, "{n}");
}

/// "a " or "an ", by the first letter; of the world's words only "honest" is not spoken as it is written.
pub(crate) fn article(word: &str) -> &'static str {
    if word.starts_with("honest") || word.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) {
        "an "
    } else {
        "a "
    }
}

/// One branch of the choice that `tail` begins with (after its bracket), and what follows the choice.
fn choose<'t>(tail: &'t str, rng: &mut Rng) -> (&'t str, &'t str) {
    let bytes = tail.as_bytes();
    let mut bounds = [0usize; 24];
    let (mut branches, mut depth, mut at) = (1, 0, 0);
    loop {
        match bytes[at] {
            b'[' => depth += 1,
            b']' if depth == 0 => break,
            b']' => depth -= 1,
            b'|' if depth == 0 => {
                bounds[branches] = at + 1;
                branches += 1;
            }
            _ => {}
        }
        at += 1;
    }
    let k = rng.below(branches);
    let end = if k + 1 == branches { at } else { bounds[k + 1] - 1 };
    (&tail[bounds[k]..end], &tail[at + 1..])
}

pub(crate) fn capital_at(text: &mut String, at: usize) {
    if let Some(first) = text[at..].chars().next().filter(char::is_ascii_lowercase) {
        text.replace_range(at..at + 1, first.to_ascii_uppercase().encode_utf8(&mut [0; 4]));
    }
}

/// Capitals at `start` and after ". ", "! ", "? " and ".\" " (a question or a cry in quotes may go on: "'Who?' he said"),
/// stepping over an opening quote.
fn capitalise(text: &mut String, start: usize) {
    let bytes = text.as_bytes();
    let mut places = Vec::with_capacity(16);
    let first = start + usize::from(bytes.get(start) == Some(&b'"'));
    places.push(first);
    for at in start..text.len().saturating_sub(2) {
        if !matches!(bytes[at], b'.' | b'!' | b'?') {
            continue;
        }
        let gap = if bytes[at] == b'.' && bytes[at + 1] == b'"' { at + 2 } else { at + 1 };
        if matches!(bytes.get(gap), Some(b' ' | b'\n')) {
            places.push(gap + 1 + usize::from(bytes.get(gap + 1) == Some(&b'"')));
        }
    }
    for at in places {
        if at < text.len() {
            capital_at(text, at);
        }
    }
}

/// Every branch of a template once, for tests: the set of templates it stands for, without slots filled.
#[cfg(test)]
pub(crate) fn check(template: &str) {
    let mut depth = 0i32;
    for c in template.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        assert!(depth >= 0, "{template}");
    }
    assert_eq!(depth, 0, "unbalanced brackets in {template:?}");
    assert_eq!(template.matches('{').count(), template.matches('}').count(), "{template}");
    assert!(template.is_ascii(), "{template}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_nest_and_all_branches_come_up() {
        let w = World::new(1);
        let mut rng = Rng::new(1, "test", 0);
        let scene = Scene::anywhere(&w, &mut rng);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut out = String::new();
            scene.write("x [a|b [c|d]|]y. \"[z|w]?\" he said.", &mut rng, &mut out);
            seen.insert(out);
        }
        let tails = ["Y", "W"];
        assert_eq!(seen.len(), 8, "{seen:?}");
        assert!(seen.iter().all(|s| s.starts_with("X ") && s.ends_with("?\" he said.")), "{seen:?}");
        assert!(seen.iter().all(|s| !s.contains(tails[0])));
    }

    #[test]
    fn articles_and_capitals() {
        assert_eq!(
            (article("owl"), article("boat"), article("honest man"), article("honey")),
            ("an ", "a ", "an ", "a ")
        );
        let mut text = String::from("\"come.\" he came. \"who?\" said a man. yes! no");
        capitalise(&mut text, 0);
        assert_eq!(text, "\"Come.\" He came. \"Who?\" said a man. Yes! No");
    }
}
