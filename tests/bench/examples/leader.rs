//! Prints what one leader of the metadata commits: flushes a second, how many of them share an append, CPU time, bytes.
//!
//! `cargo run --release -p tidelog-bench --example leader [COMMITTERS [APPEND_MS [SECONDS]]]`, by default 64 flushes waiting at a time, a
//! log that takes 3 ms for an append (DynamoDB's median is some 5 ms, that of DynamoDB Local 0.6 ms), 5 seconds. The log is in memory, so the CPU time is the
//! leader's: group commit, encoding, applying.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::memory::InMemory;
use tidelog_bench::flushes::{Flushes, PARTITIONS, SLICES_PER_FLUSH, Shape};
use tidelog_metadata_log::env::{Entropy, SystemClock};
use tidelog_metadata_log::memory::MemoryLog;
use tidelog_metadata_log::{Append, LogError, MetadataLog};
use tidelog_metadata_node::{Metadata, Node, NodeConfig, ObjectSnapshots, genesis};
use tidelog_metadata_state::{Command, Outcome};
use tidelog_types::{AgentInstance, LogEpoch, LogSeq, Place, ShardId, TopicName};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// As in the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A log that takes its time for an append.
#[derive(Debug)]
struct Slow(MemoryLog, Duration);

#[async_trait]
impl MetadataLog for Slow {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        tokio::time::sleep(self.1).await;
        self.0.append(shard, place, bytes).await
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        self.0.read(shard, epoch, from, limit).await
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        self.0.remove(shard, epoch, seqs).await
    }

    fn entry_bytes_max(&self) -> usize {
        // DynamoDB's.
        64 * 1024
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// CPU-seconds of this process, from `/proc/self/stat` (100 ticks a second on every Linux that can run this).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

async fn propose(metadata: &Metadata, command: Command) -> Arc<Outcome> {
    metadata.propose(command, Instant::now() + Duration::from_secs(60)).await.expect("it leads alone")
}

async fn topics(metadata: &Metadata) {
    let per_topic = 100;
    for number in 0..PARTITIONS / per_topic {
        let name = TopicName::new(&format!("topic-{number}")).expect("a name");
        let partitions = u32::try_from(per_topic).expect("few");
        propose(metadata, Command::CreateTopic { name, partitions, config: Vec::new() }).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (committers, append_ms, seconds) = (number(64), number(3), number(5));
    let (objects, log, entropy) = (Arc::new(InMemory::new()), MemoryLog::new(), Entropy::seeded(1));
    let cluster = genesis::initialise(&*objects, &log, &SystemClock, &entropy).await.expect("empty stores");
    let mut config = NodeConfig::new(cluster, AgentInstance(entropy.uuid()));
    config.exclusive = true;
    let snapshots = Arc::new(ObjectSnapshots::new(objects, ShardId::ZERO));
    let log = Arc::new(Slow(log, Duration::from_millis(append_ms)));
    let (metadata, node) = Node::new(config, log, snapshots, Arc::new(SystemClock), entropy);
    drop(tokio::spawn(node.run(CancellationToken::new())));
    topics(&metadata).await;

    let mut flushes = Flushes::new(Shape { batches: 1, producers: false });
    let mut waiting = FuturesUnordered::new();
    let mut commit = || {
        let (metadata, command) = (metadata.clone(), flushes.next_proposal().command);
        async move {
            match &*propose(&metadata, command).await {
                Outcome::SegmentCommitted(slices) => assert_eq!(slices.len(), SLICES_PER_FLUSH),
                other => panic!("{other:?}"),
            }
        }
    };
    // A round to warm up.
    let warm_until = Instant::now() + Duration::from_secs(1);
    waiting.extend((0..committers).map(|_| commit()));
    while Instant::now() < warm_until {
        waiting.next().await;
        waiting.push(commit());
    }
    let stats = metadata.stats();
    let look = || (stats.entries.load(Ordering::Relaxed), stats.entry_bytes.load(Ordering::Relaxed));
    let (before, cpu_before, start) = (look(), cpu_seconds(), Instant::now());
    let mut committed = 0_u32;
    while start.elapsed() < Duration::from_secs(seconds) {
        waiting.next().await;
        committed += 1;
        waiting.push(commit());
    }
    let (spent, cpu, after) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu_before, look());
    let (flushes, entries) = (f64::from(committed), (after.0 - before.0) as f64);
    println!(
        "{committers} flushes of {SLICES_PER_FLUSH} slices waiting at a time, {append_ms} ms an append, {spent:.1} s"
    );
    println!("  flushes                {:9.0} /s", flushes / spent);
    println!("  appends                {:9.0} /s, {:.1} flushes each", entries / spent, flushes / entries);
    println!("  bytes of an entry      {:9.0} a flush", (after.1 - before.1) as f64 / flushes);
    println!("  CPU                    {:9.0} µs a flush, client's part included", cpu / flushes * 1e6);
    println!("  at 1,000 flushes/s     {:9.1} % of a core", cpu / flushes * 1e5);
}
