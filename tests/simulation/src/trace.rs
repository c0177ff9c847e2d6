//! What happened in a run, as one number, and as text for whoever replays it.

use std::time::Duration;

/// The events of a run. Two runs of one seed have equal hashes (INV-25).
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    verbose: bool,
}

impl Trace {
    /// An empty trace; a verbose one prints each event.
    pub fn new(verbose: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, verbose }
    }

    /// Adds an event: numbers that tell it from others, and words for people.
    pub fn event(&mut self, at: Duration, numbers: &[u64], words: impl FnOnce() -> String) {
        self.events += 1;
        self.mix(u64::try_from(at.as_micros()).unwrap_or(u64::MAX));
        numbers.iter().for_each(|number| self.mix(*number));
        if self.verbose {
            println!("{:>10.3} s  {}", at.as_secs_f64(), words());
        }
    }

    fn mix(&mut self, word: u64) {
        // FNV-1a over words, with a shift so that high bits reach low ones.
        self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.hash ^= self.hash >> 29;
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// A number for bytes, to put into an event.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
