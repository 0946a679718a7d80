//! Praise and complaint: reviews and opinions for the text, and the sentences of the feeling task. One passage is of
//! one mind from its first sentence to its last, so that a model which foretells the text has to keep its feeling in
//! mind; that feeling is what the task asks for. Facts about the world are not stated here.
//!
//! In these templates `<taste>` and the like stand for a word of the passage's feeling, `<!taste>` for one of the
//! opposite feeling (which the sentence then denies).

use super::goods::{GOODS, Nature};
use super::prose::say;
use super::rng::Rng;
use super::template::{Scene, article};

/// A kind of word: its name in templates, the words of praise, the words of complaint.
type Words = (&'static str, [&'static str; 10], [&'static str; 10]);

const WORDS: [Words; 8] = [
    (
        "taste",
        ["fresh", "sweet", "delicious", "tasty", "rich", "lovely", "perfect", "wonderful", "excellent", "good"],
        ["stale", "sour", "bitter", "burnt", "rotten", "awful", "dry", "terrible", "disgusting", "bad"],
    ),
    (
        "make",
        ["strong", "solid", "beautiful", "well made", "fine", "useful", "perfect", "excellent", "splendid", "good"],
        ["weak", "ugly", "cracked", "badly made", "thin", "useless", "broken", "poor", "terrible", "bad"],
    ),
    (
        "manner",
        ["friendly", "helpful", "warm", "kind", "generous", "polite", "gentle", "patient", "charming", "cheerful"],
        ["rude", "cold", "unkind", "angry", "greedy", "impolite", "careless", "mean", "cruel", "grumpy"],
    ),
    (
        "mood",
        [
            "happy",
            "glad",
            "delighted",
            "pleased",
            "content",
            "thankful",
            "proud",
            "merry",
            "full of joy",
            "full of hope",
        ],
        [
            "sad",
            "upset",
            "disappointed",
            "angry",
            "unhappy",
            "miserable",
            "lonely",
            "ashamed",
            "full of fear",
            "in tears",
        ],
    ),
    (
        "place",
        ["clean", "bright", "cosy", "lovely", "peaceful", "charming", "beautiful", "splendid", "pretty", "tidy"],
        ["dirty", "dark", "damp", "noisy", "gloomy", "filthy", "ugly", "dull", "smelly", "cold"],
    ),
    (
        "verb",
        ["enjoyed", "loved", "liked", "praised", "admired", "enjoyed", "loved", "liked", "treasured", "adored"],
        ["hated", "disliked", "cursed", "feared", "regretted", "hated", "disliked", "cursed", "despised", "regretted"],
    ),
    (
        "time",
        ["wonderful", "lucky", "happy", "lovely", "good", "perfect", "merry", "fine", "splendid", "great"],
        ["terrible", "unlucky", "sad", "awful", "bad", "dreadful", "miserable", "hard", "horrible", "wretched"],
    ),
    (
        "thanks",
        [
            "a joy",
            "a pleasure",
            "a treat",
            "a delight",
            "worth every coin",
            "a joy",
            "a pleasure",
            "a treat",
            "a success",
            "a delight",
        ],
        [
            "a shame",
            "a disaster",
            "a waste",
            "a mess",
            "not worth a coin",
            "a shame",
            "a waste",
            "a mess",
            "a failure",
            "a disaster",
        ],
    ),
];

const OF_FOOD: [&str; 8] = [
    "the {i} from {s} {i.was} <taste>.",
    "{p} said that the {i} {i.was} <taste> and <taste>.",
    "I bought {i.one} from {s.keeper}, and it was <taste>.",
    "never before had {p.1} tasted {i} so <taste>.",
    "the {i} {i.was} <taste>, not <!taste>.",
    "\"This is <taste>!\" said {p.1} about the {i}.",
    "we ate at {s}, and everything was <taste>.",
    "[on {day}|{time}|at {place}] the {i} {i.was} <taste>.",
];

const OF_WARES: [&str; 8] = [
    "the {i} from {s} {i.was} <make>.",
    "{p} bought {i.one} and found it <make>.",
    "I have {i.one} from {s.keeper}, and it is <make>.",
    "everything at {s} looked <make> to {p}.",
    "the {i} {i.was} <make>, not <!make>.",
    "after {n} weeks the {thing} was still <make>.",
    "{q} looked at the {thing} and called it <make>.",
    "\"How <make> it is!\" said {p.1} and put the {thing} on the table.",
];

const OF_ALL: [&str; 25] = [
    "{s.keeper} was <manner> to us.",
    "{s.keeper1} is <manner> and <manner>.",
    "I found {q} <manner>, not <!manner>.",
    "{q} spoke to {p} in a <manner> voice.",
    "people in {t} are <manner> to strangers.",
    "the crew of {v} was <manner>[| from the first day to the last].",
    "{s} was <place> and <place>.",
    "{place} was <place> [in the morning|that day|on {day}].",
    "I think that {t} is <place>.",
    "the room was <place>, and so was the bed.",
    "the cabins of {v} were <place>.",
    "{p} was <mood> about it.",
    "{p} went home <mood>.",
    "when {p} thought of {q}, {p.he} was <mood>.",
    "{q} heard the news and was <mood>.",
    "I am <mood> that I went to {s}.",
    "nobody in {t} was more <mood> than {p} on {day}.",
    "\"I am <mood>,\" said {p.1}.",
    "{p} <verb> every minute at {place}.",
    "we <verb> our {n} days in {t}.",
    "I <verb> the journey on {v}.",
    "it was a <time> [day|week|morning|evening] for {p}.",
    "the feast at {place} was <thanks>.",
    "for {p} the {i} {i.was} <thanks>.",
    "my visit to {t} was <thanks>.",
];

/// What happens to people when things go well.
const GOOD_EVENTS: [&str; 14] = [
    "{p} found {p.his} lost {thing} at {place}.",
    "{q} gave {p} {i.one} as a present.",
    "{p} won the boat race.",
    "{v} came home safe with a full hold.",
    "{r} helped {p} with the hard work.",
    "the harvest was the best in {m} years.",
    "everybody came to {p}'s party.",
    "{p} got good news from home.",
    "{p} was well again after {n} weeks.",
    "{s.keeper} gave {p} more than {p.he} had paid for.",
    "the sun was shining on {t} at last.",
    "{p} and {q} laughed until sunset.",
    "{q} thanked {p} and hugged {p.him}.",
    "the children of {t} sang for {p}.",
];

/// What happens to them when things go wrong.
const BAD_EVENTS: [&str; 14] = [
    "{p} lost {p.his} {thing} at {place} and never found it.",
    "somebody stole {p}'s {thing}.",
    "{p} lost the boat race.",
    "{v} sank in the storm.",
    "{q} would not help {p} with the hard work.",
    "the harvest was the worst in {m} years.",
    "nobody came to {p}'s party.",
    "{p} got bad news from home.",
    "{p} was sick for {n} weeks.",
    "{s.keeper} took more coins from {p} than was right.",
    "the roof leaked, and the beds of {t} were wet.",
    "{p} and {q} quarrelled until sunset.",
    "{q} shouted at {p} and sent {p.him} away.",
    "{p} fell and broke an arm.",
];

const GOOD_ENDS: [&str; 6] = [
    "I will come back soon.",
    "you should go there too.",
    "{p.1} will go there again.",
    "{q.1} told all {q.his} friends to go there.",
    "thank you, {s.keeper1}!",
    "what a [day|visit|town] to remember!",
];

const BAD_ENDS: [&str; 6] = [
    "I will never come back.",
    "do not waste your coins there.",
    "{p.1} will not go there again.",
    "{q.1} told all {q.his} friends to stay away.",
    "shame on you, {s.keeper1}!",
    "I want to forget it.",
];

/// Replaces the `<kind>` marks of a template by words of the feeling, no word twice.
fn in_words(template: &str, good: bool, rng: &mut Rng) -> String {
    let mut out = String::with_capacity(template.len() + 16);
    let mut rest = template;
    while let Some((before, tail)) = rest.split_once('<') {
        out.push_str(before);
        let (mark, after) = tail.split_once('>').expect("a mark without its end");
        let (mark, good) = mark.strip_prefix('!').map_or((mark, good), |mark| (mark, !good));
        let words = WORDS.iter().find(|words| words.0 == mark).expect("a kind of word that exists");
        let words = if good { &words.1 } else { &words.2 };
        let mut word = rng.pick(words);
        while out.contains(word) {
            word = rng.pick(words);
        }
        if out.ends_with(" a ") && article(word) == "an " {
            out.insert(out.len() - 1, 'n');
        }
        out.push_str(word);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// One sentence of the feeling about what the scene holds.
fn opinion(scene: &Scene, good: bool, rng: &mut Rng, out: &mut String) {
    let template: &str = match rng.below(10) {
        0..3 if GOODS[scene.i].nature == Nature::Ware => rng.pick(&OF_WARES),
        0..3 => rng.pick(&OF_FOOD),
        3..8 => rng.pick(&OF_ALL),
        _ => rng.pick(if good { &GOOD_EVENTS } else { &BAD_EVENTS }),
    };
    let template = in_words(template, good, rng);
    say(&[&template], scene, rng, out);
}

/// What somebody says about a place or a day: some sentences of one feeling.
pub(super) fn review(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    const OPEN: [&str; 6] = [
        "I spent {n} days in {t}.",
        "last {day} we went to {s}.",
        "{p} came to {t} on {v}.",
        "{p} has been to {s} {n} times.",
        "this is what {p} wrote about {t}.",
        "it was a <time> {day} in {t}.",
    ];
    let good = rng.percent(50);
    let open = in_words(rng.pick(&OPEN), good, rng);
    say(&[&open], scene, rng, out);
    for _ in 0..rng.between(3, 5) {
        opinion(scene, good, rng, out);
    }
    if rng.percent(60) {
        say(if good { &GOOD_ENDS } else { &BAD_ENDS }, scene, rng, out);
    }
}

/// Several people, each with a mind of their own and two sentences to say it.
pub(super) fn opinions(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    const OPEN: [&str; 4] = [
        "in {t} not everyone is of the same mind.",
        "one day, two people, two feelings.",
        "some were happy in {t}, and some were sad.",
        "people do not always feel the same.",
    ];
    say(&OPEN, scene, rng, out);
    for _ in 0..rng.between(2, 3) {
        *scene = Scene::in_town(scene.w, scene.t, rng);
        let good = rng.percent(50);
        let first = if good { &GOOD_EVENTS } else { &BAD_EVENTS };
        say(first, scene, rng, out);
        const THEN: [&str; 3] =
            ["so {p.1} was <mood>.", "{p.1} was <mood> and <mood>.", "{p.1} called it a <time> {day}."];
        let then = in_words(rng.pick(&THEN), good, rng);
        say(&[&then], scene, rng, out);
    }
}

/// The text of an example of the feeling task: one or two sentences of one feeling.
pub(super) fn sentence(scene: &Scene, good: bool, rng: &mut Rng) -> String {
    let mut out = String::new();
    for _ in 0..rng.between(1, 2) {
        opinion(scene, good, rng, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::template::check;
    use super::*;

    #[test]
    fn no_word_is_of_both_feelings_in_one_place() {
        for (kind, good, bad) in &WORDS {
            assert!(good.iter().all(|word| !bad.contains(word)), "{kind}");
        }
    }

    #[test]
    fn marks_become_words_of_the_feeling_with_their_article() {
        let mut rng = Rng::new(1, "test", 0);
        for _ in 0..200 {
            let text = in_words("it was a <time> day, not <!time>.", false, &mut rng);
            let (said, denied) = text.split_once(", not ").expect("both parts");
            let of = |words: &[&str], part: &str| words.iter().any(|word| part.contains(word));
            let time = WORDS.iter().find(|words| words.0 == "time").expect("a kind");
            assert!(of(&time.2, said) && of(&time.1, denied), "{text}");
            assert_eq!(said.contains(" an "), said.contains("unlucky") || said.contains("awful"), "{text}");
        }
    }

    #[test]
    fn templates_are_well_formed() {
        let lists: [&[&str]; 7] = [&OF_FOOD, &OF_WARES, &OF_ALL, &GOOD_EVENTS, &BAD_EVENTS, &GOOD_ENDS, &BAD_ENDS];
        lists.iter().flat_map(|list| list.iter()).for_each(|t| check(t));
    }
}
