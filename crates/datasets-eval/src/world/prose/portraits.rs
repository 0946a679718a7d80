//! Sentences that state facts: people, towns, shops, ships, goods. Every slot but the scene's own day, place and small
//! numbers is read from the world, so nothing here can contradict another document.

pub(super) const PERSON_OPEN: [&str; 12] = [
    "{p} is {a:p.job} in {p.town}.",
    "{p} lives in {p.town} and works as {a:p.job}.",
    "in {p.town} [everybody|nearly everyone|every child] knows {p}, the {p.job}.",
    "ask for {p} in {p.town}, and people will send you to {p.street}.",
    "{p} of {p.town} is {a:p.job}, and {p.he} {p.does}.",
    "the {p.job} {p} lives on {p.street} in {p.town}.",
    "there is {a:p.job} in {p.town} whose name is {p}.",
    "this is the story of {p}, {a:p.job} from {p.town}.",
    "{p} is {p.age} years old and lives in {p.town}.",
    "if you come to {p.town}, you will [soon|surely] meet {p}.",
    "{a:p.temper} {p.man} named {p} lives in {p.town}.",
    "nobody in {p.town} is more {p.temper} than {p}, the {p.job}.",
];

/// Facts that hold for everyone.
pub(super) const PERSON_FACTS: [&[&str]; 9] = [
    &[
        "{p.he} is {p.age} years old.",
        "{p.1} is {p.age} years old [now|this year].",
        "{p.he} turned {p.age} this year.",
    ],
    &[
        "{p.he} was born in {p.born}.",
        "{p.1} was born in {p.born}, and {p.he} [still talks about it|remembers it well|says so to everyone].",
        "{p.born} is the place where {p.he} was born.",
        "{p.his} [mother|father|family] came from {p.born}, where {p.1} was born.",
    ],
    &[
        "every day {p.he} {p.does}.",
        "{p.1} {p.does}.",
        "as {a:p.job}, {p.he} {p.does}.",
        "{p.he} is the {p.job} who {p.does}.",
        "[on most days|from Monday to Friday|in summer and in winter] {p.he} {p.does}.",
    ],
    &[
        "{p.he} lives in {a:p.house} on {p.street}.",
        "{p.his} home is {a:p.house} on {p.street}.",
        "{p.1} lives on {p.street}, in {a:p.house}.",
        "look for {a:p.house} on {p.street}: that is where {p.he} lives.",
    ],
    &[
        "{p.he} is known as {a:p.temper} {p.man}.",
        "people say that {p.he} is {p.temper}.",
        "{p.his} friends call {p.him} {p.temper}.",
        "{p.he} has always been {p.temper}.",
        "{p.1} is {p.temper}, [and everyone knows it|as you will soon see|just like {p.his} mother].",
    ],
    &[
        "in {p.his} free time {p.he} enjoys {p.hobby}.",
        "{p.he} loves {p.hobby}.",
        "nothing pleases {p.1} more than {p.hobby}.",
        "on Sundays you can find {p.him} {p.hobby}.",
        "{p.hobby} is what {p.he} likes best.",
    ],
    &[
        "{p.he} is very fond of {p.likes}, but {p.he} does not like {p.dislikes}.",
        "for supper {p.he} would choose {p.likes} over anything else.",
        "{p.1} likes {p.likes} and cannot stand {p.dislikes}.",
        "give {p.him} some {p.likes} and {p.he} is happy; give {p.him} {p.dislikes} and {p.he} is not.",
        "{p.he} never takes {p.dislikes} if {p.he} can help it.",
    ],
    &[
        "{p.his} best friend is {p.friend}.",
        "{p.he} is a friend of {p.friend}.",
        "{p.1} and {p.friend} are good friends.",
        "you will often see {p.him} with {p.friend}, {p.his} old friend.",
    ],
    &[
        "you can find {p.him} at {p.work}.",
        "{p.he} works at {p.work}.",
        "{p.1} spends [most of the day|long hours|every morning] at {p.work}.",
    ],
];

/// Instead of the last of `PERSON_FACTS` for a captain, whose place of work is a ship.
pub(super) const CAPTAIN_FACT: [&str; 3] =
    ["{p.he} is the captain of {p.work}.", "{p.1} commands {p.work}.", "the ship {p.he} sails is called {p.work}."];

pub(super) const PET_FACT: [&str; 5] = [
    "{p.his} pet is {a:p.pet}.",
    "{p.he} has {a:p.pet}.",
    "{p.1} keeps {a:p.pet}.",
    "{a:p.pet} lives with {p.him}.",
    "{p.his} {p.pet} [follows {p.him} everywhere|sleeps by the stove|is well known on {p.street}].",
];

pub(super) const SPOUSE_FACT: [&str; 4] = [
    "{p.he} is married to {p.spouse}.",
    "{p.his} {p.partner} is {p.spouse}.",
    "{p.1} and {p.spouse} are married[| and share a house].",
    "{p.spouse} is {p.his} {p.partner}.",
];

pub(super) const TOWN_OPEN: [&str; 8] = [
    "{t} is a town on the island of {t.island}.",
    "on the {t.coast} of {t.island} lies the town of {t}.",
    "{t} has {t.people} people and [one|a good] harbour.",
    "the town of {t} is known for its {t.known}.",
    "travellers who come to {t.island} should visit {t}.",
    "from the sea the first thing you see of {t} is the {t.landmark}.",
    "{t} stands on the {t.coast} of {t.island}.",
    "of all the towns on {t.island}, {t} is [the one I know best|my favourite|the one with the {t.landmark}].",
];

pub(super) const TOWN_FACTS: [&[&str]; 7] = [
    &["it lies on the island of {t.island}.", "{t} belongs to the island of {t.island}."],
    &["it has {t.people} people.", "about {t.people} people live there.", "the number of its people is {t.people}."],
    &[
        "it is known for its {t.known}.",
        "people come from [far away|every island] to buy the {t.known} of {t}.",
        "every island knows the {t.known} of {t}.",
    ],
    &[
        "in the middle of the town stands {a:t.landmark}.",
        "everyone who visits wants to see the {t.landmark}.",
        "the {t.landmark} is the pride of the town.",
    ],
    &[
        "the market is held every {t.market}.",
        "on {t.market} the farmers bring their goods to the market.",
        "{t.market} is market day in {t}.",
    ],
    &[
        "{p} is {a:p.job} there.",
        "among its people are {p}, {a:p.job}, and {q}, {a:q.job}.",
        "{p}, {q} and {r} all live there.",
        "one of its people is {p}, who {p.does}.",
    ],
    &[
        "{s} is {a:s.kind} on {s.street}.",
        "on {s.street} you will find {s}, {a:s.kind}.",
        "its harbour is home to {v}, {a:v.kind}.",
        "{v}, {a:v.kind} under {v.captain}, sails from there.",
    ],
];

pub(super) const SHOP_OPEN: [&str; 7] = [
    "{s} is {a:s.kind} in {t}.",
    "{a:s.kind} called {s} stands on {s.street} in {t}.",
    "{s.keeper} keeps {a:s.kind} in {t}; it is called {s}.",
    "on {s.street} in {t} there is {a:s.kind} with [a painted|{a:colour}|a carved|a crooked] sign: {s}.",
    "{s}, {a:s.kind} on {s.street}, has served {t} for {s.age} years.",
    "[many|most|nearly all] people in {t} buy their {s.good1} at {s}.",
    "do you need {s.good1} or {s.good2}? Then go to {s} in {t}.",
];

pub(super) const SHOP_FACTS: [&[&str]; 6] = [
    &[
        "it belongs to {s.keeper}.",
        "{s.keeper} is the {s.job} there.",
        "the {s.job} is {s.keeper}, {a:s.temper} {s.man}.",
        "behind the counter stands {s.keeper}.",
    ],
    &[
        "it sells {s.good1}, {s.good2}, {s.good3} and {s.good4}.",
        "there you can buy {s.good1} and {s.good3}.",
        "on the shelves are {s.good2}, {s.good4} and {s.good1}.",
        "{s.keeper1} sells {s.good4} as well as {s.good2}.",
    ],
    &[
        "{i.one} costs {i.price}.",
        "{s.keeper1} asks {i.price} for {i.one}.",
        "for {i.one} you pay {i.price}.",
        "the price of {i.one} is {i.price}, and the price of {j.one} is {j.price}.",
        "{n} {i.many} cost {cost}.",
    ],
    &[
        "the shop is closed on {s.closed}.",
        "you can come on any day but {s.closed}.",
        "on {s.closed} the door stays shut.",
        "{s.he} never opens on {s.closed}.",
    ],
    &[
        "it opened {s.age} years ago.",
        "it has been there for {s.age} years.",
        "{s.age} years have passed since it opened.",
    ],
    &[
        "{p} buys {i} there every {day}.",
        "{q.1}, the {q.job}, comes in [each week|now and then|whenever it rains] for {i.one}.",
        "children look through the window on their way to school.",
        "the smell of {i} fills the [street|room] when the wind is right.",
    ],
];

pub(super) const SHIP_OPEN: [&str; 7] = [
    "{v} is {a:v.kind} from {t}.",
    "{a:v.colour} {v.kind} named {v} lies in the harbour of {t}.",
    "{v.captain} commands {v}, {a:v.kind} of {v.length} feet.",
    "one of the ships of {t} is {v}.",
    "{v} sails from {t} with a crew of {v.crew}.",
    "the {v.kind} {v} is {v.age} years old.",
    "when {v} comes home to {t}, [the children run to the quay|the bells ring|the gulls come too].",
];

pub(super) const SHIP_FACTS: [&[&str]; 6] = [
    &[
        "its captain is {v.captain}.",
        "{v.captain} has been its captain for many years.",
        "{v.captain1} is [a careful|an old|a good|a strict] captain.",
        "the captain, {v.captain}, lives in {t}.",
    ],
    &[
        "it carries {v.cargo}.",
        "most of the time it carries {v.cargo} from island to island.",
        "its hold is full of {v.cargo}.",
        "when it comes in, there will be {v.cargo} in the market.",
    ],
    &["it has a crew of {v.crew}.", "{v.crew} sailors work on board.", "its crew counts {v.crew} hands."],
    &[
        "its hull is painted {v.colour}.",
        "you can know it by its {v.colour} hull.",
        "it is {v.colour} from bow to stern.",
    ],
    &["it is {v.length} feet long.", "from bow to stern it measures {v.length} feet."],
    &["it is {v.age} years old.", "it was built {v.age} years ago.", "the boat yard finished it {v.age} years ago."],
];

/// Goods and prices, with the comparing words that questions use.
pub(super) const GOODS_FACTS: [&str; 12] = [
    "{i.one} costs {i.price} in {t}, and {j.one} costs {j.price}.",
    "at {s} {i.one} is {i.price}.",
    "{p.1} counted {p.his} coins: {n} {i.many} would cost {cost}.",
    "the average price of a meal in {t} is {n} coins.",
    "nobody knows which shop has the lowest prices, but {s} is not the most expensive.",
    "{s.keeper} will order {i} for you if there {i.is} none left.",
    "there is a limit to what people will pay for {i}, and it is about {i.price} for {i.one}.",
    "{p} chose to select the best {i} and left the rest.",
    "where else can you buy {i} and {j} by the dozen?",
    "on {t.market} {s.keeper1} puts a group of tables in front of {s} and sells {j} there.",
    "the total was {cost} for {n} {i.many}, as {s.keeper} wrote in the book.",
    "each {day} {s.keeper1} makes a list of what was sold, in order of price from the highest to the lowest.",
];
