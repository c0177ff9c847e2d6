//! `consume --group`: a share of the topics, and commits of what was written.

use std::io::Stdout;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tidelog_client::{
    Assignor, Client, GroupConsumer, GroupHandle, GroupName, InstanceId, MemberId, OffsetReset,
    RebalanceListener, StartAt, TopicPartition, async_trait,
};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sink::{Reader, Sink};
use super::{ConsumeArgs, interruption};
use crate::failure::Failure;
use crate::size::parse_duration;

/// While records come, that often is committed what was written: each commit is a write to the metadata.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// The options that make `consume` a member of a group.
#[derive(Debug, Clone, clap::Args)]
pub struct GroupOptions {
    /// Consumer group to be a member of: its members share the partitions, and begin where it has committed; what was written is committed
    #[arg(long, short = 'g', value_name = "NAME", conflicts_with = "partition")]
    pub group: Option<GroupName>,
    /// Subscribe to all topics whose whole name matches this regular expression, also those that are created later
    #[arg(long, value_name = "REGEX", requires = "group")]
    pub pattern: Option<String>,
    /// Id of the member, unique in its group [default: a new one]
    #[arg(long, value_name = "ID", requires = "group")]
    pub member_id: Option<MemberId>,
    /// Static membership: when a member of this name leaves, its partitions wait for its return until its session would have expired
    #[arg(long, value_name = "ID", requires = "group")]
    pub instance_id: Option<InstanceId>,
    /// How the partitions are shared; the group does what most of its members ask for
    #[arg(
        long,
        value_enum,
        requires = "group",
        value_name = "sticky|range|round-robin",
        hide_possible_values = true
    )]
    pub assignor: Option<AssignorName>,
    /// How long the member may be silent until its partitions go to others: 1s to 30m [default: 15s]
    #[arg(long, value_parser = parse_duration, requires = "group", value_name = "DURATION")]
    pub session_timeout: Option<Duration>,
}

/// How partitions are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AssignorName {
    /// Evenly, with few moves.
    Sticky,
    /// In runs of neighbouring partitions.
    Range,
    /// In turn.
    RoundRobin,
}

type Out = Arc<Mutex<Sink<Stdout>>>;

/// Reads as a member of a group until the end that the options name.
pub async fn run(
    client: &Client,
    group: GroupName,
    start: StartAt,
    args: &ConsumeArgs,
    interrupted: &CancellationToken,
) -> Result<(), Failure> {
    let reset = match start {
        StartAt::Earliest => OffsetReset::Earliest,
        StartAt::Latest => OffsetReset::Latest,
        _ => {
            let allowed =
                "with --group it is start or end: where to begin if the group has committed nothing";
            return Err(Failure::usage(format!("--offset names a place, {allowed}")));
        }
    };
    for topic in &args.topics {
        // A group can wait for a topic; who types a name wants to know that it is wrong.
        tokio::select! {
            biased;
            () = interrupted.cancelled() => return Err(interruption()),
            found = client.get_topic(topic) => found?,
        };
    }
    let sink: Out = Arc::new(Mutex::new(Sink::new(std::io::stdout())));
    let options = &args.group;
    let mut builder = client
        .group_consumer(group)
        .topics(args.topics.iter().cloned())
        .offset_reset(reset)
        .manual_commit()
        .listener(Listener(Arc::clone(&sink)));
    if let Some(pattern) = &options.pattern {
        builder = builder.pattern(pattern.clone());
    }
    if let Some(id) = &options.member_id {
        builder = builder.member_id(id.clone());
    }
    if let Some(id) = &options.instance_id {
        builder = builder.instance_id(id.clone());
    }
    if let Some(timeout) = options.session_timeout {
        builder = builder.session_timeout(timeout);
    }
    builder = builder.assignor(match options.assignor {
        None | Some(AssignorName::Sticky) => Assignor::Sticky,
        Some(AssignorName::Range) => Assignor::Range,
        Some(AssignorName::RoundRobin) => Assignor::RoundRobin,
    });
    let mut consumer = builder.start();
    let read = read(&mut consumer, args, &sink, interrupted).await;
    // However it ended: what was written is committed, and the group need not wait for the end of the session.
    let (flushed, written) = {
        let mut sink = sink.lock().await;
        (sink.flush().map(|_| ()), sink.all_written())
    };
    let committed = match written.is_empty() {
        true => Ok(()),
        false => consumer.handle().commit_offsets(written).await,
    };
    // With manual commits there is nothing left that could fail.
    let _ = consumer.close().await;
    read?;
    flushed?;
    committed.map_err(|error| {
        let failure = Failure::from(error);
        let message = format!("some of what was written is not committed: {}", failure.message);
        Failure::new(failure.exit, message)
    })
}

async fn read(
    consumer: &mut GroupConsumer,
    args: &ConsumeArgs,
    sink: &Out,
    interrupted: &CancellationToken,
) -> Result<(), Failure> {
    let handle = consumer.handle().clone();
    let mut left = args.count;
    let mut committed_at = Instant::now();
    loop {
        if left == Some(0) || args.exit_at_end && handle.reached_end() {
            return Ok(());
        }
        let next = match consumer.next().now_or_never() {
            Some(next) => next,
            None => {
                // Nothing is at hand: whoever reads gets what there is.
                let changed = handle.changed();
                let due = {
                    let mut sink = sink.lock().await;
                    if sink.flush()? == Reader::Gone || args.exit_at_end && handle.reached_end() {
                        return Ok(());
                    }
                    sink.has_news().then_some(committed_at + COMMIT_EVERY)
                };
                tokio::select! {
                    biased;
                    () = interrupted.cancelled() => return Err(interruption()),
                    next = consumer.next() => next,
                    () = changed => continue,
                    () = tokio::time::sleep_until(due.unwrap_or(committed_at)), if due.is_some() => {
                        commit(&handle, sink, &mut committed_at).await;
                        continue;
                    }
                }
            }
        };
        let record = match next {
            Some(Ok(record)) => record,
            Some(Err(error)) => return Err(error.into()),
            None => return Ok(()),
        };
        if args.exit_at_end {
            let at = TopicPartition::new(record.topic.clone(), record.partition);
            let end = handle.end_at_assignment(&at);
            if end.is_some_and(|end| record.offset.checked_add(1).is_none_or(|next| next >= end)) {
                // What was written since is for the next one who reads.
                let _ = handle.pause(&at);
            }
            if end.is_some_and(|end| record.offset >= end) {
                continue;
            }
        }
        let mut out = sink.lock().await;
        out.put(&record, &args.format)?;
        left = left.map(|left| left - 1);
        if out.is_full() {
            if out.flush()? == Reader::Gone {
                return Ok(());
            }
            drop(out);
            if interrupted.is_cancelled() {
                return Err(interruption());
            }
            if committed_at.elapsed() >= COMMIT_EVERY {
                commit(&handle, sink, &mut committed_at).await;
            }
        }
    }
}

/// Hands over a commit of what was written. What comes of it shows at the end, or does not matter: the next one covers it.
async fn commit(handle: &GroupHandle, sink: &Out, committed_at: &mut Instant) {
    let written = sink.lock().await.take_news();
    *committed_at = Instant::now();
    drop(handle.commit_offsets_async(written));
}

/// Writes and commits before partitions go to others.
struct Listener(Out);

#[async_trait]
impl RebalanceListener for Listener {
    async fn on_revoked(&self, group: &GroupHandle, partitions: &[TopicPartition]) {
        let mut sink = Arc::clone(&self.0).lock_owned().await;
        // Who reads our output may be slow, and the session must not wait for that.
        let flushed = tokio::task::spawn_blocking(move || sink.flush().map(|_| sink.all_written())).await;
        if let Ok(Ok(written)) = flushed {
            // If it fails, others write those records once more.
            let _ = group.commit_offsets(written).await;
        }
        self.0.lock().await.forget(partitions);
    }

    async fn on_lost(&self, _: &GroupHandle, partitions: &[TopicPartition]) {
        self.0.lock().await.forget(partitions);
    }
}
