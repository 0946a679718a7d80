//! The second half of the small stories; how they are built is said in `stories.rs`.

use super::stories::Beat;

pub(super) const TALES: [&[Beat]; 8] = [
    // A feast.
    &[
        &[
            "there was a feast in {t} on {day}.",
            "the people of {t} light [lanterns|fires|candles] on the longest night of the year.",
        ],
        &[
            "{p} brought {n} {i.many}, and {q} brought {j}.",
            "long tables stood at {place}, with {i} and {j} for everyone.",
        ],
        &[
            "{r} played the fiddle, and the young people danced.",
            "the children ran about with paper lanterns.",
            "an old sailor told stories that nobody believed.",
        ],
        &[
            "at midnight {q.1} made a speech that was [far too long|short and funny|hard to hear].",
            "{p.1} and {q.1} danced until their shoes hurt.",
            "somebody fell into the harbour and was pulled out with a hook.",
        ],
        &[
            "nobody went home before sunrise.",
            "in the morning the square was full of paper and happy, tired people.",
            "people still talk about that night.",
        ],
    ],
    // An animal runs away.
    &[
        &[
            "a [goat|pig|donkey|pony] belonging to {p} ran away on {day}.",
            "{p} was looking after {a:q.temper} old [goat|dog|donkey] when the rope broke.",
        ],
        &[
            "it ran through {place} and knocked over a table.",
            "it ate the flowers in front of {s} and then went on to {place}.",
            "people shouted, but that only made it run faster.",
        ],
        &[
            "{s.keeper} tried to stop it with a broom.",
            "{q} tried to catch it with a net and fell into the water.",
            "{n} children ran after it, laughing.",
        ],
        &[
            "{r} had a better idea and held out some [apples|bread|cabbage].",
            "\"Stand still,\" said {r}, \"and let it come to you.\"",
        ],
        &[
            "the animal stopped, sniffed and came closer.",
            "it looked at {r.1} for a long time and then walked over like a lamb.",
        ],
        &[
            "{p.1} took it home and mended the rope.",
            "{p.1} paid {n} coins for the broken table and said sorry to everyone.",
            "now there is a sign at {place}: no animals, please.",
        ],
    ],
    // The broken bridge.
    &[
        &[
            "after the [flood|storm|heavy rain] the little bridge behind {place} was gone.",
            "the bridge near {place} was old, and on {day} it fell down.",
        ],
        &[
            "the people of {t} had to walk {n} miles around the hill.",
            "nobody could get to the mill, and there was no flour.",
        ],
        &[
            "they met at the town hall, and {p} spoke first.",
            "{p} drew a plan for a new bridge on the back of a letter.",
        ],
        &[
            "{q} gave wood, and {r} gave {m} coins.",
            "{q} said that it would cost too much.",
            "everyone wanted to help, but nobody wanted to begin.",
        ],
        &[
            "they worked for {n} weeks, even in the rain.",
            "the smith made the nails, and the children carried them.",
            "stone by stone the new bridge grew.",
        ],
        &[
            "on {day2} the first cart went over it, and it held.",
            "{p.1} cut {a:colour} ribbon, and the band played.",
            "they named it after {q.1}'s mother, who was the first to cross it.",
        ],
    ],
    // Night watch.
    &[
        &[
            "one foggy night {p} heard a strange sound at {place}.",
            "late on {day} {p} saw a light at {place} where no light should be.",
        ],
        &["{p.he} took a lantern and went to look.", "{p.he} woke {q}, and they went out together."],
        &[
            "the street was empty, and the fog was as thick as wool.",
            "something moved behind the barrels.",
            "\"Who is there?\" {p.1} called, but nobody answered.",
        ],
        &[
            "then they heard it again: tap, tap, tap.",
            "{p.his} heart was beating fast.",
            "a shadow crossed the wall, and then it was gone.",
        ],
        &[
            "it was only {r}, who could not sleep and was [mending a net|looking for {r.his} keys|feeding the cats].",
            "it was a loose door in the wind.",
            "a young owl sat in an empty barrel and looked at them with round eyes.",
        ],
        &[
            "they laughed about it all the way home.",
            "{p.1} went back to bed, but {p.he} left the lamp on.",
            "\"Do not tell anyone that I was afraid,\" said {p.1}.",
        ],
    ],
    // A good catch.
    &[
        &["{p} and {q} went fishing {time} on {day}.", "on {day} {p} took the small boat out to fish with {q}."],
        &["for {n} hours they caught nothing but weed.", "the sea was flat, and the fish were asleep."],
        &["then {p.1}'s line went tight.", "\"Pull!\" shouted {q.1}. \"Pull with both arms!\""],
        &[
            "they pulled until their hands were red.",
            "it was the biggest fish that either of them had ever seen.",
            "what came up was not a fish but an old {thing}.",
        ],
        &[
            "they counted {m} fish, sold {n} of them and kept {rest}.",
            "on the quay {r} bought it for {m} coins.",
            "at home they told everyone that it had been twice as big.",
        ],
    ],
    // A present.
    &[
        &[
            "{q} had a birthday on {day}, and {p} wanted to buy {q.him} a present.",
            "{p} wished to give {q} something for {q.his} birthday.",
        ],
        &["{p.he} had only {m} coins.", "\"What does {q.1} like?\" {p.he} asked {r}."],
        &[
            "\"I know that {q.he} enjoys {q.hobby},\" said {r.1}.",
            "{r} said that {q.1} was fond of {q.likes}.",
            "\"Anything but {q.dislikes},\" said {r.1}.",
        ],
        &["so {p.1} went to {s} and looked at everything twice.", "at {s} {p.he} saw {i.one}, but it cost {i.price}."],
        &[
            "in the end {p.he} made something with {p.his} own hands.",
            "in the end {p.he} chose {a:thing} and tied {a:colour} ribbon around it.",
        ],
        &[
            "{q.1} said that it was the best present of all.",
            "{q.1} hugged {p.him} and {q.his} eyes were wet.",
            "{q.1} laughed, because {q.he} had bought the same thing for {p.1}.",
        ],
    ],
    // The stranger.
    &[
        &[
            "a stranger came to {t} on {v} one {weather} {day}.",
            "on {day} a stranger with {a:colour} coat knocked at the door of {s}.",
        ],
        &[
            "nobody knew where the stranger came from.",
            "\"I am looking for {p},\" the stranger said.",
            "the stranger paid for everything with old silver coins.",
        ],
        &["{q} gave the stranger a bed for the night.", "{s.keeper} asked many questions and got few answers."],
        &[
            "in the morning {p} came, and the two talked for {n} hours.",
            "{p} looked at the stranger for a long time and then began to cry.",
        ],
        &[
            "they had sailed on the same ship {m} years before.",
            "they had been at school together when they were children.",
            "the stranger had a map, and on the map there was a cross.",
        ],
        &[
            "what they said, nobody knows, but {p.1} has been happier since then.",
            "on {day2} the stranger left again, and {p.1} waved until the ship was out of sight.",
        ],
    ],
    // A plan that fails.
    &[
        &["{p} had a plan: {p.he} would sell {i} on {v}.", "{p} wanted to be rich, so {p.he} bought {m} {i.many}."],
        &[
            "{q} told {p.him} not to do it.",
            "\"Who will buy all that?\" asked {q}.",
            "everyone thought that it was a good idea, except {q}.",
        ],
        &[
            "{p.he} loaded everything on {v} and sailed to the next island.",
            "{p.he} put up {a:colour} sign and waited.",
        ],
        &[
            "but on {day} it rained, and nobody came.",
            "but the people there had more {i} than they could use.",
            "but the price fell, and {p.he} got only {n} coins for the whole load.",
        ],
        &["{p.he} came home poorer than before.", "{p.he} gave what was left to the school."],
        &[
            "\"At least I saw the sea,\" {p.1} said.",
            "{q.1} did not say \"I told you so\", but {q.he} thought it.",
            "the next plan, {p.he} says, will be better.",
        ],
    ],
];
