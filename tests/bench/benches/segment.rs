//! What a flush costs between the last batch and the upload.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidelog_bench::records::{builder, values};
use tidelog_record::Compression;
use tidelog_segment::{BufferPool, PooledBuffer, SegmentBatch, build, verify};
use tidelog_types::{AgentInstance, ClusterId, PartitionIndex, TopicId, TopicPartition};
use uuid::Uuid;

/// The allocator of the agent: what is large comes from the same pages again and again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(1));
const AGENT: AgentInstance = AgentInstance(Uuid::from_u128(2));
const PARTITIONS: usize = 50;
const SEGMENT_BYTES: usize = 8 << 20;

fn partition(n: usize) -> TopicPartition {
    let partition = PartitionIndex::from_position(n % PARTITIONS).expect("below 2^31");
    TopicPartition { topic: TopicId(1), partition }
}

/// 8 MiB in batches of `batch_bytes`, of 50 partitions in turn, in one pooled buffer.
fn batches(batch_bytes: usize) -> Vec<SegmentBatch> {
    let batch = builder(Compression::None, &values(1000, batch_bytes)).build().expect("has records");
    let count = SEGMENT_BYTES / batch.len();
    let mut buffer: PooledBuffer = BufferPool::new(SEGMENT_BYTES, 1).take();
    for _ in 0..count {
        assert!(buffer.try_extend(&batch), "{count} fit");
    }
    let mut rest = buffer.freeze();
    let records = (batch_bytes / 1000) as u32;
    let next = |n| SegmentBatch { partition: partition(n), records, bytes: rest.split_to(batch.len()) };
    (0..count).map(next).collect()
}

fn segment(c: &mut Criterion) {
    let mut group = c.benchmark_group("segment");
    group.throughput(Throughput::Bytes(SEGMENT_BYTES as u64)).sample_size(20);
    for (name, batch_bytes) in [("1 KiB", 1000), ("16 KiB", 16_000), ("160 KiB", 160_000)] {
        let batches = batches(batch_bytes);
        group.bench_function(BenchmarkId::new("build 50 partitions", name), |b| {
            b.iter(|| build(CLUSTER, AGENT, black_box(&batches)).expect("below 4 GiB"));
        });
        let built = build(CLUSTER, AGENT, &batches).expect("below 4 GiB");
        println!("segment of batches of {name}: {} batches, {} pieces", batches.len(), built.chunks.len());
        let object = built.chunks.concat();
        group.bench_function(BenchmarkId::new("verify", name), |b| {
            b.iter(|| verify("bench", black_box(&object)).expect("is whole"));
        });
    }

    // Filling: copying batches into memory that the pool kept, and into what the allocator gives.
    let batch = builder(Compression::None, &values(1000, 16_000)).build().expect("has records");
    let count = SEGMENT_BYTES / batch.len();
    let pool = BufferPool::new(SEGMENT_BYTES, 2);
    let fill = |mut buffer: PooledBuffer| {
        for _ in 0..count {
            assert!(buffer.try_extend(black_box(&batch)), "{count} fit");
        }
        buffer.freeze()
    };
    group.bench_function("fill/from the pool", |b| {
        b.iter_batched(|| pool.take(), fill, BatchSize::PerIteration);
    });
    group.bench_function("fill/from the allocator", |b| {
        b.iter_batched(|| BufferPool::new(SEGMENT_BYTES, 0).take(), fill, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, segment);
criterion_main!(benches);
