//! `tidelog cluster` and `tidelog status`: which agents there are, who leads, whether all is well.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use tidelog_client::{Client, Cluster, ClusterAgent};

use crate::connect::{connect, options};
use crate::failure::{Exit, Failure};
use crate::output::{Listing, json_lines, table, written};
use crate::size::parse_duration;

/// Looks at the cluster.
#[derive(Debug, clap::Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ClusterCommand {
    /// Describes the agents: who leads, where each listens, how far it is
    Describe {
        #[command(flatten)]
        listing: Listing,
    },
}

/// Says in a line whether all is well, and exits with 10 if it is not.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Say it again and again until interrupted
    #[arg(long, short = 'w')]
    watch: bool,
    /// How often, with --watch
    #[arg(long, value_parser = parse_duration, default_value = "2s", value_name = "DURATION", requires = "watch")]
    interval: Duration,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct AgentRow<'a> {
    instance: &'a str,
    address: &'a str,
    version: &'a str,
    leads: bool,
    applied: u64,
}

#[derive(Serialize)]
struct ClusterRow<'a> {
    cluster: &'a str,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    epoch: u64,
    applied: u64,
    topics: u32,
    partitions: u64,
    agents: Vec<AgentRow<'a>>,
}

/// Runs `tidelog cluster`.
pub async fn run(args: ClusterArgs, endpoint: &str) -> Result<(), Failure> {
    let ClusterCommand::Describe { listing } = args.command;
    let cluster = connect(endpoint, options("cluster")).await?.describe_cluster().await?;
    if listing.is_json() {
        return json_lines([row(&cluster)]);
    }
    eprintln!("cluster {}, epoch {}, answered by {}", cluster.cluster_id, cluster.epoch, cluster.answered_by);
    if let Some(reason) = &cluster.incomplete_reason {
        eprintln!("not all agents are known: {reason}");
    }
    let cells = |agent: &ClusterAgent| {
        let role = if agent.leads { "leader" } else { "follower" };
        [&agent.instance, &agent.address, &agent.version, role, &agent.applied.to_string()]
            .map(ToString::to_string)
            .to_vec()
    };
    let rows: Vec<_> = cluster.agents.iter().map(cells).collect();
    table(&["INSTANCE", "ADDRESS", "VERSION", "ROLE", "APPLIED"], &rows)
}

/// Runs `tidelog status`.
pub async fn status(args: StatusArgs, endpoint: &str) -> Result<(), Failure> {
    let mut client = None;
    loop {
        let looked = look(&mut client, endpoint).await;
        if !args.watch {
            let cluster = looked?;
            say(&cluster, args.listing)?;
            return match problem(&cluster) {
                None => Ok(()),
                Some(problem) => Err(Failure::new(Exit::Unhealthy, problem)),
            };
        }
        match looked {
            Ok(cluster) => say(&cluster, args.listing)?,
            Err(failure) => eprintln!("{failure}"),
        }
        tokio::time::sleep(args.interval).await;
    }
}

async fn look(client: &mut Option<Client>, endpoint: &str) -> Result<Cluster, Failure> {
    if client.is_none() {
        *client = Some(connect(endpoint, options("status")).await?);
    }
    match client {
        Some(client) => Ok(client.describe_cluster().await?),
        None => Err(Failure::failed("not connected")),
    }
}

/// What is not well.
fn problem(cluster: &Cluster) -> Option<String> {
    if let Some(reason) = &cluster.incomplete_reason {
        return Some(format!("no leader was found: {reason}"));
    }
    let leads = cluster.agents.iter().any(|agent| agent.leads);
    (!leads).then(|| {
        "no agent leads the metadata log; one will as soon as there is something to write".to_owned()
    })
}

fn say(cluster: &Cluster, listing: Listing) -> Result<(), Failure> {
    if listing.is_json() {
        return json_lines([row(cluster)]);
    }
    let furthest = cluster.agents.iter().map(|agent| agent.applied).max().unwrap_or(0);
    let behind = cluster.agents.iter().map(|agent| furthest - agent.applied).max().unwrap_or(0);
    let well = if problem(cluster).is_none() { "healthy" } else { "not healthy" };
    let text = format!(
        "{well}: {} agents, epoch {}, {} metadata entries, {behind} behind at most, {} topics, {} partitions\n",
        cluster.agents.len(),
        cluster.epoch,
        furthest,
        cluster.topics,
        cluster.partitions,
    );
    let mut out = std::io::stdout();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn row(cluster: &Cluster) -> ClusterRow<'_> {
    ClusterRow {
        cluster: &cluster.cluster_id,
        healthy: problem(cluster).is_none(),
        reason: cluster.incomplete_reason.as_deref(),
        epoch: cluster.epoch,
        applied: cluster.applied,
        topics: cluster.topics,
        partitions: cluster.partitions,
        agents: cluster
            .agents
            .iter()
            .map(|agent| AgentRow {
                instance: &agent.instance,
                address: &agent.address,
                version: &agent.version,
                leads: agent.leads,
                applied: agent.applied,
            })
            .collect(),
    }
}
