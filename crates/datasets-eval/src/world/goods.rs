//! What is bought and sold: kinds of shop, the trade of each keeper, and the goods with their units. Prices are drawn
//! from the seed in `entities.rs`, between the bounds given here.

/// What a thing is like, for sentences of praise and complaint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Food,
    Drink,
    Ware,
}

/// One article of trade.
pub(crate) struct Good {
    /// As a shop's sign has it: "bread", "apples".
    pub(crate) name: &'static str,
    /// One unit, with its article: "a loaf of bread".
    pub(crate) one: &'static str,
    /// Several units, without the number: "loaves of bread".
    pub(crate) many: &'static str,
    /// Whether `name` takes "are".
    pub(crate) plural: bool,
    pub(crate) nature: Nature,
    /// Lowest and highest price of a unit, in coins.
    pub(crate) price: (usize, usize),
}

/// A kind of shop.
pub(crate) struct ShopKind {
    pub(crate) name: &'static str,
    /// The keeper's job.
    pub(crate) keeper: &'static str,
    /// What the keeper does, third person.
    pub(crate) does: &'static str,
    /// What it sells, as indices into `GOODS`.
    pub(crate) goods: std::ops::Range<usize>,
}

const fn good(
    name: &'static str,
    one: &'static str,
    many: &'static str,
    plural: bool,
    nature: Nature,
    price: (usize, usize),
) -> Good {
    Good { name, one, many, plural, nature, price }
}

use Nature::{Drink, Food, Ware};

pub(crate) const GOODS: [Good; 56] = [
    good("bread", "a loaf of bread", "loaves of bread", false, Food, (2, 4)),
    good("honey cake", "a honey cake", "honey cakes", false, Food, (4, 9)),
    good("apple pie", "an apple pie", "apple pies", false, Food, (5, 9)),
    good("seed rolls", "a seed roll", "seed rolls", true, Food, (1, 3)),
    good("herring", "a basket of herring", "baskets of herring", false, Food, (3, 8)),
    good("cod", "a piece of cod", "pieces of cod", false, Food, (4, 9)),
    good("crabs", "a crab", "crabs", true, Food, (2, 6)),
    good("mussels", "a bowl of mussels", "bowls of mussels", true, Food, (3, 7)),
    good("cheese", "a wheel of cheese", "wheels of cheese", false, Food, (8, 19)),
    good("butter", "a pat of butter", "pats of butter", false, Food, (2, 5)),
    good("milk", "a jug of milk", "jugs of milk", false, Drink, (1, 3)),
    good("eggs", "a box of eggs", "boxes of eggs", true, Food, (3, 6)),
    good("apples", "a bag of apples", "bags of apples", true, Food, (2, 6)),
    good("pears", "a bag of pears", "bags of pears", true, Food, (3, 7)),
    good("potatoes", "a sack of potatoes", "sacks of potatoes", true, Food, (4, 9)),
    good("onions", "a string of onions", "strings of onions", true, Food, (1, 4)),
    good("knives", "a knife", "knives", true, Ware, (9, 20)),
    good("nails", "a box of nails", "boxes of nails", true, Ware, (2, 5)),
    good("anchors", "an anchor", "anchors", true, Ware, (40, 80)),
    good("hooks", "a fish hook", "fish hooks", true, Ware, (1, 3)),
    good("rope", "a coil of rope", "coils of rope", false, Ware, (8, 16)),
    good("candles", "a bundle of candles", "bundles of candles", true, Ware, (3, 7)),
    good("lamp oil", "a can of lamp oil", "cans of lamp oil", false, Ware, (5, 11)),
    good("sails", "a sail", "sails", true, Ware, (50, 95)),
    good("coats", "a coat", "coats", true, Ware, (30, 60)),
    good("hats", "a hat", "hats", true, Ware, (8, 18)),
    good("gloves", "a pair of gloves", "pairs of gloves", true, Ware, (6, 14)),
    good("boots", "a pair of boots", "pairs of boots", true, Ware, (20, 45)),
    good("books", "a book", "books", true, Ware, (7, 15)),
    good("sea maps", "a sea map", "sea maps", true, Ware, (12, 28)),
    good("ink", "a bottle of ink", "bottles of ink", false, Ware, (2, 6)),
    good("paper", "a roll of paper", "rolls of paper", false, Ware, (3, 7)),
    good("bowls", "a clay bowl", "clay bowls", true, Ware, (3, 8)),
    good("jugs", "a clay jug", "clay jugs", true, Ware, (5, 10)),
    good("cups", "a painted cup", "painted cups", true, Ware, (2, 6)),
    good("plates", "a blue plate", "blue plates", true, Ware, (3, 7)),
    good("tea", "a tin of tea", "tins of tea", false, Drink, (5, 12)),
    good("honey", "a jar of honey", "jars of honey", false, Food, (4, 10)),
    good("plum jam", "a jar of plum jam", "jars of plum jam", false, Food, (3, 8)),
    good("biscuits", "a tin of biscuits", "tins of biscuits", true, Food, (4, 9)),
    good("soap", "a bar of soap", "bars of soap", false, Ware, (2, 5)),
    good("ointment", "a pot of ointment", "pots of ointment", false, Ware, (6, 14)),
    good("herbs", "a bunch of herbs", "bunches of herbs", true, Ware, (1, 4)),
    good("cough syrup", "a bottle of cough syrup", "bottles of cough syrup", false, Ware, (5, 11)),
    good("fish soup", "a bowl of fish soup", "bowls of fish soup", false, Food, (3, 7)),
    good("lamb stew", "a plate of lamb stew", "plates of lamb stew", false, Food, (5, 10)),
    good("cider", "a mug of cider", "mugs of cider", false, Drink, (1, 4)),
    good("beer", "a barrel of beer", "barrels of beer", false, Drink, (25, 45)),
    good("kites", "a kite", "kites", true, Ware, (4, 9)),
    good("toy boats", "a toy boat", "toy boats", true, Ware, (5, 12)),
    good("dolls", "a doll", "dolls", true, Ware, (6, 13)),
    good("drums", "a drum", "drums", true, Ware, (9, 19)),
    good("chairs", "a chair", "chairs", true, Ware, (15, 30)),
    good("tables", "a table", "tables", true, Ware, (35, 70)),
    good("oars", "a pair of oars", "pairs of oars", true, Ware, (14, 26)),
    good("barrels", "an empty barrel", "empty barrels", true, Ware, (10, 18)),
];

const fn shop(name: &'static str, keeper: &'static str, does: &'static str, first: usize) -> ShopKind {
    ShopKind { name, keeper, does, goods: first * 4..first * 4 + 4 }
}

pub(crate) const SHOP_KINDS: [ShopKind; 14] = [
    shop("bakery", "baker", "bakes bread before sunrise", 0),
    shop("fish shop", "fish seller", "sells fish from the morning boats", 1),
    shop("dairy", "cheese maker", "makes cheese and butter", 2),
    shop("fruit shop", "grocer", "sells fruit from the farms", 3),
    shop("smithy", "smith", "hammers iron all day", 4),
    shop("ship store", "chandler", "sells all that a ship needs", 5),
    shop("clothes shop", "tailor", "sews warm clothes for the winter", 6),
    shop("bookshop", "bookseller", "sells books and paper", 7),
    shop("pottery", "potter", "shapes clay on a wheel", 8),
    shop("tea house", "tea seller", "pours tea for travellers", 9),
    shop("medicine shop", "chemist", "mixes medicine from herbs", 10),
    shop("inn", "innkeeper", "keeps warm beds and a full kitchen", 11),
    shop("toy shop", "toy maker", "carves toys for the children", 12),
    shop("workshop", "carpenter", "makes furniture from oak", 13),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_good_belongs_to_exactly_one_kind_of_shop() {
        let mut owners = vec![0; GOODS.len()];
        for kind in &SHOP_KINDS {
            for good in kind.goods.clone() {
                owners[good] += 1;
            }
        }
        assert!(owners.iter().all(|&n| n == 1), "{owners:?}");
        assert!(GOODS.iter().all(|g| g.price.0 < g.price.1));
    }
}
