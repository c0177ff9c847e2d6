//! `tidelog agent`: serves a cluster that `tidelog init` has made.

use tidelog_metadata_log::env::{Entropy, SystemClock};
use tidelog_metadata_log::finding::Verdict;
use tidelog_metadata_node::genesis;
use tokio::time::Instant;

use crate::failure::{Exit, Failure};
use crate::init::genesis_failure;
use crate::serve::{Ports, ServeArgs, seconds_since, serve};
use crate::stores::{ClusterStores, StoreArgs};

/// Serves clients on the stores of an initialised cluster. Creates no store, so it needs no permission to.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    #[command(flatten)]
    stores: StoreArgs,
    #[command(flatten)]
    serve: ServeArgs,
    /// Start without trying out what the object store promises; for a store that was probed before
    #[arg(long)]
    no_probe: bool,
}

/// Runs `tidelog agent`.
pub async fn run(args: AgentArgs) -> Result<(), Failure> {
    let started = Instant::now();
    args.serve.check()?;
    args.stores.urls()?;
    args.serve.log.start("info");
    let ports = Ports::bind(&args.serve).await?;
    let stores = ClusterStores::open(&args.stores).await?;
    let cluster =
        genesis::recognise(&*stores.data, &*stores.log).await.map_err(|error| genesis_failure(&error))?;
    let Some(cluster) = cluster else {
        let init =
            format!("tidelog init --storage '{}' --metadata '{}'", args.stores.storage, args.stores.metadata);
        return Err(Failure::new(Exit::NotFound, format!("the stores are not initialised; run: {init}")));
    };
    if !args.no_probe {
        probe(&stores).await?;
    }
    serve(&args.serve, ports, stores, cluster, false, |ports| {
        if !args.serve.log.is_json() {
            let address = ports.grpc_address().unwrap_or(args.serve.listen);
            eprintln!(
                "tidelog {} agent ready in {}  gRPC {address}",
                env!("CARGO_PKG_VERSION"),
                seconds_since(started)
            );
        }
    })
    .await
}

/// Refuses stores that break a promise.
pub async fn probe(stores: &ClusterStores) -> Result<(), Failure> {
    let findings = stores.probe(&SystemClock, &Entropy::from_os()).await;
    let bad: Vec<String> = findings
        .iter()
        .filter(|(_, finding)| finding.verdict == Verdict::Bad)
        .map(|(store, finding)| format!("{store}: {finding}"))
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Unhealthy, format!("the stores cannot be used as they are: {}", bad.join("; "))))
}
