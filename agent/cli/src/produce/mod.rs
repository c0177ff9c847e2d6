//! `tidelog produce`: writes the lines of a file or of standard input as records.

mod input;
mod lines;
mod report;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tidelog_client::{
    Client, Compression, Header, PartitionIndex, Producer, ProducerOptions, TimestampMs, TopicName,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::connect::{connect, options};
use crate::failure::{Exit, Failure};
use crate::interrupt::on_interrupt;
use input::{InputFormat, Shape};
use report::Report;
use source::{Source, SourceError};

/// Records on their way to the report, beyond those in the producer's memory.
const DELIVERIES: usize = 64 * 1024;
/// How long a record may wait for its acknowledgement.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// JSON takes up to six bytes for one.
const JSON_FACTOR: usize = 6;
/// And some for the names of its fields.
const JSON_EXTRA_BYTES: usize = 64 * 1024;

/// Writes records: one a line, byte for byte, without its newline; says on standard error where they are.
///
/// Fails if any record was not acknowledged, and says how many were. A line longer than the topic's max.message.bytes ends the command; the
/// lines before it are written.
#[derive(Debug, clap::Args)]
pub struct ProduceArgs {
    /// Topic to write to
    topic: TopicName,
    /// File to read; - is standard input
    #[arg(default_value = "-", value_parser = source::path)]
    file: PathBuf,
    /// Key of all records
    #[arg(long, short = 'k', conflicts_with = "key_delimiter")]
    key: Option<String>,
    /// Each line is a key and a value, divided by the first D in it
    #[arg(long, short = 'K', value_name = "D", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_delimiter: Option<String>,
    /// A header of all records; may be repeated
    #[arg(long, short = 'H', value_name = "NAME:VALUE", value_parser = input::header)]
    header: Vec<Header>,
    /// Partition of all records, instead of the one that the key chooses
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(0..), value_name = "P")]
    partition: Option<i32>,
    /// Timestamp of all records in milliseconds since 1970-01-01 UTC, instead of now
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    timestamp: Option<i64>,
    /// How lines are read: raw (each is a value) or json (each is what consume --format json writes; its topic and offset are not used)
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "raw|json")]
    input: InputFormat,
    /// Codec of the batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, short = 'z', default_value_t = Compression::Lz4, value_name = "CODEC")]
    compression: Compression,
}

/// Why reading ended.
enum Stop {
    /// Everything was read.
    End,
    /// The user does not want more.
    Interrupted,
    /// A record failed; the report says why.
    Failed,
    /// The input is at fault.
    Input(Failure),
}

/// Runs `tidelog produce`.
pub async fn run(args: ProduceArgs, endpoint: &str) -> Result<(), Failure> {
    if args.input == InputFormat::Json && args.key_delimiter.is_some() {
        return Err(Failure::usage("--key-delimiter cannot be used with --input json"));
    }
    let source = Source::open(&args.file)?;
    let interrupted = on_interrupt()?;
    let client = tokio::select! {
        biased;
        () = interrupted.cancelled() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
        client = connect(endpoint, options("produce")) => client?,
    };
    let partition = args.partition.map(PartitionIndex::new).transpose();
    let shape = Shape {
        topic: args.topic,
        format: args.input,
        key: args.key.map(Bytes::from),
        key_delimiter: args.key_delimiter.map(Bytes::from),
        headers: args.header,
        partition: partition.map_err(|error| Failure::usage(error.to_string()))?,
        timestamp: args.timestamp.map(TimestampMs),
    };
    produce(&client, &shape, source, args.compression, &interrupted).await
}

async fn produce(
    client: &Client,
    shape: &Shape,
    source: Source,
    compression: Compression,
    interrupted: &CancellationToken,
) -> Result<(), Failure> {
    let mut options = ProducerOptions::default();
    options.compression = compression;
    options.delivery_timeout = DELIVERY_TIMEOUT;
    let producer = client.producer(options);
    // Before anything is read: the topic has to be there, and its limit bounds a line.
    let limit = producer.message_bytes_max(&shape.topic).await?;
    let line_limit = match shape.format {
        InputFormat::Raw => limit,
        InputFormat::Json => limit.saturating_mul(JSON_FACTOR).saturating_add(JSON_EXTRA_BYTES),
    };
    let failed = CancellationToken::new();
    let (deliveries, delivered) = mpsc::channel(DELIVERIES);
    let report = tokio::spawn(Report::collect(delivered, failed.clone()));
    let name = source.name().to_owned();
    let mut read = 0;
    let feeding = feed(&producer, shape, source, line_limit, &deliveries, &mut read);
    let stop = tokio::select! {
        biased;
        () = interrupted.cancelled() => Stop::Interrupted,
        () = failed.cancelled() => Stop::Failed,
        stop = feeding => stop,
    };
    drop(deliveries);
    producer.close().await;
    let report = report.await.map_err(|error| Failure::failed(error.to_string()))?;
    conclude(&report, stop, &shape.topic, read, &name)
}

/// Hands the lines of the input over to the producer.
async fn feed(
    producer: &Producer,
    shape: &Shape,
    source: Source,
    line_limit: usize,
    deliveries: &mpsc::Sender<tidelog_client::Delivery>,
    read: &mut u64,
) -> Stop {
    let mut lines = source.lines(line_limit);
    while let Some(some) = lines.recv().await {
        let some = match some {
            Ok(some) => some,
            Err(SourceError::TooLong) => {
                let number = *read + 1;
                let problem = format!("line {number} is longer than {line_limit} bytes: {TOO_LARGE}");
                return Stop::Input(Failure::failed(problem));
            }
            Err(SourceError::Read(error)) => return Stop::Input(Failure::failed(error.to_string())),
        };
        for line in some {
            *read += 1;
            let record = match shape.record(line) {
                Ok(record) => record,
                Err(problem) => return Stop::Input(Failure::failed(format!("line {read}: {problem}"))),
            };
            let delivery = match producer.send(record).await {
                Ok(delivery) => delivery,
                Err(error) => {
                    let failure = Failure::from(error);
                    return Stop::Input(Failure::new(
                        failure.exit,
                        format!("line {read}: {}", failure.message),
                    ));
                }
            };
            if deliveries.send(delivery).await.is_err() {
                return Stop::Failed;
            }
        }
    }
    Stop::End
}

const TOO_LARGE: &str = "no record of the topic may be so large (max.message.bytes)";

fn conclude(report: &Report, stop: Stop, topic: &TopicName, read: u64, source: &str) -> Result<(), Failure> {
    for line in report.lines(topic) {
        eprintln!("{line}");
    }
    let summary = report.summary(read);
    if let Some(error) = &report.error {
        let cause = Failure::from(error.clone());
        return Err(Failure::new(cause.exit, format!("{summary}: {}", cause.message)));
    }
    match stop {
        Stop::End if report.acknowledged == read => {
            eprintln!("{summary}");
            Ok(())
        }
        Stop::End | Stop::Failed => Err(Failure::failed(summary)),
        Stop::Interrupted => Err(Failure::new(Exit::Interrupted, format!("interrupted: {summary}"))),
        Stop::Input(failure) => {
            Err(Failure::new(failure.exit, format!("{source}: {}; {summary}", failure.message)))
        }
    }
}
