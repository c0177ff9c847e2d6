//! `tidelog consume`: writes records to standard output.

mod format;
mod offset;

use std::io::Write;

use futures::{FutureExt, StreamExt};
use tidelog_client::{
    Client, ClientOptions, ConsumedRecord, Consumer, ConsumerOptions, PartitionIndex, Position, StartAt,
    TopicName,
};
use tokio_util::sync::CancellationToken;

use crate::connect::{connect, options};
use crate::failure::{Exit, Failure};
use crate::interrupt::on_interrupt;
use crate::output::written;
use format::RecordFormat;

/// Output is handed on when so much is gathered, or when no record is at hand.
const GATHER_BYTES: usize = 64 * 1024;

/// Writes records to standard output, those of one partition in order.
#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    /// Topic to read
    topic: TopicName,
    /// Where to begin: start, end, N (an offset), -N (records before the end), @TIME (milliseconds since 1970-01-01 UTC, 2026-02-14,
    /// 2026-02-14T10:30:00Z, or -1h)
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
}

/// Runs `tidelog consume`.
pub async fn run(args: ConsumeArgs, endpoint: &str) -> Result<(), Failure> {
    let interrupted = on_interrupt()?;
    let work = async {
        let options: ClientOptions = options("consume");
        let start = args.offset.start(options.clock.now());
        let client = connect(endpoint, options).await?;
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
    let mut wanted = args.partition.clone();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        let (_, partitions) = client.get_topic(&args.topic).await?;
        wanted.extend(partitions.iter().map(|partition| partition.partition.get()));
    }
    let assignments = wanted.into_iter().map(|partition| {
        let index = PartitionIndex::new(partition).map_err(|error| Failure::usage(error.to_string()))?;
        Ok((args.topic.clone(), index, start))
    });
    let assignments = assignments.collect::<Result<Vec<_>, Failure>>()?;
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
    let mut out = std::io::stdout();
    let mut gathered = Vec::with_capacity(2 * GATHER_BYTES);
    let mut left = args.count;
    loop {
        if left == Some(0) || args.exit_at_end && consumer.reached_start_watermarks() {
            return hand_over(&mut out, &mut gathered).map(|_| ());
        }
        let next = match consumer.next().now_or_never() {
            Some(next) => next,
            None => {
                // Nothing is at hand: whoever reads gets what there is.
                if hand_over(&mut out, &mut gathered)? == Reader::Gone {
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
                hand_over(&mut out, &mut gathered)?;
                return Err(error.into());
            }
            None => return hand_over(&mut out, &mut gathered).map(|_| ()),
        };
        let behind_end = || {
            let at = consumer.position(&record.topic, record.partition);
            at.is_some_and(|at| record.offset >= at.high_watermark_at_start)
        };
        if args.exit_at_end && behind_end() {
            // Written since; other partitions are not at their end yet.
            continue;
        }
        args.format.write(&record, &mut gathered).map_err(|error| {
            Failure::failed(format!("cannot write {}[{}]: {error}", record.topic, record.partition))
        })?;
        left = left.map(|left| left - 1);
        if gathered.len() >= GATHER_BYTES {
            if hand_over(&mut out, &mut gathered)? == Reader::Gone {
                return Ok(());
            }
            if interrupted.is_cancelled() {
                return Err(interruption());
            }
        }
    }
}

/// Whether anybody reads what is written.
#[derive(Debug, PartialEq, Eq)]
enum Reader {
    Reads,
    Gone,
}

fn hand_over(out: &mut impl Write, gathered: &mut Vec<u8>) -> Result<Reader, Failure> {
    let result = out.write_all(gathered).and_then(|()| out.flush());
    gathered.clear();
    let reader = match &result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Reader::Gone,
        _ => Reader::Reads,
    };
    written(result).map(|()| reader)
}

fn interruption() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted")
}
