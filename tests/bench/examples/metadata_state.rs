//! Prints what a large metadata state costs: memory per live slice, the share of a core that a steady rate of flushes
//! takes, the size and time of its snapshot.
//!
//! `cargo run --release -p tidelog-bench --example metadata_state [FLUSHES [BATCHES_PER_SLICE [idempotent]]]`; 20,000
//! flushes are 1,000,000 slices. One shape per process, because memory that was freed hides growth.

use tidelog_bench::flushes::{Flushes, PARTITIONS, SLICES_PER_FLUSH, Shape, new_state};
use tidelog_metadata_state::State;
use tokio::time::Instant;

/// As in the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KIB: usize = 1024;

/// Resident memory of this process, from `/proc/self/status`; 0 where there is none.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) * KIB
}

fn measure(count: usize, shape: Shape) {
    println!("{count} flushes of {SLICES_PER_FLUSH} of {PARTITIONS} partitions, {shape:?}");
    let mut flushes = Flushes::new(shape);
    let mut state = new_state();
    // Entries are made in small groups, so that they weigh nothing in the end.
    let mut group = Vec::with_capacity(100);
    let mut apply_group = |state: &mut State, count: usize| {
        group.extend((0..count).map(|_| flushes.next_entry()));
        let start = Instant::now();
        for entry in &group {
            state.apply(state.next(), entry).expect("it fits its place");
        }
        let spent = start.elapsed();
        group.clear();
        spent
    };
    // The first flush to each partition, with all that is there once, is not what a slice costs.
    apply_group(&mut state, 100);
    let before = resident_bytes();
    let applied: std::time::Duration = (0..count / 100).map(|_| apply_group(&mut state, 100)).sum();
    let grown = resident_bytes().saturating_sub(before);
    let slices = count * SLICES_PER_FLUSH;
    let per_flush = applied / u32::try_from(count).unwrap_or(u32::MAX);
    println!(
        "  memory per live slice    {:6.1} B  ({:.1} MiB in all)",
        grown as f64 / slices as f64,
        mib(grown)
    );
    println!("  apply                    {per_flush:?} per flush");
    println!("  at 1,000 flushes/s       {:6.2} % of a core", per_flush.as_secs_f64() * 1_000.0 * 100.0);
    let start = Instant::now();
    let bytes = state.encode_snapshot();
    let encoded = start.elapsed();
    println!(
        "  snapshot                 {:.2} MiB, {:.1} B per slice",
        mib(bytes.len()),
        bytes.len() as f64 / slices as f64
    );
    let start = Instant::now();
    let restored = State::decode_snapshot(&bytes).expect("it was just written");
    let decoded = start.elapsed();
    println!("  encode, decode           {encoded:?}, {decoded:?}");
    // A snapshot is written from a clone; the next flush to a partition copies what they shared.
    let clone = state.clone();
    let shared = apply_group(&mut state, 20) / 20;
    println!("  apply beside a clone     {shared:?} per flush, each partition for the first time");
    assert!(restored == clone, "a snapshot comes back whole");
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (KIB * KIB) as f64
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().and_then(|count| count.parse().ok()).unwrap_or(default);
    let (count, batches) = (number(20_000), number(1));
    let producers = arguments.next().is_some_and(|word| word == "idempotent");
    measure(count, Shape { batches, producers });
}
