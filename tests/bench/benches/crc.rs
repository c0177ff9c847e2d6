//! CRC-32C against the physical limit: a copy of the same bytes in the same run.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidelog_record::{crc, crc32c};

fn crc(c: &mut Criterion) {
    println!("crc: {}", crc::implementation());
    // In the cache of a core, and outside of it.
    for bytes in [16 << 10, 1 << 20, 64 << 20] {
        let mut group = c.benchmark_group(format!("crc/{} KiB", bytes >> 10));
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20);
        let source = vec![0x5a; bytes];
        let mut target = vec![0; bytes];
        group.bench_function("crc32c", |b| b.iter(|| crc32c(black_box(&source))));
        group.bench_function("memcpy", |b| {
            b.iter(|| {
                target.copy_from_slice(black_box(&source));
                black_box(&target);
            });
        });
        group.finish();
    }
}

criterion_group!(benches, crc);
criterion_main!(benches);
