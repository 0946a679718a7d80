//! The words of the world: names, places, jobs, days, habits. Only lists; what the seed makes of them is in
//! `entities.rs`, what shops sell is in `goods.rs`, and words of feeling are in `feeling.rs`. ASCII throughout.

pub(crate) const WOMEN: [&str; 40] = [
    "Mara", "Elin", "Tessa", "Ruth", "Nora", "Ida", "Wren", "Sable", "Hanna", "Lotte", "Greta", "Una", "Bela", "Cora",
    "Dilys", "Fern", "Isla", "Juna", "Kaia", "Lena", "Maeve", "Nell", "Orla", "Petra", "Rosa", "Signe", "Thea", "Vera",
    "Willa", "Yara", "Zoe", "Ada", "Britt", "Clara", "Edda", "Flora", "Gwen", "Hester", "Inga", "Marta",
];

pub(crate) const MEN: [&str; 40] = [
    "Tobin", "Aldo", "Bram", "Caleb", "Dorian", "Emil", "Finn", "Gil", "Hugo", "Ivar", "Jonas", "Karl", "Lars",
    "Magnus", "Nils", "Oscar", "Piet", "Rufus", "Simon", "Tom", "Ulf", "Victor", "Walter", "Yan", "Abel", "Boris",
    "Colin", "David", "Edwin", "Felix", "Gregor", "Henrik", "Ian", "Jasper", "Leo", "Martin", "Otto", "Paul", "Ralf",
    "Sven",
];

pub(crate) const SURNAMES: [&str; 56] = [
    "Fenn", "Harrow", "Quill", "Stone", "Marsh", "Brook", "Tarn", "Lowe", "Vance", "Pike", "Reed", "Holm", "Thorne",
    "Wick", "Ash", "Birch", "Crane", "Dale", "Ember", "Frost", "Gale", "Heath", "Irons", "Keel", "Lark", "Moss",
    "North", "Oakes", "Penn", "Rook", "Salt", "Tull", "Vale", "West", "Yates", "Barrow", "Cole", "Dunn", "Elder",
    "Flint", "Grove", "Hale", "Kerr", "Lamb", "Mill", "Nash", "Orr", "Pool", "Rowe", "Shaw", "Todd", "Upton", "Voss",
    "Webb", "York", "Hull",
];

pub(crate) const TOWNS: [&str; 30] = [
    "Gullhaven",
    "Oldport",
    "Saltby",
    "Whitcliff",
    "Marrow Bay",
    "Eastquay",
    "Fernwick",
    "Stormness",
    "Lowtide",
    "Kelby",
    "Sandholm",
    "Redrock",
    "Millbridge",
    "Northey",
    "Pearl Cove",
    "Ashford",
    "Brightwater",
    "Coldspring",
    "Deephaven",
    "Elmsea",
    "Foxpoint",
    "Greywall",
    "Hollow Bay",
    "Ivyport",
    "Larkhill",
    "Mistley",
    "Nettle Cove",
    "Otterby",
    "Pinehurst",
    "Seaton",
];

pub(crate) const ISLANDS: [&str; 10] =
    ["Harrow", "Skerry", "Tallis", "Morven", "Ulva", "Brenna", "Corran", "Dunmore", "Lessa", "Varda"];

pub(crate) const STREETS: [&str; 16] = [
    "Net Street",
    "Lantern Lane",
    "Harbour Road",
    "Mill Lane",
    "Rope Walk",
    "Church Street",
    "Anchor Row",
    "Hill Road",
    "Market Square",
    "Chapel Lane",
    "Pepper Street",
    "Kiln Road",
    "Willow Lane",
    "Tower Street",
    "Bell Yard",
    "South Quay",
];

pub(crate) const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

pub(crate) const NUMBERS: [&str; 13] =
    ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

pub(crate) const COLOURS: [&str; 12] =
    ["red", "blue", "green", "white", "black", "yellow", "brown", "grey", "orange", "purple", "silver", "pink"];

pub(crate) const HOUSES: [&str; 12] =
    ["small", "tall", "narrow", "low", "old", "new", "crooked", "square", "round", "big", "tiny", "plain"];

pub(crate) const HOUSE_KINDS: [&str; 5] =
    ["house", "cottage", "house with a garden", "house with a wide door", "cabin"];

pub(crate) const LANDMARKS: [&str; 20] = [
    "white lighthouse",
    "old stone bridge",
    "tall clock tower",
    "round windmill",
    "wooden theatre",
    "great oak tree",
    "ruined castle",
    "fish market",
    "quiet chapel",
    "long pier",
    "bronze statue",
    "deep well",
    "town library",
    "glass house",
    "little museum",
    "hot spring",
    "sea wall",
    "watch tower",
    "walled garden",
    "water mill",
];

pub(crate) const COASTS: [&str; 6] =
    ["north coast", "south coast", "east coast", "west coast", "rocky cape", "wide bay"];

pub(crate) const WEATHER: [&str; 9] = ["sunny", "rainy", "windy", "foggy", "stormy", "cold", "mild", "snowy", "cloudy"];

pub(crate) const TEMPERS: [&str; 20] = [
    "kind",
    "patient",
    "cheerful",
    "quiet",
    "proud",
    "stubborn",
    "clever",
    "shy",
    "brave",
    "careful",
    "lazy",
    "curious",
    "honest",
    "gentle",
    "serious",
    "funny",
    "polite",
    "forgetful",
    "generous",
    "restless",
];

pub(crate) const HOBBIES: [&str; 24] = [
    "playing the fiddle",
    "carving small boats",
    "painting the sea",
    "growing roses",
    "telling stories",
    "collecting shells",
    "singing in the choir",
    "swimming in the bay",
    "reading old books",
    "baking pies",
    "flying kites",
    "playing chess",
    "walking on the beach",
    "watching birds",
    "dancing",
    "looking at the stars",
    "riding horses",
    "writing letters",
    "picking mushrooms",
    "mending clocks",
    "rowing",
    "climbing the cliffs",
    "drawing maps",
    "playing cards",
];

pub(crate) const PETS: [&str; 16] = [
    "grey cat",
    "black cat",
    "brown dog",
    "white dog",
    "green parrot",
    "small goat",
    "white rabbit",
    "tame crow",
    "old donkey",
    "spotted pig",
    "red hen",
    "fat goose",
    "lame pony",
    "little owl",
    "striped cat",
    "deaf dog",
];

/// A job: its name, what its holder does (third person), and where.
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) does: &'static str,
    pub(crate) place: &'static str,
}

const fn job(name: &'static str, does: &'static str, place: &'static str) -> Job {
    Job { name, does, place }
}

/// Jobs of people who neither keep a shop nor command a ship.
pub(crate) const JOBS: [Job; 26] = [
    job("fisher", "catches herring and cod in the bay", "the quay"),
    job("sailor", "works on the ships in the harbour", "the harbour"),
    job("net maker", "makes and mends nets", "the net loft"),
    job("teacher", "teaches children to read and count", "the school"),
    job("lighthouse keeper", "lights the great lamp every evening", "the lighthouse"),
    job("pilot", "guides ships past the rocks", "the pilot house"),
    job("boat builder", "builds boats from oak and pine", "the boat yard"),
    job("doctor", "looks after the sick", "the hospital"),
    job("farmer", "grows barley and beans", "the farm"),
    job("shepherd", "watches the sheep on the hill", "the hill"),
    job("beekeeper", "keeps bees and sells the honey", "the orchard"),
    job("weaver", "weaves wool into cloth", "the weaving house"),
    job("painter", "paints doors, signs and boats", "the paint shed"),
    job("musician", "plays at weddings and feasts", "the music hall"),
    job("cook", "cooks for the crews in the harbour", "the kitchen"),
    job("letter carrier", "brings letters to every house", "the post office"),
    job("clerk", "writes down every ship and every box", "the harbour office"),
    job("miller", "grinds corn into flour", "the mill"),
    job("gardener", "plants trees and cuts the hedges", "the park"),
    job("bell ringer", "rings the bell at noon", "the bell tower"),
    job("harbour master", "tells each ship where to tie up", "the harbour office"),
    job("rope maker", "twists long ropes from hemp", "the rope yard"),
    job("night guard", "walks the streets with a lantern", "the guard house"),
    job("diver", "brings up lost anchors and shells", "the pier"),
    job("map maker", "draws maps of the coast", "the map room"),
    job("judge", "settles quarrels in the town hall", "the town hall"),
];

pub(crate) const SHIP_FIRST: [&str; 12] =
    ["Grey", "Golden", "Silent", "Northern", "Merry", "Brave", "Swift", "Salty", "Lucky", "Proud", "Little", "Blue"];

pub(crate) const SHIP_SECOND: [&str; 14] = [
    "Gull", "Star", "Otter", "Heron", "Wave", "Lantern", "Dolphin", "Rose", "Anchor", "Swan", "Pearl", "Whale", "Wind",
    "Maid",
];

pub(crate) const SHIP_KINDS: [&str; 8] = ["sloop", "barge", "ferry", "cutter", "trawler", "brig", "schooner", "tug"];

pub(crate) const SHOP_FIRST: [&str; 12] = [
    "Copper",
    "Crooked",
    "Green",
    "Old",
    "Silver",
    "Three-Legged",
    "Sleepy",
    "Painted",
    "Honest",
    "Hungry",
    "Red",
    "Wooden",
];

pub(crate) const SHOP_SECOND: [&str; 14] = [
    "Kettle", "Crab", "Door", "Barrel", "Spoon", "Cat", "Lamp", "Wheel", "Fox", "Table", "Goose", "Key", "Bell", "Hook",
];

/// Small things people lose, lend and find.
pub(crate) const THINGS: [&str; 24] = [
    "ladder",
    "lantern",
    "scarf",
    "basket",
    "hammer",
    "key",
    "umbrella",
    "pocket watch",
    "blue hat",
    "fishing rod",
    "saw",
    "wheelbarrow",
    "letter",
    "silver ring",
    "notebook",
    "kettle",
    "spade",
    "purse",
    "telescope",
    "whistle",
    "brass compass",
    "wool blanket",
    "flute",
    "bucket",
];

/// Places every town has; where people meet and things turn up.
pub(crate) const PLACES: [&str; 18] = [
    "the harbour",
    "the market",
    "the lighthouse",
    "the old bridge",
    "the school",
    "the church",
    "the beach",
    "the mill",
    "the post office",
    "the town hall",
    "the boat yard",
    "the park",
    "the pier",
    "the library",
    "the inn",
    "the quay",
    "the clock tower",
    "the ferry house",
];

pub(crate) const TIMES: [&str; 8] =
    ["at noon", "at nine", "at sunset", "at sunrise", "after lunch", "in the evening", "at four", "before breakfast"];
