//! How large one piece of memory must be for the arrays of a step, found while they come and go in others.

use std::collections::HashMap;

use super::arena::Arena;

/// Does with a single endless segment what is done with a pool.
#[derive(Debug)]
pub struct OnePiece {
    arena: Arena,
    /// Where the array at an address of the pool lies here.
    places: HashMap<u64, u64>,
}

impl Default for OnePiece {
    fn default() -> OnePiece {
        let mut arena = Arena::default();
        arena.add_segment(0, u64::MAX);
        OnePiece { arena, places: HashMap::new() }
    }
}

impl OnePiece {
    /// An array of `size` (rounded) bytes was placed at `address` of the pool.
    pub fn took(&mut self, address: u64, size: u64) {
        let place = self.arena.take(size).expect("the segment is endless");
        self.places.insert(address, place);
    }

    /// It is gone.
    pub fn gave_back(&mut self, address: u64, size: u64) {
        let place = self.places.remove(&address).expect("it was taken");
        self.arena.give_back(place, size);
    }

    /// Bytes up to which the piece was ever used.
    pub fn size(&self) -> u64 {
        self.arena.reach()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_that_size_takes_the_same_arrays() {
        // (is taken, address, size), from a pool of scattered segments.
        let done = [
            (true, 9 << 40, 1024),
            (true, 7 << 40, 256),
            (true, 8 << 40, 512),
            (false, 9 << 40, 1024),
            (true, 6 << 40, 512),
            (false, 7 << 40, 256),
            (true, 5 << 40, 1024),
            (true, 4 << 40, 768),
        ];
        let mut piece = OnePiece::default();
        for (taken, address, size) in done {
            if taken { piece.took(address, size) } else { piece.gave_back(address, size) }
        }
        assert_eq!(piece.size(), 2816);
        let mut arena = Arena::default();
        arena.add_segment(1 << 30, piece.size());
        let mut places = HashMap::new();
        for (taken, address, size) in done {
            if taken {
                places.insert(address, arena.take(size).expect("it fits"));
            } else {
                arena.give_back(places[&address], size);
            }
        }
    }

    #[test]
    fn what_is_left_of_a_segment_is_taken_last() {
        let mut arena = Arena::default();
        arena.add_segment(0, 4096);
        let a = arena.take(2048).unwrap();
        arena.take(1024).unwrap();
        arena.give_back(a, 2048);
        assert_eq!(arena.take(512), Some(0), "though the end would fit better");
    }
}
