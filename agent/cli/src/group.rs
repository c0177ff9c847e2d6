//! `tidelog group`: lists, describes, moves and deletes consumer groups.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tidelog_client::{
    Client, CommittedOffset, Group, GroupAssignor, GroupMember, GroupName, GroupState, Offset, OffsetAt,
    OffsetCommit, PartitionIndex, RequestError, TopicName, TopicPartition,
};
use tidelog_proto::v1::ErrorReason;

use crate::connect::{connect, options};
use crate::consume::offset::From;
use crate::failure::{Exit, Failure};
use crate::output::{Listing, json_lines, table};
use crate::topic::counted;

/// Manages consumer groups.
#[derive(Debug, clap::Args)]
pub struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, clap::Subcommand)]
enum GroupCommand {
    /// Lists all groups
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Describes a group: how far it has read each partition, and who owns it
    Describe {
        /// Its name
        name: GroupName,
        #[command(flatten)]
        listing: Listing,
    },
    /// Moves a group that has no members to other offsets
    Seek(SeekArgs),
    /// Forgets a group and its offsets; there is no way back
    Delete {
        /// Its name
        name: GroupName,
        /// Needed: says that it is meant
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct SeekArgs {
    /// Name of the group
    name: GroupName,
    /// The topic in which it is moved
    #[arg(long, short = 't', value_name = "TOPIC")]
    topic: TopicName,
    /// Partition to move; may be repeated; without it all are moved
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(0..), value_name = "P")]
    partition: Vec<i32>,
    /// Where to: start, end, N (an offset), -N (records before the end), @TIME (milliseconds since 1970-01-01 UTC, 2026-02-14,
    /// 2026-02-14T10:30:00Z, or -1h)
    #[arg(long, allow_hyphen_values = true, value_name = "start|end|N|-N|@TIME")]
    to: From,
    /// Change nothing, and show what would be changed
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Needed unless it is a dry run: says that it is meant
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct SummaryRow<'a> {
    name: &'a str,
    state: &'static str,
    members: u32,
}

#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    state: &'static str,
    generation: u64,
    assignor: &'static str,
    members: Vec<MemberRow<'a>>,
    partitions: &'a [PartitionRow<'a>],
}

#[derive(Serialize)]
struct MemberRow<'a> {
    member_id: &'a str,
    instance_id: Option<&'a str>,
    client_id: &'a str,
    topics: Vec<&'a str>,
    topic_pattern: &'a str,
    away: bool,
    partitions: usize,
}

#[derive(Serialize)]
struct PartitionRow<'a> {
    topic: &'a str,
    partition: i32,
    committed_offset: Option<i64>,
    metadata: Option<&'a str>,
    committed_at: Option<i64>,
    high_watermark: Option<i64>,
    lag: Option<i64>,
    owner: Option<&'a str>,
    releasing: bool,
}

#[derive(Serialize)]
struct SeekRow<'a> {
    topic: &'a str,
    partition: i32,
    old: Option<i64>,
    new: i64,
}

/// Runs `tidelog group`.
pub async fn run(args: GroupArgs, endpoint: &str) -> Result<(), Failure> {
    // Before anything is connected: a refusal needs no service.
    match &args.command {
        GroupCommand::Delete { name, yes: false } => {
            return Err(Failure::usage(format!(
                "this deletes group {name} with its offsets, and there is no way back; add --yes if it is meant"
            )));
        }
        GroupCommand::Seek(SeekArgs { name, topic, yes: false, dry_run: false, .. }) => {
            return Err(Failure::usage(format!(
                "this moves group {name} in topic {topic}; add --yes if it is meant, or --dry-run to see what would change"
            )));
        }
        _ => {}
    }
    let client = connect(endpoint, options("group")).await?;
    match args.command {
        GroupCommand::List { listing } => list(&client, listing).await,
        GroupCommand::Describe { name, listing } => describe(&client, &name, listing).await,
        GroupCommand::Seek(args) => seek(&client, args).await,
        GroupCommand::Delete { name, .. } => {
            client.delete_group(&name).await?;
            eprintln!("group {name} deleted");
            Ok(())
        }
    }
}

async fn list(client: &Client, listing: Listing) -> Result<(), Failure> {
    let groups = client.list_groups().await?;
    let rows = groups.iter().map(|group| SummaryRow {
        name: group.name.as_str(),
        state: state(group.state),
        members: group.member_count,
    });
    if listing.is_json() {
        return json_lines(rows);
    }
    let rows = rows.map(|row| vec![row.name.to_owned(), row.state.to_owned(), row.members.to_string()]);
    table(&["NAME", "STATE", "MEMBERS"], &rows.collect::<Vec<_>>())
}

async fn describe(client: &Client, name: &GroupName, listing: Listing) -> Result<(), Failure> {
    let group = client.get_group(name).await?;
    let offsets: BTreeMap<&TopicPartition, &CommittedOffset> =
        group.offsets.iter().map(|committed| (&committed.at, committed)).collect();
    let owners = owners(&group);
    let partitions: BTreeSet<&TopicPartition> = offsets.keys().chain(owners.keys()).copied().collect();
    let ends = high_watermarks(client, &partitions).await?;
    let rows: Vec<PartitionRow<'_>> = partitions
        .iter()
        .map(|at| {
            let committed = offsets.get(at);
            let high_watermark = ends.get(at).map(|end| end.get());
            let offset = committed.map(|committed| committed.offset.get());
            let owner = owners.get(at);
            PartitionRow {
                topic: at.topic.as_str(),
                partition: at.partition.get(),
                committed_offset: offset,
                metadata: committed.map(|committed| committed.metadata.as_str()),
                committed_at: committed.map(|committed| committed.committed_at.0),
                high_watermark,
                lag: high_watermark.zip(offset).map(|(end, offset)| (end - offset).max(0)),
                owner: owner.map(|(member, _)| member.member_id.as_str()),
                releasing: owner.is_some_and(|(_, releasing)| *releasing),
            }
        })
        .collect();
    if listing.is_json() {
        return json_lines([Described {
            name: group.name.as_str(),
            state: state(group.state),
            generation: group.generation.0,
            assignor: assignor(group.assignor),
            members: group.members.iter().map(member_row).collect(),
            partitions: &rows,
        }]);
    }
    // About the group on standard error, so that what is piped on is the partitions alone.
    let members = u64::try_from(group.members.len()).unwrap_or(u64::MAX);
    eprintln!(
        "group {name}, {}, generation {}, {} assignor, {}",
        state(group.state),
        group.generation,
        assignor(group.assignor),
        counted(members, "member")
    );
    for member in &group.members {
        let partitions = u64::try_from(member.owned.len() + member.releasing.len()).unwrap_or(u64::MAX);
        let instance = member.instance_id.as_ref().map(|id| format!(", instance {id}")).unwrap_or_default();
        let away = if member.away { ", away" } else { "" };
        eprintln!("  {}{instance}, {}{away}", member.member_id, counted(partitions, "partition"));
    }
    let rows = rows.iter().map(|row| {
        let owner =
            row.owner.map(|owner| format!("{owner}{}", if row.releasing { " (releasing)" } else { "" }));
        vec![
            row.topic.to_owned(),
            row.partition.to_string(),
            or_dash(row.committed_offset),
            or_dash(row.high_watermark),
            or_dash(row.lag),
            or_dash(owner),
        ]
    });
    let headings = ["TOPIC", "PARTITION", "COMMITTED", "HIGH-WATERMARK", "LAG", "OWNER"];
    table(&headings, &rows.collect::<Vec<_>>())
}

async fn seek(client: &Client, args: SeekArgs) -> Result<(), Failure> {
    let SeekArgs { name, topic, .. } = &args;
    refuse_members(client, name).await?;
    let mut wanted: BTreeSet<i32> = args.partition.iter().copied().collect();
    if wanted.is_empty() {
        let (_, partitions) = client.get_topic(topic).await?;
        wanted.extend(partitions.iter().map(|partition| partition.partition.get()));
    }
    let start = args.to.start(client.options().clock.now());
    let places = wanted.into_iter().map(|partition| {
        let partition = PartitionIndex::new(partition).map_err(|error| Failure::usage(error.to_string()))?;
        Ok((topic.clone(), partition, start))
    });
    let places = client.find_starts(&places.collect::<Result<Vec<_>, Failure>>()?).await?;
    if let Some(wrong) = places.iter().find(|at| at.offset < at.log_start || at.offset > at.high_watermark) {
        let holds = format!("it holds {} to {}", wrong.log_start, wrong.high_watermark);
        let problem = format!("{topic}[{}] has no offset {}, {holds}", wrong.partition, wrong.offset);
        return Err(Failure::new(Exit::NotFound, problem));
    }
    let before: BTreeMap<TopicPartition, Offset> = client
        .group_offsets(name)
        .await?
        .into_iter()
        .map(|committed| (committed.at, committed.offset))
        .collect();
    let commits: Vec<OffsetCommit> = places
        .into_iter()
        .map(|place| OffsetCommit::new(TopicPartition::new(place.topic, place.partition), place.offset))
        .collect();
    if !args.dry_run {
        client.commit_group_offsets(name, &commits).await?;
        let moved = u64::try_from(commits.len()).unwrap_or(u64::MAX);
        eprintln!("group {name} moved in {} of {topic}", counted(moved, "partition"));
    }
    let rows = commits.iter().map(|commit| SeekRow {
        topic: commit.at.topic.as_str(),
        partition: commit.at.partition.get(),
        old: before.get(&commit.at).map(|offset| offset.get()),
        new: commit.offset.get(),
    });
    if args.listing.is_json() {
        return json_lines(rows);
    }
    let rows = rows.map(|row| {
        let change = [or_dash(row.old), "->".to_owned(), row.new.to_string()];
        [row.topic.to_owned(), row.partition.to_string()].into_iter().chain(change).collect()
    });
    table(&["TOPIC", "PARTITION", "OLD", "", "NEW"], &rows.collect::<Vec<Vec<String>>>())
}

/// Says so before anything is looked up; the service refuses it, too.
async fn refuse_members(client: &Client, name: &GroupName) -> Result<(), Failure> {
    let members = match client.get_group(name).await {
        Ok(group) => group.members,
        // It gets its first offsets now.
        Err(RequestError::NotFound(error)) if error.reason == ErrorReason::UnknownGroup => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Some(first) = members.first() else { return Ok(()) };
    let count = u64::try_from(members.len()).unwrap_or(u64::MAX);
    let more = if members.len() > 1 { ", …" } else { "" };
    let problem = format!(
        "group {name} has {} ({}{more}), which go on where they are; stop them first",
        counted(count, "member"),
        first.member_id
    );
    Err(Failure::new(Exit::Conflict, problem))
}

/// Who owns each partition, and whether it is to give it back.
fn owners(group: &Group) -> BTreeMap<&TopicPartition, (&GroupMember, bool)> {
    let mut owners = BTreeMap::new();
    for member in &group.members {
        owners.extend(member.owned.iter().map(|at| (at, (member, false))));
        owners.extend(member.releasing.iter().map(|at| (at, (member, true))));
    }
    owners
}

/// High watermarks of those that exist.
async fn high_watermarks<'a>(
    client: &Client,
    partitions: &BTreeSet<&'a TopicPartition>,
) -> Result<BTreeMap<&'a TopicPartition, Offset>, Failure> {
    let partitions: Vec<&TopicPartition> = partitions.iter().copied().collect();
    let mut ends = BTreeMap::new();
    // Below the service's limit of partitions per request.
    for some in partitions.chunks(1_000) {
        let places: Vec<_> =
            some.iter().map(|at| (at.topic.clone(), at.partition, OffsetAt::Latest)).collect();
        for (at, found) in some.iter().zip(client.list_offsets(&places).await?) {
            match found {
                Ok(found) => drop(ends.insert(*at, found.offset)),
                // Deleted since.
                Err(RequestError::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(ends)
}

fn member_row(member: &GroupMember) -> MemberRow<'_> {
    MemberRow {
        member_id: member.member_id.as_str(),
        instance_id: member.instance_id.as_ref().map(|id| id.as_str()),
        client_id: &member.client_id,
        topics: member.topics.iter().map(TopicName::as_str).collect(),
        topic_pattern: &member.topic_pattern,
        away: member.away,
        partitions: member.owned.len() + member.releasing.len(),
    }
}

fn state(state: GroupState) -> &'static str {
    match state {
        GroupState::Empty => "empty",
        GroupState::Rebalancing => "rebalancing",
        GroupState::Stable => "stable",
        _ => "unknown",
    }
}

fn assignor(assignor: GroupAssignor) -> &'static str {
    match assignor {
        GroupAssignor::Sticky => "sticky",
        GroupAssignor::Range => "range",
        GroupAssignor::RoundRobin => "round-robin",
        GroupAssignor::Client => "client",
        _ => "unknown",
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
