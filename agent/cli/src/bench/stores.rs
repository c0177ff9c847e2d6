//! What the stores themselves take: the floor that latencies and CPU figures are held against.

use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::Serialize;
use tidelog_metadata_log::env::Entropy;
use tidelog_metadata_log::{Append, MetadataLog};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};
use tokio::time::Instant;

use super::cpu::Process;
use super::histogram::{Histogram, Percentiles};
use crate::failure::Failure;
use crate::output::{Listing, json_lines};
use crate::size::parse_size;
use crate::stores::{ClusterStores, StoreArgs};

/// A shard that no cluster of this version has: its places get in nobody's way, whatever epoch they are in.
const SHARD: ShardId = ShardId(u16::MAX);

/// Measures raw PUTs of the object store and raw appends of the metadata log, one after the other. Writes below bench/ and to a shard
/// of its own, and removes it all; a local directory must not be in use
#[derive(Debug, clap::Args)]
pub struct StoresBench {
    #[command(flatten)]
    stores: StoreArgs,
    /// Bytes of each object
    #[arg(long, value_parser = parse_size, default_value = "64KiB", value_name = "SIZE")]
    object_size: usize,
    /// Bytes of each entry
    #[arg(long, value_parser = parse_size, default_value = "512B", value_name = "SIZE")]
    entry_size: usize,
    /// How many of each
    #[arg(long, default_value_t = 500, value_name = "N")]
    count: u32,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct Row {
    bench: &'static str,
    bytes: usize,
    count: u32,
    ms: Option<Percentiles>,
    mib_per_second: f64,
    client_cpu_seconds_per_gib: Option<f64>,
}

/// Runs `tidelog bench stores`.
pub async fn run(args: StoresBench) -> Result<(), Failure> {
    let stores = ClusterStores::open(&args.stores).await?;
    let entropy = Entropy::from_os();
    let put = puts(&*stores.data, &args, &entropy).await?;
    let append = appends(&*stores.log, &args, &entropy).await?;
    if args.listing.is_json() {
        return json_lines([put, append]);
    }
    for row in [put, append] {
        let Some(ms) = &row.ms else { continue };
        println!(
            "{} of {} B: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms; {:.1} MiB/s; client CPU {:.2} s per GiB",
            row.bench,
            row.bytes,
            ms.p50,
            ms.p90,
            ms.p99,
            ms.max,
            row.mib_per_second,
            row.client_cpu_seconds_per_gib.unwrap_or(f64::NAN)
        );
    }
    Ok(())
}

async fn puts(store: &dyn ObjectStore, args: &StoresBench, entropy: &Entropy) -> Result<Row, Failure> {
    let folder = format!("bench/{}", entropy.uuid());
    let bytes = random(args.object_size, entropy);
    let paths: Vec<Path> = (0..args.count).map(|n| Path::from(format!("{folder}/{n}"))).collect();
    let mut times = Histogram::default();
    let (started, before) = (Instant::now(), Process::own().cpu_seconds());
    for path in &paths {
        let began = Instant::now();
        let create = PutOptions::from(PutMode::Create);
        let put = store.put_opts(path, bytes.clone().into(), create).await;
        put.map_err(|error| Failure::failed(error.to_string()))?;
        times.record(began.elapsed());
    }
    let row = row("put", args.object_size, args.count, &times, started.elapsed(), before);
    for path in &paths {
        // Without the permission to delete they stay; that is no failure of the measurement.
        let _ = store.delete(path).await;
    }
    Ok(row)
}

async fn appends(log: &dyn MetadataLog, args: &StoresBench, entropy: &Entropy) -> Result<Row, Failure> {
    let epoch = LogEpoch(entropy.below(1_000_000_000));
    let bytes = random(args.entry_size, entropy);
    let seqs: Vec<LogSeq> = (0..u64::from(args.count)).map(LogSeq).collect();
    let mut times = Histogram::default();
    let (started, before) = (Instant::now(), Process::own().cpu_seconds());
    for seq in &seqs {
        let began = Instant::now();
        match log.append(SHARD, Place::new(epoch, *seq), bytes.clone()).await {
            Append::Appended => times.record(began.elapsed()),
            other => return Err(Failure::failed(format!("an append ended with {other:?}"))),
        }
    }
    let row = row("append", args.entry_size, args.count, &times, started.elapsed(), before);
    log.remove(SHARD, epoch, &seqs).await.map_err(|error| Failure::failed(error.to_string()))?;
    Ok(row)
}

fn row(
    bench: &'static str,
    bytes: usize,
    count: u32,
    times: &Histogram,
    took: Duration,
    cpu_before: Option<f64>,
) -> Row {
    let mib = bytes as f64 * f64::from(count) / f64::from(1 << 20);
    let cpu = Process::own().cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    Row {
        bench,
        bytes,
        count,
        ms: times.percentiles(),
        mib_per_second: mib / took.as_secs_f64(),
        client_cpu_seconds_per_gib: cpu.map(|seconds| seconds / (mib / 1024.0)),
    }
}

fn random(bytes: usize, entropy: &Entropy) -> Bytes {
    (0..bytes.div_ceil(8))
        .flat_map(|_| entropy.next_u64().to_le_bytes())
        .take(bytes)
        .collect::<Vec<u8>>()
        .into()
}
