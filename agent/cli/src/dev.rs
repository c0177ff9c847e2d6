//! `tidelog dev`: everything in one process, ready at once.

use std::path::PathBuf;

use tidelog_metadata_log::env::{Entropy, SystemClock};
use tidelog_metadata_node::genesis;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::init::genesis_failure;
use crate::serve::{Ports, ServeArgs, seconds_since, serve};
use crate::stores::{ClusterStores, StoreArgs};

/// Runs everything in one process and keeps the data in a directory. Topics that are produced to are created.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Directory for the data; every acknowledged record is synced to the disk
    #[arg(long, env = "TIDELOG_DATA_DIR", default_value = "./.tidelog", value_name = "DIR")]
    data_dir: PathBuf,
    /// Keep nothing: the data ends with the process
    #[arg(long, conflicts_with_all = ["data_dir", "storage", "metadata"])]
    memory: bool,
    /// Use this object store instead of a directory: s3://BUCKET/PREFIX?endpoint=URL&region=REGION&path_style=true
    #[arg(long, requires = "metadata", conflicts_with = "data_dir", value_name = "URL")]
    storage: Option<String>,
    /// Use this metadata log: dynamodb://TABLE?endpoint=URL&region=REGION, or "storage" to keep it beside the segments
    #[arg(long, requires = "storage", value_name = "URL")]
    metadata: Option<String>,
    #[command(flatten)]
    serve: ServeArgs,
}

impl DevArgs {
    fn stores(&self) -> Result<StoreArgs, Failure> {
        if self.memory {
            return Ok(StoreArgs { storage: "memory:".into(), metadata: "storage".into() });
        }
        if let (Some(storage), Some(metadata)) = (&self.storage, &self.metadata) {
            return Ok(StoreArgs { storage: storage.clone(), metadata: metadata.clone() });
        }
        let path = std::path::absolute(&self.data_dir)
            .map_err(|error| Failure::usage(format!("--data-dir {}: {error}", self.data_dir.display())))?;
        let url = url::Url::from_file_path(&path)
            .map_err(|()| Failure::usage(format!("--data-dir {} is no usable path", path.display())))?;
        Ok(StoreArgs { storage: url.into(), metadata: "storage".into() })
    }

    /// What the banner calls the stores.
    fn names(&self, stores: &StoreArgs) -> (String, String) {
        if self.memory {
            return ("memory (nothing is kept)".into(), "memory".into());
        }
        if self.storage.is_some() {
            return (stores.storage.clone(), stores.metadata.clone());
        }
        (self.data_dir.display().to_string(), "embedded".into())
    }
}

/// Runs `tidelog dev`.
pub async fn run(args: DevArgs) -> Result<(), Failure> {
    let started = Instant::now();
    args.serve.check()?;
    let urls = args.stores()?;
    urls.urls()?;
    args.serve.log.start("warn");
    let ports = Ports::bind(&args.serve).await?;
    let stores = ClusterStores::open(&urls).await?;
    if args.storage.is_some() {
        for done in stores.create(false).await? {
            tracing::info!(event = "create", done);
        }
        crate::agent::probe(&stores).await?;
    }
    let cluster = genesis::initialise(&*stores.data, &*stores.log, &SystemClock, &Entropy::from_os())
        .await
        .map_err(|error| genesis_failure(&error))?;
    serve(&args.serve, ports, stores, cluster, true, |ports| banner(&args, &urls, ports, started)).await
}

fn banner(args: &DevArgs, urls: &StoreArgs, ports: &Ports, started: Instant) {
    if args.serve.log.log_format == crate::logging::LogFormat::Json {
        return;
    }
    let (storage, metadata) = args.names(urls);
    let grpc = ports.grpc_address().unwrap_or(args.serve.listen);
    let admin = ports.admin_address().unwrap_or(args.serve.admin_listen);
    let version = env!("CARGO_PKG_VERSION");
    eprintln!(
        "tidelog {version}  ready in {}   storage {storage}   metadata {metadata}",
        seconds_since(started)
    );
    eprintln!("  gRPC {grpc}   metrics http://{admin}/metrics");
    // The default endpoint needs not be said.
    let endpoint = if grpc.port() == 7070 { String::new() } else { format!(" --endpoint http://{grpc}") };
    eprintln!("  Try:  echo hello | tidelog produce demo{endpoint}");
    eprintln!("        tidelog consume demo --offset start{endpoint}");
}
