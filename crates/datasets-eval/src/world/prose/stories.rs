//! Small stories. A story is a row of beats, a beat a choice of templates; two of them in three also take a turn of
//! weather or feeling in between. Stories say what happened once; they state no lasting fact about anyone.

pub(super) type Beat = &'static [&'static str];

pub(super) const STORIES: [&[Beat]; 16] = [
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
            "{q.1} remembered that {q.he} had seen a {thing} at {place2}.",
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
            "since then {p.1} has tied a {colour} ribbon to it.",
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
            "{v.captain1} tied {v.him} to the wheel and did not let go.",
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
            "a boy ran past with a {colour} kite, and a dog ran after the boy.",
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
        &[
            "every summer there is a boat race in the bay of {t}.",
            "the boat race of {t} was held on {day} this year.",
        ],
        &[
            "{m} boats came to the start, and {p} was in one of them.",
            "{p} and {q} both wanted to win.",
            "{p} had painted {p.his} boat {colour} so that everyone could see it.",
        ],
        &[
            "{r} fired the gun, and they were off.",
            "at the sound of the bell all the oars hit the water.",
        ],
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
        &[
            "on {day} a letter came for {p}.",
            "{p} found a letter under the door of the {p.house} on {p.street}.",
        ],
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
        &[
            "\"Who will do my work?\" {p.1} asked.",
            "{p.he} worried about {p.his} work more than about {p.his} health.",
        ],
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
            "{p.1} cut a {colour} ribbon, and the band played.",
            "they named it after {q.1}'s mother, who was the first to cross it.",
        ],
    ],
    // Night watch.
    &[
        &[
            "one foggy night {p} heard a strange sound at {place}.",
            "late on {day} {p} saw a light at {place} where no light should be.",
        ],
        &[
            "{p.he} took a lantern and went to look.",
            "{p.he} woke {q}, and they went out together.",
        ],
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
        &[
            "{p} and {q} went fishing {time} on {day}.",
            "on {day} {p} took the small boat out to fish with {q}.",
        ],
        &[
            "for {n} hours they caught nothing but weed.",
            "the sea was flat, and the fish were asleep.",
        ],
        &[
            "then {p.1}'s line went tight.",
            "\"Pull!\" shouted {q.1}. \"Pull with both arms!\"",
        ],
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
        &[
            "{p.he} had only {m} coins.",
            "\"What does {q.1} like?\" {p.he} asked {r}.",
        ],
        &[
            "\"I know that {q.he} enjoys {q.hobby},\" said {r.1}.",
            "{r} said that {q.1} was fond of {q.likes}.",
            "\"Anything but {q.dislikes},\" said {r.1}.",
        ],
        &[
            "so {p.1} went to {s} and looked at everything twice.",
            "at {s} {p.he} saw {i.one}, but it cost {i.price}.",
        ],
        &[
            "in the end {p.he} made something with {p.his} own hands.",
            "in the end {p.he} chose {a:thing} and tied a {colour} ribbon around it.",
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
            "on {day} a stranger with a {colour} coat knocked at the door of {s}.",
        ],
        &[
            "nobody knew where the stranger came from.",
            "\"I am looking for {p},\" the stranger said.",
            "the stranger paid for everything with old silver coins.",
        ],
        &[
            "{q} gave the stranger a bed for the night.",
            "{s.keeper} asked many questions and got few answers.",
        ],
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
        &[
            "{p} had a plan: {p.he} would sell {i} on {v}.",
            "{p} wanted to be rich, so {p.he} bought {m} {i.many}.",
        ],
        &[
            "{q} told {p.him} not to do it.",
            "\"Who will buy all that?\" asked {q}.",
            "everyone thought that it was a good idea, except {q}.",
        ],
        &[
            "{p.he} loaded everything on {v} and sailed to the next island.",
            "{p.he} put up a {colour} sign and waited.",
        ],
        &[
            "but on {day} it rained, and nobody came.",
            "but the people there had more {i} than they could use.",
            "but the price fell, and {p.he} got only {n} coins for the whole load.",
        ],
        &[
            "{p.he} came home poorer than before.",
            "{p.he} gave what was left to the school.",
        ],
        &[
            "\"At least I saw the sea,\" {p.1} said.",
            "{q.1} did not say \"I told you so\", but {q.he} thought it.",
            "the next plan, {p.he} says, will be better.",
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
    "it had been a {weather} week.",
    "the lamps were already lit.",
    "the smell of smoke and fish hung in the air.",
    "no one could remember such a thing.",
    "{p.1} thought about it for a while.",
    "it was not the first time, and it would not be the last.",
    "the water was cold and clear.",
    "a small boat went by with a {colour} sail.",
    "far away a dog was barking.",
    "the sun went behind a cloud and came out again.",
    "what could {p.he} do?",
    "{p.he} took a deep breath.",
    "all this happened in {t}, on the island of {t.island}.",
];
