//! `tidelog topic`: creates, lists, describes, configures, deletes and trims topics.

use std::collections::BTreeMap;

use serde::Serialize;
use tidelog_client::{Client, DeleteBefore, Offset, Partition, PartitionIndex, Topic, TopicName};

use crate::connect::{connect, options};
use crate::failure::{Exit, Failure};
use crate::output::{Listing, json_lines, table};

/// Manages topics.
#[derive(Debug, clap::Args)]
pub struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TopicCommand {
    /// Creates a topic
    Create {
        /// Its name: 1 to 249 characters of a-z A-Z 0-9 . _ -
        name: TopicName,
        /// How many partitions
        #[arg(long, short = 'p', value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
        partitions: Option<u32>,
        /// A setting that differs from its default; may be repeated
        #[arg(long, short = 'c', value_parser = setting, value_name = "KEY=VALUE")]
        config: Vec<(String, String)>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Lists all topics
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Describes a topic and its partitions
    Describe {
        /// Its name
        name: TopicName,
        #[command(flatten)]
        listing: Listing,
    },
    /// Changes settings of a topic: all of them, or none
    Configure {
        /// Its name
        name: TopicName,
        /// A setting; KEY= without value returns it to its default
        #[arg(required = true, value_parser = setting, value_name = "KEY=VALUE")]
        settings: Vec<(String, String)>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Deletes a topic with all its records; there is no way back
    Delete {
        /// Its name
        name: TopicName,
        /// Needed: says that it is meant
        #[arg(long)]
        yes: bool,
    },
    /// Deletes the records at the beginning of a partition; there is no way back
    Trim {
        /// Name of the topic
        name: TopicName,
        /// The partition
        #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(0..), value_name = "P")]
        partition: i32,
        /// Records before this offset are deleted; "end" deletes all that are there
        #[arg(long, value_parser = before, value_name = "OFFSET|end")]
        before: DeleteBefore,
        /// Needed: says that it is meant
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
struct TopicRow<'a> {
    name: &'a str,
    id: u64,
    partitions: u32,
    config: &'a BTreeMap<String, String>,
    created: i64,
}

#[derive(Serialize)]
struct PartitionRow {
    partition: i32,
    log_start_offset: i64,
    high_watermark: i64,
    size_bytes: u64,
}

#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    id: u64,
    config: BTreeMap<&'a str, &'a str>,
    created: i64,
    partitions: Vec<PartitionRow>,
}

/// Runs `tidelog topic`.
pub async fn run(args: TopicArgs, endpoint: &str) -> Result<(), Failure> {
    // Before anything is connected: a refusal needs no service.
    match &args.command {
        TopicCommand::Delete { name, yes: false } => {
            return Err(unconfirmed(&format!("deletes topic {name} with all its records")));
        }
        TopicCommand::Trim { name, partition, yes: false, .. } => {
            return Err(unconfirmed(&format!("deletes records of {name}[{partition}]")));
        }
        _ => {}
    }
    let client = connect(endpoint, options("topic")).await?;
    match args.command {
        TopicCommand::Create { name, partitions, config, listing } => {
            let topic = client.create_topic(&name, partitions, config.into_iter().collect()).await?;
            eprintln!("topic {name} created with {}", counted(topic.partition_count, "partition"));
            if listing.is_json() { json_lines([row(&topic)]) } else { Ok(()) }
        }
        TopicCommand::List { listing } => list(&client, listing).await,
        TopicCommand::Describe { name, listing } => describe(&client, &name, listing).await,
        TopicCommand::Configure { name, settings, listing } => {
            let changes =
                settings.into_iter().map(|(key, value)| (key, Some(value).filter(|value| !value.is_empty())));
            let topic = client.update_topic(&name, changes.collect()).await?;
            eprintln!("topic {name} configured");
            if listing.is_json() { json_lines([row(&topic)]) } else { Ok(()) }
        }
        TopicCommand::Delete { name, .. } => {
            client.delete_topic(&name, None).await?;
            eprintln!("topic {name} deleted");
            Ok(())
        }
        TopicCommand::Trim { name, partition, before, .. } => {
            let index = PartitionIndex::new(partition).map_err(|error| Failure::usage(error.to_string()))?;
            let results = client.delete_records(&[(name.clone(), index, before)]).await?;
            for result in results {
                eprintln!("{name}[{partition}] begins at offset {} now", result?);
            }
            Ok(())
        }
    }
}

async fn list(client: &Client, listing: Listing) -> Result<(), Failure> {
    let topics = client.list_topics().await?;
    if listing.is_json() {
        return json_lines(topics.iter().map(row));
    }
    let rows = topics.iter().map(|topic| {
        let config: Vec<String> = topic.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![topic.name.to_string(), topic.partition_count.to_string(), config.join(",")]
    });
    table(&["NAME", "PARTITIONS", "CONFIG"], &rows.collect::<Vec<_>>())
}

async fn describe(client: &Client, name: &TopicName, listing: Listing) -> Result<(), Failure> {
    let (topic, partitions) = client.get_topic(name).await?;
    let info = client.server_info().await?;
    let defaults = info.config_keys.iter().map(|key| (key.name.as_str(), key.default_value.as_str()));
    let mut config: BTreeMap<&str, &str> = defaults.collect();
    config.extend(topic.config.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    if listing.is_json() {
        let partitions = partitions.iter().map(partition_row).collect();
        let (name, id, created) = (topic.name.as_str(), topic.id.0, topic.created.0);
        return json_lines([Described { name, id, config, created, partitions }]);
    }
    // About the topic on standard error, so that what is piped on is the partitions alone.
    let settings = config.iter().map(|(key, value)| {
        let source = if topic.config.contains_key(*key) { "" } else { " (default)" };
        format!("  {key}={value}{source}\n")
    });
    eprint!(
        "topic {name}, id {}, {}\n{}",
        topic.id,
        counted(topic.partition_count, "partition"),
        settings.collect::<String>()
    );
    let rows = partitions.iter().map(|partition| {
        let cells = [
            i64::from(partition.partition.get()),
            partition.log_start.get(),
            partition.high_watermark.get(),
            i64::try_from(partition.size_bytes).unwrap_or(i64::MAX),
        ];
        cells.iter().map(ToString::to_string).collect()
    });
    table(&["PARTITION", "LOG-START", "HIGH-WATERMARK", "BYTES"], &rows.collect::<Vec<_>>())
}

fn row(topic: &Topic) -> TopicRow<'_> {
    TopicRow {
        name: topic.name.as_str(),
        id: topic.id.0,
        partitions: topic.partition_count,
        config: &topic.config,
        created: topic.created.0,
    }
}

fn partition_row(partition: &Partition) -> PartitionRow {
    PartitionRow {
        partition: partition.partition.get(),
        log_start_offset: partition.log_start.get(),
        high_watermark: partition.high_watermark.get(),
        size_bytes: partition.size_bytes,
    }
}

/// `1 partition`, `2 partitions`.
pub fn counted(count: impl Into<u64>, what: &str) -> String {
    let count = count.into();
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn unconfirmed(what: &str) -> Failure {
    Failure::new(Exit::Usage, format!("this {what}, and there is no way back; add --yes if it is meant"))
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() {
        return Err("the key is empty, expected KEY=VALUE".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn before(text: &str) -> Result<DeleteBefore, String> {
    if text == "end" {
        return Ok(DeleteBefore::Latest);
    }
    let offset = text.parse().ok().and_then(|offset| Offset::new(offset).ok());
    offset.map(DeleteBefore::Offset).ok_or_else(|| "expected an offset of 0 or more, or \"end\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_a_key() {
        assert_eq!(setting("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(setting("a="), Ok(("a".into(), String::new())));
        assert!(setting("a").is_err());
        assert!(setting("=b").is_err());
    }

    #[test]
    fn trims_name_a_place() {
        assert_eq!(before("end"), Ok(DeleteBefore::Latest));
        assert_eq!(before("7"), Ok(DeleteBefore::Offset(Offset::new(7).expect("in range"))));
        for wrong in ["", "-1", "x", "9223372036854775808"] {
            assert!(before(wrong).is_err(), "{wrong}");
        }
    }
}
