//! `tidelog bench`: a load generator that costs little itself.
//!
//! Map: [`produce`] how much is taken · [`consume`] how much is handed out · [`latency`] what the client library's users see · [`stores`] what the stores
//! themselves take · [`window`] the
//! measured part of a run · [`payload`] prepared batches · [`wire`] tuned and untuned connections · [`histogram`], [`cpu`] instruments.

mod consume;
mod cpu;
mod histogram;
mod latency;
mod payload;
mod produce;
mod stores;
mod window;
mod wire;

use tidelog_client::{ClientOptions, Endpoint, TopicId, TopicName};
use tokio::task::JoinSet;

use crate::connect::connect;
use crate::failure::Failure;

/// Measures a running service.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    Produce(Box<produce::ProduceBench>),
    Consume(Box<consume::ConsumeBench>),
    Latency(Box<latency::LatencyBench>),
    Stores(Box<stores::StoresBench>),
}

/// Runs `tidelog bench`.
pub async fn run(args: BenchArgs, endpoint: &str) -> Result<(), Failure> {
    let endpoints = Endpoint::parse_list(endpoint).map_err(|error| Failure::usage(error.to_string()))?;
    let Some(first) = endpoints.first() else { return Err(Failure::usage("no endpoint")) };
    match args.command {
        BenchCommand::Produce(args) => produce::run(*args, &endpoints, first).await,
        // One agent is measured: the first.
        BenchCommand::Consume(args) => consume::run(*args, first).await,
        BenchCommand::Latency(args) => latency::run(*args, first).await,
        BenchCommand::Stores(args) => stores::run(*args).await,
    }
}

/// The topic's id and how many partitions it has; created if it does not exist.
async fn prepare_topic(
    endpoint: &Endpoint,
    options: ClientOptions,
    name: &TopicName,
    partitions: u32,
) -> Result<(TopicId, u32), Failure> {
    let client = connect(endpoint.as_str(), options).await?;
    let topic = match client.get_topic(name).await {
        Ok((topic, _)) => topic,
        Err(error) if error.is_unknown_topic() => {
            client.create_topic(name, Some(partitions), Default::default()).await?
        }
        Err(error) => return Err(error.into()),
    };
    Ok((topic.id, topic.partition_count))
}

/// Waits for all tasks of a run; the first failure is that of the run.
async fn finish<T: 'static>(mut tasks: JoinSet<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let mut results = Vec::new();
    while let Some(task) = tasks.join_next().await {
        results.push(task.map_err(|error| Failure::failed(error.to_string()))??);
    }
    Ok(results)
}
