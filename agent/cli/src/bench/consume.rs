//! `tidelog bench consume`: how fast the service hands out what it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidelog_client::{ClientOptions, Endpoint, TopicName};
use tidelog_proto::status::ApiError;
use tidelog_proto::v1::{self, OffsetPosition, RecordFormat};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::finish;
use super::payload::Form;
use super::window::{Counters, ResultRow, WindowArgs, measure, report};
use super::wire::Wire;
use crate::connect::connect;
use crate::failure::{Exit, Failure};

/// Reads a topic from its beginning, over and over, and drops what it gets. Batches are not decompressed.
#[derive(Debug, clap::Args)]
pub struct ConsumeBench {
    /// Topic to read
    #[arg(long, default_value = "bench", value_name = "NAME")]
    topic: TopicName,
    /// Connections; they share the partitions
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    connections: u32,
    /// Form of the records: batch (as our client asks for) or records (as any language can)
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "batch|records")]
    payload: Form,
    /// Most bytes of records in one message of the agent; without it, its own limit
    #[arg(long, value_parser = crate::size::parse_size, value_name = "SIZE")]
    message_size: Option<usize>,
    /// Like a client that nobody tuned: HTTP/2 frames of 16 KiB
    #[arg(long)]
    stock: bool,
    #[command(flatten)]
    window: WindowArgs,
}

/// Runs `tidelog bench consume`.
pub async fn run(args: ConsumeBench, endpoint: &Endpoint) -> Result<(), Failure> {
    let client = connect(endpoint.as_str(), ClientOptions::default()).await?;
    let (_, partitions) = client.get_topic(&args.topic).await?;
    let filled = partitions.iter().filter(|partition| partition.high_watermark > partition.log_start);
    let ends: Vec<(i32, i64)> =
        filled.map(|partition| (partition.partition.get(), partition.high_watermark.get())).collect();
    if ends.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("topic {} holds no records", args.topic)));
    }
    let counters = Arc::new(Counters::default());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for connection in 0..args.connections as usize {
        let own = ends.iter().skip(connection).step_by(args.connections as usize).copied();
        let own: BTreeMap<i32, i64> = own.collect();
        if own.is_empty() {
            continue;
        }
        let wire = Wire::open(endpoint, args.stock).await?;
        let request = request(&args, own.keys().copied());
        let (counters, stop) = (Arc::clone(&counters), stop.clone());
        tasks.spawn(async move {
            let read = async {
                loop {
                    read_once(&wire, &request, &own, &counters).await?;
                }
            };
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                failed = read => failed,
            };
            stop.cancel();
            done
        });
    }
    let measured = measure(&args.window, &counters, &stop).await;
    stop.cancel();
    finish(tasks).await?;
    let row = ResultRow { bench: "consume", measured: measured?, acknowledge_ms: None, deliver_ms: None };
    report(&row, args.window.listing)
}

fn request(args: &ConsumeBench, partitions: impl Iterator<Item = i32>) -> v1::SubscribeRequest {
    let partitions = partitions.map(|partition| v1::SubscribePartition {
        topic: args.topic.to_string(),
        partition,
        topic_id: None,
        start: Some(v1::subscribe_partition::Start::Position(OffsetPosition::Earliest.into())),
    });
    let format = match args.payload {
        Form::Batch => RecordFormat::Batches,
        Form::Records => RecordFormat::Records,
    };
    v1::SubscribeRequest {
        partitions: partitions.collect(),
        format: format.into(),
        max_bytes: args.message_size.and_then(|bytes| i32::try_from(bytes).ok()),
        client_id: "tidelog bench".into(),
    }
}

/// Reads all partitions to the ends that they had when the run began.
async fn read_once(
    wire: &Wire,
    request: &v1::SubscribeRequest,
    ends: &BTreeMap<i32, i64>,
    counters: &Counters,
) -> Result<(), Failure> {
    let failed = |status: tonic::Status| {
        Failure::new(Exit::Failure, format!("consume failed: {}", ApiError::from_status(&status)))
    };
    let mut messages = wire.consumer().subscribe(request.clone()).await.map_err(failed)?.into_inner();
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    loop {
        let message = messages.message().await.map_err(failed)?;
        let message = message.and_then(|message| message.message);
        match message {
            Some(v1::subscribe_response::Message::Records(records)) => {
                for partition in records.partitions {
                    if let Some(error) = partition.error {
                        let error = ApiError::from(error);
                        return Err(Failure::failed(format!(
                            "{}[{}]: {error}",
                            partition.topic, partition.partition
                        )));
                    }
                    let batches: usize = partition.batches.iter().map(|batch| batch.data.len()).sum();
                    let bytes = (batches + partition.records.len()) as u64;
                    let before = next.insert(partition.partition, partition.next_offset).unwrap_or(0);
                    let read = partition.next_offset.saturating_sub(before.max(partition.log_start_offset));
                    counters.add(u64::try_from(read).unwrap_or(0), bytes, bytes);
                }
                if ends.iter().all(|(partition, end)| next.get(partition).is_some_and(|next| next >= end)) {
                    return Ok(());
                }
            }
            Some(v1::subscribe_response::Message::Heartbeat(_)) => {}
            // The connection ends soon; the run goes on with a new stream.
            Some(v1::subscribe_response::Message::Reconnect(_)) | None => return Ok(()),
        }
    }
}
