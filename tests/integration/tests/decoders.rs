//! The fuzz targets without a fuzzer: each is given its seeds, and some thousand inputs that were made from them. It finds less than
//! `tests/fuzz/run.sh`, and needs neither its compiler nor its time.

// What the targets say of themselves as binaries.
#![allow(unused_attributes, missing_docs)]

extern crate self as libfuzzer_sys;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

// Before the macro, which they import by name as they import the fuzzer's.
#[path = "../../fuzz/fuzz_targets/metadata_entry.rs"]
mod metadata_entry;
#[path = "../../fuzz/fuzz_targets/metadata_snapshot.rs"]
mod metadata_snapshot;
#[path = "../../fuzz/fuzz_targets/record_decode.rs"]
mod record_decode;
#[path = "../../fuzz/fuzz_targets/record_validate.rs"]
mod record_validate;
#[path = "../../fuzz/fuzz_targets/records_transcode.rs"]
mod records_transcode;
#[path = "../../fuzz/fuzz_targets/segment_read.rs"]
mod segment_read;

/// Inputs of each target.
const INPUTS: usize = 20_000;
/// As the fuzzer is told.
const INPUT_BYTES_MAX: usize = 64 * 1024;
const MEMORY_MAX_KIB: u64 = 256 * 1024;

/// Takes the place of the fuzzer's macro of this name: makes a function of a target.
macro_rules! fuzz_target {
    (|$input:ident: $kind:ty| $body:block) => {
        pub fn target(data: &[u8]) {
            let Some($input) = <$kind as crate::Input>::read(data) else { return };
            $body
        }
    };
}
pub(crate) use fuzz_target;

/// What a target takes, read from bytes as the fuzzer does: numbers from the front, then the rest.
trait Input<'a>: Sized {
    fn read(data: &'a [u8]) -> Option<Self>;
}

impl<'a> Input<'a> for &'a [u8] {
    fn read(data: &'a [u8]) -> Option<Self> {
        Some(data)
    }
}

impl<'a> Input<'a> for (u16, &'a [u8]) {
    fn read(data: &'a [u8]) -> Option<Self> {
        let (number, rest) = data.split_first_chunk()?;
        Some((u16::from_le_bytes(*number), rest))
    }
}

impl<'a> Input<'a> for (u8, u8, &'a [u8]) {
    fn read(data: &'a [u8]) -> Option<Self> {
        let ([first, second], rest) = data.split_first_chunk()?;
        Some((*first, *second, rest))
    }
}

/// Decodes any bytes, and panics where something does not agree.
type Target = fn(&[u8]);

/// Each target of the folder is one of these.
const TARGETS: [(&str, Target); 6] = [
    ("metadata_entry", metadata_entry::target),
    ("metadata_snapshot", metadata_snapshot::target),
    ("record_decode", record_decode::target),
    ("record_validate", record_validate::target),
    ("records_transcode", records_transcode::target),
    ("segment_read", segment_read::target),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(name)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("readable").file_name().into_string();
    let mut names: Vec<String> = entries.map(|entry| name(entry).expect("ASCII")).collect();
    names.sort();
    names
}

/// Numbers that are the same in each run: Marsaglia's xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// A byte, often one that limits are made of.
    fn byte(&mut self) -> u8 {
        let odd = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
        odd.get(self.below(2 * odd.len())).copied().unwrap_or(self.below(256) as u8)
    }

    /// Changes an input in one to four ways.
    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        for _ in 0..=self.below(4) {
            let at = self.below(input.len());
            let end = at + self.below(1 + (input.len() - at).min(32));
            match self.below(7) {
                0 => input.truncate(at),
                1 => drop(input.drain(at..end)),
                2 => {
                    let piece = input[at..end].to_vec();
                    let to = self.below(input.len() + 1);
                    input.splice(to..to, piece);
                }
                3 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    input.splice(at.., other[from..].iter().copied());
                }
                4 => {
                    let piece: Vec<u8> = (0..self.below(9)).map(|_| self.byte()).collect();
                    input.splice(at..at, piece);
                }
                5 => {
                    let bit = 1 << self.below(8);
                    input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
                }
                _ => {
                    let new = self.byte();
                    input.iter_mut().skip(at).take(1).for_each(|byte| *byte = new);
                }
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}

fn run(name: &str, target: Target, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{name} does not stand these {} bytes: {hex}", input.len());
    }
}

#[test]
fn all_targets_are_replayed() {
    let listed = TARGETS.map(|(name, _)| format!("{name}.rs"));
    assert_eq!(names(&folder("fuzz_targets")), listed);
}

#[test]
fn decoders_stand_what_is_made_from_their_seeds() {
    std::thread::scope(|scope| {
        for (name, target) in TARGETS {
            scope.spawn(move || {
                let seeds = folder("seeds").join(name);
                let seeds: Vec<Vec<u8>> = names(&seeds)
                    .iter()
                    .map(|seed| std::fs::read(seeds.join(seed)).expect("readable"))
                    .chain([Vec::new()])
                    .collect();
                seeds.iter().for_each(|seed| run(name, target, seed));
                let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
                let mut input = Vec::new();
                for round in 0..INPUTS {
                    // Some are made from what was made before, and so lie farther from the seeds.
                    if !round.is_multiple_of(3) {
                        input.clone_from(&seeds[dice.below(seeds.len())]);
                    }
                    dice.change(&mut input, &seeds);
                    run(name, target, &input);
                }
            });
        }
    });
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells it");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells it");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    assert!(peak < MEMORY_MAX_KIB, "decoding took {peak} KiB");
}
