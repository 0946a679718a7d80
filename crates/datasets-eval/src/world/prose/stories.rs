//! Small stories. A story is a row of beats, a beat a choice of templates; two of them in three also take a turn of
//! weather or feeling in between (`BETWEEN`); the other half is in `tales.rs`. Stories say what happened once; they
//! state no lasting fact about anyone.

pub(super) type Beat = &'static [&'static str];

pub(super) const STORIES: [&[Beat]; 8] = [
    // A thing lost and found.
    &[
        &[
            "one {weather} {day}, {p} lost {a:thing}.",
            "{p} could not find {p.his} {thing}.",
            "on {day} {p}, the {p.job}, lost {p.his} {thing} somewhere in {t}.",
        ],
        &[
            "{p.he} looked at {place}, but it was not there.",
            "first {p.he} searched {place}, then {place2}.",
            "{p.he} looked under the bed, behind the door and in every pocket.",
            "{p.he} asked everyone {p.he} met, but nobody had seen it.",
        ],
        &[
            "then {q} came by and asked what was wrong.",
            "in the afternoon {p.he} met {q}, who [wanted to help|had time to help|saw {p.his} sad face].",
            "\"Have you lost something?\" asked {q}.",
        ],
        &[
            "together they went to {place2} and [looked again|asked the people there|searched every corner].",
            "{q.1} remembered that {q.he} had seen {a:thing} at {place2}.",
            "\"I saw something like it at {place2},\" {q.1} said.",
        ],
        &[
            "there it was, [under a bench|behind a barrel|on a wall|in the wet grass].",
            "they found the {thing} [next to the door|in a box of nails|under an old sail].",
            "a dog was sitting on it, and the dog did not want to move.",
        ],
        &[
            "{p.1} was so happy that {p.he} bought {q.1} {i.one}.",
            "{p.1} thanked {q.him} and promised to be more careful.",
            "since then {p.1} has tied {a:colour} ribbon to it.",
            "\"Next time I will tie it to my belt,\" said {p.1}.",
        ],
    ],
    // A storm at sea.
    &[
        &[
            "on {day} {v} left {t} with a hold full of {v.cargo}.",
            "{v} set out from {t} early on {day}, with {v.captain} at the wheel.",
            "the sky was clear when {v} sailed from {t}.",
        ],
        &[
            "by noon the wind had turned, and black clouds came up from the west.",
            "{n} hours later the sea grew rough.",
            "nobody had expected a storm, but a storm came.",
        ],
        &[
            "waves as high as a house broke over the deck.",
            "the rain was so heavy that the crew could not see the bow.",
            "a sail tore, and the mast began to groan.",
        ],
        &[
            "captain {v.captain} told the crew to take down the sails.",
            "\"Hold on to the ropes!\" cried {v.captain1}.",
            "{v.captain1} tied {v.himself} to the wheel and did not let go.",
        ],
        &[
            "at last they saw the light of {t} through the dark.",
            "after {n} hours the wind dropped, and the stars came out.",
            "{p}, who was on watch at {place}, saw them and rang the bell.",
        ],
        &[
            "the ship came home with a broken mast, but nobody was hurt.",
            "all {v.crew} of the crew walked ashore, cold and wet and glad to be alive.",
            "the cargo was lost, but the people were safe.",
            "in the inn they told the story [until morning|to anyone who would listen|again and again].",
        ],
    ],
    // A day at the market.
    &[
        &[
            "it was {t.market}, market day in {t}, and {p} went out with a basket.",
            "every {t.market} {p} goes to the market in {t}, and this {t.market} was no different.",
        ],
        &[
            "first {p.he} went to {s} to buy {i.one}.",
            "{p.he} needed {n} {i.many} and some {j}.",
            "\"How much is {i.one}?\" {p.he} asked {s.keeper}.",
        ],
        &[
            "{i.one} cost {i.price}, which was what {p.1} had hoped.",
            "{s.keeper1} asked for {i.price}, and {p.1} paid it.",
            "{n} of them came to {cost}, and {p.he} counted the coins twice.",
        ],
        &[
            "then {p.he} met {q}, who [was selling shells|was looking for a present|had just sold a goat].",
            "on the way {p.he} stopped to talk to {q} about the [weather|harvest|news from the harbour].",
            "{q} was there too, with a basket full of {j}.",
        ],
        &[
            "a boy ran past with {a:colour} kite, and a dog ran after the boy.",
            "somebody was playing the fiddle, and two old men were dancing.",
            "it began to rain, and everyone hurried under the roofs.",
        ],
        &[
            "when {p.1} came home, the basket was full and the purse was empty.",
            "{p.he} went home tired but content.",
            "only at home did {p.he} notice that {p.he} had forgotten the {j}.",
        ],
    ],
    // A new pupil at work.
    &[
        &[
            "{p} had never worked as {a:q.job} before.",
            "one day {p} asked {q}, the {q.job}, to teach {p.him} the work.",
            "{q} needed help for a week, and {p} said yes at once.",
        ],
        &[
            "\"It is easy,\" said {q.1}. \"Watch my hands.\"",
            "{q.1} showed {p.him} everything, slowly and {n} times over.",
            "on the first morning {p.1} came late and forgot {p.his} gloves.",
        ],
        &[
            "at first everything went wrong.",
            "{p.1} broke {n} things before lunch.",
            "by the evening {p.his} back hurt and {p.his} hands were sore.",
        ],
        &[
            "but {q.1} was patient and said, \"Try again tomorrow.\"",
            "{q.1} only laughed and made a pot of tea.",
            "{p.he} wanted to give up, but {q.1} would not hear of it.",
        ],
        &[
            "after {n} days {p.he} could do it alone.",
            "little by little {p.he} learned how it was done.",
            "on {day} {p.1} made no mistake from morning to night.",
        ],
        &[
            "now {p.he} knows how hard that work is.",
            "\"You are a good teacher,\" {p.1} said, and {q.1} [blushed|smiled|looked away].",
            "{q.1} gave {p.him} {i.one} and said that {p.he} had earned it.",
        ],
    ],
    // A quarrel and its end.
    &[
        &[
            "{p} and {q} had a quarrel about {a:thing}.",
            "for {n} days {p} and {q} did not speak to each other.",
            "it all began when {p} borrowed {a:thing} from {q}.",
        ],
        &[
            "{p.1} said that it was broken when {p.he} got it.",
            "{q.1} said that {p.1} had promised to bring it back by {day}.",
            "each of them thought that the other was wrong.",
        ],
        &[
            "they would not sit at the same table or walk on the same side of the street.",
            "when they met at {place}, they looked the other way.",
            "their friends did not know what to do.",
        ],
        &[
            "then {r}, who was tired of it, asked both of them to come to {place2}.",
            "at last {r} told them that they were both being foolish.",
            "{r} baked a cake and invited them both without telling either of them.",
        ],
        &[
            "{p.1} said sorry first.",
            "\"I was wrong,\" said {q.1}, \"and I missed you.\"",
            "for a long time nobody spoke, and then they both began to laugh.",
        ],
        &[
            "today neither of them can say what the quarrel was about.",
            "{p.1} bought a new {thing}, and now they share it.",
            "they shook hands and walked home together.",
        ],
    ],
    // The race.
    &[
        &["every summer there is a boat race in the bay of {t}.", "the boat race of {t} was held on {day} this year."],
        &[
            "{m} boats came to the start, and {p} was in one of them.",
            "{p} and {q} both wanted to win.",
            "{p} had painted {p.his} boat {colour} so that everyone could see it.",
        ],
        &["{r} fired the gun, and they were off.", "at the sound of the bell all the oars hit the water."],
        &[
            "{q.1} was in front until the last turn.",
            "{p.1} started slowly, but {p.he} passed boat after boat.",
            "the wind was strong, and {n} boats had to turn back.",
        ],
        &[
            "near the end {p.1} was first and {q.1} was second.",
            "they crossed the line at the same time, or so it seemed.",
            "then one of {q.1}'s oars broke, and {p.1} stopped to help.",
        ],
        &[
            "the judge gave the prize, {i.one}, to both of them.",
            "neither won, but the crowd cheered them more than anyone.",
            "{p.1} won by the length of a fish and talked about it all winter.",
        ],
    ],
    // A letter arrives.
    &[
        &["on {day} a letter came for {p}.", "{p} found a letter under the door of the {p.house} on {p.street}."],
        &[
            "it came from {q.born}, and there was no name on it.",
            "the paper was yellow and the ink was nearly gone.",
            "{p.he} did not know the hand and turned it over {n} times.",
        ],
        &[
            "\"Come to {place} {time},\" it said, and nothing more.",
            "the letter said that an old debt would be paid on {day2}.",
            "it asked {p.him} to send {i.one} to {v} before {day2}.",
        ],
        &[
            "{p.1} did not sleep that night.",
            "{p.1} showed it to {r}, who read it and frowned.",
            "{p.he} put it in a drawer and tried to forget it, but {p.he} could not.",
        ],
        &[
            "so {p.he} went, with a lantern in {p.his} hand.",
            "in the end {p.he} did what the letter asked.",
            "when the hour came, {p.he} was there, and so was {q}.",
        ],
        &[
            "it was only a joke by the children of the school, and everyone laughed.",
            "\"I wrote it,\" said {q.1}. \"I wanted to thank you for everything.\"",
            "and that is how {p.1} came by a chest of old books.",
        ],
    ],
    // Illness and help.
    &[
        &[
            "{p} woke up with a fever on {day}.",
            "all week {p} had been coughing, and on {day} {p.he} could not get up.",
        ],
        &[
            "{q} brought [soup|hot tea|clean water and bread].",
            "the doctor came and said that {p.he} must stay in bed for {n} days.",
        ],
        &["\"Who will do my work?\" {p.1} asked.", "{p.he} worried about {p.his} work more than about {p.his} health."],
        &[
            "\"I will,\" said {r}, \"and I will do it well.\"",
            "{q.1} and {r.1} shared the work between them.",
            "{r} took the morning, and {q} took the evening.",
        ],
        &[
            "after {n} days the fever was gone.",
            "slowly {p.1} grew stronger, and on {day2} {p.he} walked to the window.",
        ],
        &[
            "{p.he} has not forgotten who helped {p.him}.",
            "when {p.he} was well again, {p.he} cooked a big dinner for all of them.",
            "\"Being sick is not so bad,\" {p.he} said, \"when you have friends.\"",
        ],
    ],
];

/// What may come between two beats.
pub(super) const BETWEEN: [&str; 24] = [
    "the wind came from the [north|south|east|west].",
    "it was {weather} all day.",
    "the gulls were crying over the roofs.",
    "nobody said a word.",
    "{r} saw it all from a window.",
    "it was {time} on {day}, and the tide was [going out|coming in].",
    "somewhere a bell was ringing.",
    "the clock struck {m}.",
    "a cat watched from a wall.",
    "time passed slowly.",
    "that was the way of things in {t}.",
    "it had been {a:weather} week.",
    "the lamps were already lit.",
    "the smell of smoke and fish hung in the air.",
    "no one could remember such a thing.",
    "{p.1} thought about it for a while.",
    "it was not the first time, and it would not be the last.",
    "the water was cold and clear.",
    "a small boat went by with {a:colour} sail.",
    "far away a dog was barking.",
    "the sun went behind a cloud and came out again.",
    "what could {p.he} do?",
    "{p.he} took a deep breath.",
    "all this happened in {t}, on the island of {t.island}.",
];
