//! What a record batch costs on the way in and on the way out.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidelog_bench::records::{FIRST_TIME, builder, record_set, values};
use tidelog_record::{
    BatchLimits, Compression, DecodedBatch, records_to_protobuf, transcode_records, validate, verify_records,
};
use tidelog_segment::BufferPool;
use tidelog_types::Offset;

/// The allocator of the agent: what is large comes from the same pages again and again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_BYTES: usize = 1 << 20;
const LIMITS: BatchLimits = BatchLimits { max_batch_bytes: 4 << 20, max_decompressed_bytes: 32 << 20 };

/// The agent's part of producing: protobuf records to a batch with its CRC, in memory that is used again.
fn transcode(c: &mut Criterion) {
    let mut group = c.benchmark_group("transcode");
    for (name, value_bytes, headers) in
        [("100 B", 100, 0), ("1 KiB", 1 << 10, 0), ("1 KiB, 2 headers", 1 << 10, 2), ("16 KiB", 16 << 10, 0)]
    {
        let set = record_set(&values(value_bytes, BATCH_BYTES), headers);
        group.throughput(Throughput::Bytes(set.len() as u64)).sample_size(30);

        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("same buffer", name), |b| {
            b.iter(|| {
                out.clear();
                transcode_records(black_box(&set), FIRST_TIME, None, &LIMITS, &mut out).expect("is valid")
            });
        });
        // As an agent does it: buffers of 8 MiB, of which some wait for their upload, so that none is in a cache.
        let pool = BufferPool::new(8 << 20, 4);
        let mut waiting = std::collections::VecDeque::new();
        let mut buffer = pool.take();
        group.bench_function(BenchmarkId::new("pooled buffers", name), |b| {
            b.iter(|| {
                if buffer.remaining() < LIMITS.max_batch_bytes as usize {
                    let full = std::mem::replace(&mut buffer, pool.take());
                    waiting.push_back(full.freeze());
                    if waiting.len() > 3 {
                        waiting.pop_front();
                    }
                }
                let out = buffer.as_mut_vec();
                transcode_records(black_box(&set), FIRST_TIME, None, &LIMITS, out).expect("is valid")
            });
        });
        let mut copy = vec![0; set.len()];
        group.bench_function(BenchmarkId::new("memcpy", name), |b| {
            b.iter(|| {
                copy.copy_from_slice(black_box(&set));
                black_box(&copy);
            });
        });
    }
    group.finish();
}

/// The agent's part of producing and fetching encoded batches.
fn check(c: &mut Criterion) {
    let mut group = c.benchmark_group("check");
    let batch = builder(Compression::None, &values(1 << 10, BATCH_BYTES)).build().expect("has records");
    group.throughput(Throughput::Bytes(batch.len() as u64)).sample_size(30);
    group.bench_function("validate", |b| b.iter(|| validate(black_box(&batch), &LIMITS).expect("is valid")));
    group.bench_function("verify records", |b| {
        b.iter(|| verify_records(black_box(&batch), &LIMITS).expect("is valid"));
    });
    group.finish();
}

/// The agent's part of fetching plain records.
fn fetch(c: &mut Criterion) {
    let mut group = c.benchmark_group("to protobuf");
    for (name, value_bytes) in [("100 B", 100), ("1 KiB", 1 << 10)] {
        for compression in [Compression::None, Compression::Lz4] {
            let batch = builder(compression, &values(value_bytes, BATCH_BYTES)).build().expect("has records");
            group.throughput(Throughput::Bytes(BATCH_BYTES as u64)).sample_size(30);
            let mut out = Vec::new();
            group.bench_function(BenchmarkId::new(compression.to_string(), name), |b| {
                b.iter(|| {
                    out.clear();
                    let offset = Offset::ZERO;
                    records_to_protobuf(black_box(&batch), offset, offset, 1, &LIMITS, &mut out)
                        .expect("is valid")
                });
            });
        }
    }
    group.finish();
}

/// The client's part: building batches and reading them. Rates are of uncompressed bytes.
fn codecs(c: &mut Criterion) {
    let values = values(1 << 10, BATCH_BYTES);
    for compression in Compression::ALL {
        let mut group = c.benchmark_group(format!("codec/{compression}"));
        group.throughput(Throughput::Bytes(BATCH_BYTES as u64)).sample_size(20);
        let mut out = Vec::new();
        // Building takes what was appended, so appending is part of it.
        let mut reused = builder(compression, &values);
        group.bench_function("encode", |b| {
            b.iter(|| {
                out.clear();
                reused.clear();
                for value in &values {
                    let record = tidelog_record::RecordRef {
                        timestamp: FIRST_TIME,
                        key: None,
                        value: Some(black_box(value)),
                        headers: &[],
                    };
                    reused.append(record).expect("far below 2 GiB");
                }
                reused.build_into(&mut out).expect("has records")
            });
        });
        let batch: Bytes = builder(compression, &values).build().expect("has records");
        println!("codec/{compression}: {} bytes of {BATCH_BYTES}", batch.len());
        group.bench_function("decode", |b| {
            b.iter(|| {
                let decoded = DecodedBatch::open(black_box(&batch), &LIMITS).expect("is valid");
                decoded
                    .records()
                    .map(|record| record.map_or(0, |r| r.value.map_or(0, <[u8]>::len)))
                    .sum::<usize>()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, transcode, check, fetch, codecs);
criterion_main!(benches);
