//! `tidelog consume`: writes records to standard output.
//!
//! Map: this file, partitions that the command line names · [`group`] a share of topics · [`sink`] the output · [`mod@format`] what a record looks
//! like · [`offset`] places in partitions.

mod format;
mod group;
pub mod offset;
mod sink;

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt};
use tidelog_client::{
    Client, ClientOptions, ConsumedRecord, Consumer, ConsumerOptions, PartitionIndex, Position, StartAt,
    TopicName,
};
use tokio_util::sync::CancellationToken;

use crate::connect::{connect, options};
use crate::failure::{Exit, Failure};
use crate::interrupt::on_interrupt;
use format::RecordFormat;
use group::GroupOptions;
use sink::{Reader, Sink};

/// Writes records to standard output, those of one partition in order.
#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    /// Topics to read
    #[arg(required_unless_present = "pattern", value_name = "TOPIC")]
    topics: Vec<TopicName>,
    /// Where to begin: start, end, N (an offset), -N (records before the end), @TIME (milliseconds since 1970-01-01 UTC, 2026-02-14,
    /// 2026-02-14T10:30:00Z, or -1h); with --group start or end, for partitions for which the group has committed nothing
    #[arg(
        long,
        short = 'o',
        default_value = "end",
        allow_hyphen_values = true,
        value_name = "start|end|N|-N|@TIME"
    )]
    offset: offset::From,
    /// End after so many records
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// End at the high watermark that each partition had at the beginning
    #[arg(long, short = 'e')]
    exit_at_end: bool,
    /// Partition to read; may be repeated; without it all are read
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(0..), value_name = "P")]
    partition: Vec<i32>,
    /// How records are written: raw (the value and a newline), json (one object a line, which produce --input json reads), or a template of %t
    /// topic, %p partition, %o offset, %T timestamp, %k key, %v value, %h headers, %% and \n \t \r \0 \\ \xNN
    #[arg(long, short = 'f', default_value = "raw", value_name = "raw|json|TEMPLATE")]
    format: RecordFormat,
    #[command(flatten)]
    group: GroupOptions,
}

/// Runs `tidelog consume`.
pub async fn run(args: ConsumeArgs, endpoint: &str) -> Result<(), Failure> {
    let interrupted = on_interrupt()?;
    let options: ClientOptions = options("consume");
    let start = args.offset.start(options.clock.now());
    let client = tokio::select! {
        biased;
        () = interrupted.cancelled() => return Err(interruption()),
        client = connect(endpoint, options) => client?,
    };
    if let Some(name) = &args.group.group {
        return group::run(&client, name.clone(), start, &args, &interrupted).await;
    }
    let work = async {
        let consumer = begin(&client, &args, start).await?;
        consume(consumer, &args, &interrupted).await
    };
    // While it begins, nothing is lost by stopping at once; afterwards `consume` looks itself.
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done,
        () = interrupted.cancelled() => match work.now_or_never() {
            Some(done) => done,
            None => Err(interruption()),
        }
    }
}

async fn begin(client: &Client, args: &ConsumeArgs, start: StartAt) -> Result<Consumer, Failure> {
    let mut assignments = Vec::new();
    for topic in args.topics.iter().collect::<BTreeSet<_>>() {
        let mut wanted: BTreeSet<i32> = args.partition.iter().copied().collect();
        if wanted.is_empty() {
            let (_, partitions) = client.get_topic(topic).await?;
            wanted.extend(partitions.iter().map(|partition| partition.partition.get()));
        }
        for partition in wanted {
            let index = PartitionIndex::new(partition).map_err(|error| Failure::usage(error.to_string()))?;
            assignments.push((topic.clone(), index, start));
        }
    }
    let consumer = client.consumer(&assignments, ConsumerOptions::default()).await?;
    // The service would say so, too, but not to a command that ends at once because it is behind the end.
    let outside = |at: &&Position| at.next < at.log_start || at.next > at.high_watermark;
    if let Some(at) = consumer.positions().iter().find(outside) {
        let (topic, partition) = (&at.topic, at.partition);
        let holds = format!("it holds {} to {}", at.log_start, at.high_watermark);
        return Err(Failure::new(
            Exit::NotFound,
            format!("{topic}[{partition}] has no offset {}, {holds}", at.next),
        ));
    }
    Ok(consumer)
}

async fn consume(
    mut consumer: Consumer,
    args: &ConsumeArgs,
    interrupted: &CancellationToken,
) -> Result<(), Failure> {
    let mut out = Sink::new(std::io::stdout());
    let mut left = args.count;
    loop {
        if left == Some(0) || args.exit_at_end && consumer.reached_start_watermarks() {
            return out.flush().map(|_| ());
        }
        let next = match consumer.next().now_or_never() {
            Some(next) => next,
            None => {
                // Nothing is at hand: whoever reads gets what there is.
                if out.flush()? == Reader::Gone {
                    return Ok(());
                }
                tokio::select! {
                    biased;
                    () = interrupted.cancelled() => return Err(interruption()),
                    next = consumer.next() => next,
                }
            }
        };
        let record: ConsumedRecord = match next {
            Some(Ok(record)) => record,
            Some(Err(error)) => {
                out.flush()?;
                return Err(error.into());
            }
            None => return out.flush().map(|_| ()),
        };
        let behind_end = || {
            let at = consumer.position(&record.topic, record.partition);
            at.is_some_and(|at| record.offset >= at.high_watermark_at_start)
        };
        if args.exit_at_end && behind_end() {
            // Written since; other partitions are not at their end yet.
            continue;
        }
        out.put(&record, &args.format)?;
        left = left.map(|left| left - 1);
        if out.is_full() {
            if out.flush()? == Reader::Gone {
                return Ok(());
            }
            if interrupted.is_cancelled() {
                return Err(interruption());
            }
        }
    }
}

fn interruption() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted")
}
