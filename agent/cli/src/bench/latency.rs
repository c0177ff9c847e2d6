//! `tidelog bench latency`: what a user of our client library sees, at a steady rate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use tidelog_client::{
    Client, ClientOptions, Compression, ConsumerOptions, Delivery, Endpoint, PartitionIndex, Producer,
    ProducerOptions, ProducerRecord, StartAt, TopicName,
};
use tidelog_metadata_log::env::Entropy;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::histogram::Histogram;
use super::payload::{self, Content};
use super::window::{Counters, ResultRow, WindowArgs, measure, report};
use super::{finish, prepare_topic};
use crate::connect::connect;
use crate::failure::Failure;
use crate::size::{parse_duration, parse_size};

/// The value begins with the time at which it should have been sent, in nanoseconds of the run.
const STAMP_BYTES: usize = 8;
/// Different values that are sent.
const VALUES: usize = 256;
/// Records that wait for their acknowledgement.
const DELIVERIES: usize = 100_000;

/// Sends records at a rate through the client library, and reads them: how long until they are acknowledged, and until a consumer has them.
/// Latencies count from when a record should have been sent.
#[derive(Debug, clap::Args)]
pub struct LatencyBench {
    /// Topic to write to; created if it does not exist
    #[arg(long, default_value = "bench-latency", value_name = "NAME")]
    topic: TopicName,
    /// Partitions of the topic, if it is created
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    partitions: u32,
    /// Bytes of a record's value, 8 or more
    #[arg(long, default_value = "1KiB", value_parser = parse_size, value_name = "SIZE")]
    record_size: usize,
    /// Records a second
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    rate: u64,
    /// How long records wait for others of their batch
    #[arg(long, default_value = "0ms", value_parser = parse_duration, value_name = "DURATION")]
    linger: Duration,
    /// What is in the records: random or text
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "random|text")]
    content: Content,
    /// Codec of the batches
    #[arg(long, short = 'z', default_value_t, value_name = "CODEC")]
    compression: Compression,
    /// Only produce, with no consumer beside
    #[arg(long)]
    no_consumer: bool,
    #[command(flatten)]
    window: WindowArgs,
}

/// Runs `tidelog bench latency`.
pub async fn run(args: LatencyBench, endpoint: &Endpoint) -> Result<(), Failure> {
    if args.record_size < STAMP_BYTES {
        return Err(Failure::usage("--record-size has to be 8 or more"));
    }
    let (_, partitions) =
        prepare_topic(endpoint, ClientOptions::default(), &args.topic, args.partitions).await?;
    let producing = connect(endpoint.as_str(), ClientOptions::default()).await?;
    let mut options = ProducerOptions::default();
    options.linger = args.linger;
    options.compression = args.compression;
    let producer = Arc::new(producing.producer(options));
    let counters = Arc::new(Counters::default());
    let (stop, begin) = (CancellationToken::new(), Instant::now());
    let mut tasks = JoinSet::new();
    if !args.no_consumer {
        let consuming = connect(endpoint.as_str(), ClientOptions::default()).await?;
        let deliver =
            deliver(consuming, args.topic.clone(), partitions, begin, Arc::clone(&counters), stop.clone());
        tasks.spawn(guarded(stop.clone(), async move { Ok((Measured::Deliver, deliver.await?)) }));
    }
    let (sent, waiting) = mpsc::channel(DELIVERIES);
    let acknowledge = acknowledge(waiting, args.record_size, Arc::clone(&counters), stop.clone());
    tasks.spawn(guarded(stop.clone(), async move { Ok((Measured::Acknowledge, acknowledge.await?)) }));
    let values = payload::values(args.content, args.record_size, VALUES, &Entropy::seeded(1));
    let schedule = Schedule { begin, interval: Duration::from_secs(1).div_f64(args.rate as f64), values };
    let sending = send(Arc::clone(&producer), args.topic.clone(), schedule, sent, stop.clone());
    tasks.spawn(guarded(stop.clone(), async move { Ok((Measured::Acknowledge, sending.await?)) }));

    let measured = measure(&args.window, &counters, &stop).await;
    stop.cancel();
    let (mut acknowledged, mut delivered) = (Histogram::default(), Histogram::default());
    for (what, histogram) in finish(tasks).await? {
        match what {
            Measured::Acknowledge => acknowledged.merge(&histogram),
            Measured::Deliver => delivered.merge(&histogram),
        }
    }
    let row = ResultRow {
        bench: "latency",
        measured: measured?,
        acknowledge_ms: acknowledged.percentiles(),
        deliver_ms: delivered.percentiles(),
    };
    report(&row, args.window.listing)
}

/// Which latency a task measured.
enum Measured {
    Acknowledge,
    Deliver,
}

/// Ends the run when a task of it ends, with an error or without.
async fn guarded<T>(
    stop: CancellationToken,
    task: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = task.await;
    stop.cancel();
    done
}

/// When what is sent.
struct Schedule {
    begin: Instant,
    interval: Duration,
    values: Vec<Vec<u8>>,
}

async fn send(
    producer: Arc<Producer>,
    topic: TopicName,
    schedule: Schedule,
    sent: mpsc::Sender<(Instant, Delivery)>,
    stop: CancellationToken,
) -> Result<Histogram, Failure> {
    let mut due = Instant::now();
    for value in schedule.values.iter().cycle() {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(due) => {}
        }
        let stamp = u64::try_from(due.duration_since(schedule.begin).as_nanos()).unwrap_or(u64::MAX);
        let mut value = value.clone();
        value.splice(..STAMP_BYTES, stamp.to_le_bytes());
        let delivery = producer.send(ProducerRecord::new(topic.clone(), value)).await?;
        if sent.send((due, delivery)).await.is_err() {
            break;
        }
        due += schedule.interval;
    }
    Ok(Histogram::default())
}

async fn acknowledge(
    mut waiting: mpsc::Receiver<(Instant, Delivery)>,
    record_size: usize,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Result<Histogram, Failure> {
    let mut latency = Histogram::default();
    let mut next = VecDeque::new();
    loop {
        let (due, delivery): (Instant, Delivery) = match next.pop_front() {
            Some(next) => next,
            None => tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(latency),
                sent = waiting.recv() => match sent {
                    Some(sent) => sent,
                    None => return Ok(latency),
                }
            },
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(latency),
            acknowledged = delivery.wait() => acknowledged?,
        };
        if counters.measuring.load(Ordering::Relaxed) {
            latency.record(due.elapsed());
        }
        counters.add(1, record_size as u64, record_size as u64);
        while let Ok(sent) = waiting.try_recv() {
            next.push_back(sent);
        }
    }
}

async fn deliver(
    client: Client,
    topic: TopicName,
    partitions: u32,
    begin: Instant,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Result<Histogram, Failure> {
    let all = (0..partitions as usize).filter_map(PartitionIndex::from_position);
    let assignments: Vec<_> = all.map(|partition| (topic.clone(), partition, StartAt::Latest)).collect();
    let mut consumer = client.consumer(&assignments, ConsumerOptions::default()).await?;
    let mut latency = Histogram::default();
    loop {
        let record = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(latency),
            record = consumer.next() => match record {
                Some(record) => record?,
                None => return Ok(latency),
            },
        };
        let stamp = record.value.as_ref().and_then(|value| value.first_chunk::<STAMP_BYTES>());
        if let Some(stamp) = stamp
            && counters.measuring.load(Ordering::Relaxed)
        {
            let due = begin + Duration::from_nanos(u64::from_le_bytes(*stamp));
            latency.record(due.elapsed());
        }
    }
}
