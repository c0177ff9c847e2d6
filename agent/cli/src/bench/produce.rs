//! `tidelog bench produce`: how much the service takes, and how soon it acknowledges.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidelog_client::{ClientOptions, Compression, Endpoint, TopicName};
use tidelog_metadata_log::env::Entropy;
use tidelog_proto::status::ApiError;
use tidelog_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::histogram::Histogram;
use super::payload::{self, Content, Form};
use super::window::{Counters, Measured, ResultRow, WindowArgs, measure, report};
use super::wire::Wire;
use super::{finish, prepare_topic};
use crate::failure::{Exit, Failure};
use crate::size::parse_size;

/// Sends prepared batches or records as fast as they are taken, or at a rate. They carry no producer id.
#[derive(Debug, clap::Args)]
pub struct ProduceBench {
    /// Topic to write to; created if it does not exist
    #[arg(long, default_value = "bench", value_name = "NAME")]
    topic: TopicName,
    /// Partitions of the topic, if it is created
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    partitions: u32,
    /// Connections, each with a stream of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    connections: u32,
    /// Bytes of a record's value
    #[arg(long, default_value = "1KiB", value_parser = parse_size, value_name = "SIZE")]
    record_size: usize,
    /// Bytes of the records in one append to one partition, before compression
    #[arg(long, default_value = "512KiB", value_parser = parse_size, value_name = "SIZE")]
    batch_size: usize,
    /// Partitions that one append writes to
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    partitions_per_append: u32,
    /// Appends of a connection that wait for their answers
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    in_flight: u32,
    /// Records a second, all connections together; without it as many as are taken
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    rate: Option<u64>,
    /// Form of the records: batch (as our client sends them) or records (as any language can)
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "batch|records")]
    payload: Form,
    /// What is in the records: random or text
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "random|text")]
    content: Content,
    /// Codec of the batches
    #[arg(long, short = 'z', default_value_t, value_name = "CODEC")]
    compression: Compression,
    /// Like a client that nobody tuned: HTTP/2 frames of 16 KiB
    #[arg(long)]
    stock: bool,
    #[command(flatten)]
    window: WindowArgs,
}

/// One append, prepared, and what it counts.
struct Load {
    appends: Vec<Vec<v1::ProducePartition>>,
    records: u64,
    bytes: u64,
    wire_bytes: u64,
    /// Time between two appends of one connection.
    interval: Option<Duration>,
    in_flight: usize,
}

/// Runs `tidelog bench produce`: the connections go to the endpoints in turn.
pub async fn run(args: ProduceBench, endpoints: &[Endpoint], first: &Endpoint) -> Result<(), Failure> {
    if args.record_size == 0 || args.record_size > args.batch_size {
        return Err(Failure::usage("--record-size has to be 1 or more, and at most --batch-size"));
    }
    let options = ClientOptions::default();
    let now = options.clock.now();
    let (topic, partitions) = prepare_topic(first, options, &args.topic, args.partitions).await?;
    let load = Arc::new(prepare(&args, topic.0, partitions, now)?);
    let counters = Arc::new(Counters::default());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for (connection, endpoint) in (0..args.connections).zip(endpoints.iter().cycle()) {
        let wire = Wire::open(endpoint, args.stock).await?;
        let (load, counters, stop) = (Arc::clone(&load), Arc::clone(&counters), stop.clone());
        tasks.spawn(async move {
            let done = produce(&wire, &load, connection as usize, &counters, &stop).await;
            // The first that fails ends the run; at its end, all do.
            stop.cancel();
            done
        });
    }
    let measured: Result<Measured, Failure> = measure(&args.window, &counters, &stop).await;
    stop.cancel();
    let mut latency = Histogram::default();
    for histogram in finish(tasks).await? {
        latency.merge(&histogram);
    }
    let row = ResultRow {
        bench: "produce",
        measured: measured?,
        acknowledge_ms: latency.percentiles(),
        deliver_ms: None,
    };
    report(&row, args.window.listing)
}

fn prepare(
    args: &ProduceBench,
    topic_id: u64,
    partitions: u32,
    now: tidelog_client::TimestampMs,
) -> Result<Load, Failure> {
    let count = args.batch_size / args.record_size;
    let values = payload::values(args.content, args.record_size, count, &Entropy::seeded(1));
    let payload = payload::encode(args.payload, &values, args.compression, now)?;
    let width = args.partitions_per_append.min(partitions);
    let append = |first: u32| {
        let partition = |next: u32| v1::ProducePartition {
            topic: args.topic.to_string(),
            partition: i32::try_from((first + next) % partitions).unwrap_or(0),
            topic_id: Some(topic_id),
            payload: Some(payload.clone()),
            stamp: None,
        };
        (0..width).map(partition).collect()
    };
    let records = count as u64 * u64::from(width);
    let interval = args.rate.map(|rate| {
        // Of one connection: all of them together keep the rate.
        Duration::from_secs(1).mul_f64(records as f64 / rate as f64) * args.connections
    });
    Ok(Load {
        appends: (0..partitions).map(append).collect(),
        records,
        bytes: (count * args.record_size) as u64 * u64::from(width),
        wire_bytes: payload::wire_bytes(&payload) as u64 * u64::from(width),
        interval,
        in_flight: args.in_flight as usize,
    })
}

/// Keeps one stream busy until `stop`; returns the latencies.
async fn produce(
    wire: &Wire,
    load: &Load,
    first: usize,
    counters: &Counters,
    stop: &CancellationToken,
) -> Result<Histogram, Failure> {
    let failed = |status: tonic::Status| {
        Failure::new(Exit::Failure, format!("produce failed: {}", ApiError::from_status(&status)))
    };
    let (to_service, requests) = mpsc::channel(2);
    let config = v1::ProduceStreamConfig { client_id: "tidelog bench".into() };
    let opening =
        v1::ProduceStreamRequest { message: Some(v1::produce_stream_request::Message::Config(config)) };
    let _ = to_service.try_send(opening);
    let mut answers =
        wire.producer().produce_stream(ReceiverStream::new(requests)).await.map_err(failed)?.into_inner();
    let mut waiting: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut latency = Histogram::default();
    let (mut number, mut due) = (0_u64, Instant::now());
    loop {
        let now = Instant::now();
        let may_send = waiting.len() < load.in_flight && due <= now;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(latency),
            answer = answers.message() => {
                let Some(answer) = answer.map_err(failed)? else {
                    return Err(Failure::new(Exit::Unavailable, "the agent ended the stream"));
                };
                if let Some(v1::produce_stream_response::Message::Result(result)) = answer.message {
                    check(&result)?;
                    counters.add(load.records, load.bytes, load.wire_bytes);
                    if let Some(begun) = waiting.remove(&result.client_sequence)
                        && counters.measuring.load(Ordering::Relaxed)
                    {
                        latency.record(begun.elapsed());
                    }
                }
            }
            room = to_service.reserve(), if may_send => {
                let Ok(room) = room else {
                    return Err(Failure::new(Exit::Unavailable, "the agent ended the stream"));
                };
                let position = first.wrapping_add(usize::try_from(number).unwrap_or(0)) % load.appends.len();
                let partitions = load.appends.get(position).cloned().unwrap_or_default();
                let append = v1::ProduceStreamAppend { client_sequence: number, partitions };
                // At a rate, what could not be sent in time counts from when it should have been.
                waiting.insert(number, if load.interval.is_some() { due } else { now });
                room.send(v1::ProduceStreamRequest { message: Some(v1::produce_stream_request::Message::Append(append)) });
                number += 1;
                if let Some(interval) = load.interval {
                    due += interval;
                }
            }
            () = tokio::time::sleep_until(due), if due > now => {}
        }
    }
}

fn check(result: &v1::ProduceStreamResult) -> Result<(), Failure> {
    for partition in &result.results {
        if let Some(v1::produce_partition_result::Result::Error(error)) = &partition.result {
            let error = ApiError::from(error.clone());
            return Err(Failure::failed(format!("{}[{}]: {error}", partition.topic, partition.partition)));
        }
    }
    Ok(())
}
