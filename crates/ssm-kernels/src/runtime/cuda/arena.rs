//! Where arrays lie: best fit over segments of device memory, with neighbours joined when they are freed.
//!
//! Work on one stream runs in order, so memory that the host has freed can be given out again at once: what uses it later
//! runs later. The same requests in the same order get the same places, which is what a captured graph and a planned peak
//! need. Only addresses are kept here; nothing touches a device.

use std::collections::BTreeMap;

/// Every array starts at a multiple of this.
pub const ALIGNMENT: u64 = 256;

/// Free and used places of one pool.
#[derive(Debug, Default)]
pub struct Arena {
    /// Free places by address: their sizes.
    free: BTreeMap<u64, u64>,
    /// Segments by address: their sizes. Places in different segments are never joined.
    segments: BTreeMap<u64, u64>,
    live: u64,
    peak: u64,
    reach: u64,
}

impl Arena {
    /// Rounds a request up to whole units.
    pub fn rounded(bytes: usize) -> u64 {
        (bytes as u64).max(1).next_multiple_of(ALIGNMENT)
    }

    /// Gives the arena a segment of device memory.
    pub fn add_segment(&mut self, address: u64, size: u64) {
        self.segments.insert(address, size);
        self.free.insert(address, size);
    }

    /// The address of `size` (rounded) bytes, the smallest place that fits and among equals the first; `None` if none does.
    /// What is left at the end of a segment comes last, however much it is: then a longer segment would give the same places.
    pub fn take(&mut self, size: u64) -> Option<u64> {
        let ends_segment = |address: u64, place: u64| {
            let (first, length) = self.segments.range(..=address).next_back().expect("places lie in segments");
            address - first + place == *length
        };
        let (&address, &place) = self
            .free
            .iter()
            .filter(|&(_, &place)| place >= size)
            .min_by_key(|&(&address, &place)| (ends_segment(address, place), place, address))?;
        self.free.remove(&address);
        if place > size {
            self.free.insert(address + size, place - size);
        }
        self.live += size;
        self.peak = self.peak.max(self.live);
        self.reach = self.reach.max(address + size);
        Some(address)
    }

    /// Whether `take` would find a place of that size.
    pub fn has_room(&self, size: u64) -> bool {
        self.free.values().any(|&place| place >= size)
    }

    /// Takes a place back.
    pub fn give_back(&mut self, address: u64, size: u64) {
        self.live -= size;
        let (mut start, mut end) = (address, address + size);
        if let Some((&before, &place)) = self.free.range(..address).next_back()
            && before + place == address
            && !self.segments.contains_key(&address)
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(&place) = self.free.get(&end)
            && !self.segments.contains_key(&end)
        {
            self.free.remove(&end);
            end += place;
        }
        self.free.insert(start, end - start);
    }

    /// Segments of which nothing is in use, taken out of the arena.
    pub fn take_unused_segments(&mut self) -> Vec<u64> {
        let unused: Vec<u64> = self
            .segments
            .iter()
            .filter(|&(address, size)| self.free.get(address) == Some(size))
            .map(|(&a, _)| a)
            .collect();
        for address in &unused {
            self.segments.remove(address);
            self.free.remove(address);
        }
        unused
    }

    /// Bytes in use.
    pub fn live(&self) -> u64 {
        self.live
    }

    /// The most bytes that were in use at once.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// The end of the last place that was ever taken; 0: none was.
    pub fn reach(&self) -> u64 {
        self.reach
    }

    /// Counts the peak anew from what is in use now.
    pub fn start_peak(&mut self) {
        self.peak = self.live;
    }

    /// Bytes of all segments.
    pub fn reserved(&self) -> u64 {
        self.segments.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_disjoint_reused_and_joined() {
        let mut arena = Arena::default();
        arena.add_segment(1 << 20, 4096);
        let a = arena.take(1024).unwrap();
        let b = arena.take(512).unwrap();
        let c = arena.take(1024).unwrap();
        assert_eq!([a, b, c], [1 << 20, (1 << 20) + 1024, (1 << 20) + 1536]);
        arena.give_back(b, 512);
        assert_eq!(arena.take(256), Some(b), "the smallest place that fits");
        arena.give_back(b, 256);
        arena.give_back(a, 1024);
        assert_eq!(arena.take(1536), Some(a), "neighbours are joined");
        assert_eq!(arena.take(2048), None);
        assert!(arena.has_room(512) && !arena.has_room(2048));
        arena.give_back(a, 1536);
        arena.give_back(c, 1024);
        assert_eq!(arena.peak(), 2560);
        assert_eq!(arena.take_unused_segments(), [1 << 20]);
    }

    #[test]
    fn segments_are_not_joined() {
        let mut arena = Arena::default();
        arena.add_segment(1024, 1024);
        arena.add_segment(2048, 1024);
        let (a, b) = (arena.take(1024).unwrap(), arena.take(1024).unwrap());
        arena.give_back(a, 1024);
        arena.give_back(b, 1024);
        assert_eq!(arena.take(2048), None);
        assert_eq!(arena.reserved(), 2048);
    }
}
