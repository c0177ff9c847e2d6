//! What a flush costs the metadata: `apply` alone, as the leader does it, as a follower does it; and snapshots.
//!
//! At 1,000 flushes a second, 100 µs per flush are 10 % of a core, which is the target for `apply`.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidelog_bench::flushes::{Flushes, SLICES_PER_FLUSH, Shape, new_state};
use tidelog_metadata_state::{BatchBuilder, Entry, EntryId, State};
use uuid::Uuid;

/// As in the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SHAPES: [Shape; 4] = [
    Shape { batches: 1, producers: false },
    Shape { batches: 1, producers: true },
    Shape { batches: 5, producers: false },
    Shape { batches: 5, producers: true },
];

fn name(shape: Shape) -> String {
    format!("{}x{}{}", SLICES_PER_FLUSH, shape.batches, if shape.producers { "-idempotent" } else { "" })
}

fn apply(state: &mut State, entry: &Entry) {
    let applied = state.apply(state.next(), entry).expect("it fits its place");
    // The node wakes waiting callers with it; dropping it belongs to the work.
    drop(black_box(applied));
}

/// A state that has seen enough flushes to be in its stride, and the flushes that come next.
fn warm(shape: Shape) -> (State, Flushes) {
    let (mut state, mut flushes) = (new_state(), Flushes::new(shape));
    for _ in 0..2_000 {
        apply(&mut state, &flushes.next_entry());
    }
    (state, flushes)
}

fn flushes(c: &mut Criterion) {
    let mut group = c.benchmark_group("metadata");
    group.throughput(Throughput::Elements(1)).sample_size(30);
    for shape in SHAPES {
        let (mut state, mut flushes) = warm(shape);
        group.bench_function(BenchmarkId::new("apply", name(shape)), |b| {
            let routine = |entry: Entry| {
                apply(&mut state, &entry);
                entry
            };
            b.iter_batched(|| flushes.next_entry(), routine, BatchSize::SmallInput);
        });
        let (mut state, mut flushes) = warm(shape);
        group.bench_function(BenchmarkId::new("follower-decode-and-apply", name(shape)), |b| {
            let routine = |bytes: bytes::Bytes| {
                let entry = Entry::decode(&bytes).expect("it was encoded");
                apply(&mut state, &entry);
            };
            b.iter_batched(|| flushes.next_entry().encode(), routine, BatchSize::SmallInput);
        });
        let mut flushes = Flushes::new(shape);
        group.bench_function(BenchmarkId::new("leader-encode", name(shape)), |b| {
            let time = flushes.time();
            let routine = |proposal| {
                let mut builder = BatchBuilder::new(256 * 1024);
                builder.push(proposal).expect("it fits");
                builder.finish(EntryId(Uuid::nil()), time)
            };
            b.iter_batched(|| flushes.next_proposal(), routine, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn snapshots(c: &mut Criterion) {
    let mut group = c.benchmark_group("metadata-snapshot");
    group.sample_size(10);
    for shape in [Shape { batches: 1, producers: false }, Shape { batches: 5, producers: true }] {
        let (mut state, mut flushes) = (new_state(), Flushes::new(shape));
        for _ in 0..4_000 {
            apply(&mut state, &flushes.next_entry());
        }
        let bytes = state.encode_snapshot();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let id = |what| BenchmarkId::new(what, format!("200k-slices-{}", name(shape)));
        group.bench_function(id("encode"), |b| b.iter(|| state.encode_snapshot()));
        group.bench_function(id("decode"), |b| b.iter(|| State::decode_snapshot(&bytes)));
    }
    group.finish();
}

criterion_group!(benches, flushes, snapshots);
criterion_main!(benches);
