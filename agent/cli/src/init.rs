//! `tidelog init`: makes two stores a cluster, once.

use tidelog_metadata_log::env::{Entropy, SystemClock};
use tidelog_metadata_log::finding::Verdict;
use tidelog_metadata_node::genesis::{self, GenesisError};

use crate::failure::{Exit, Failure};
use crate::stores::{ClusterStores, StoreArgs};

/// Initialises a cluster: creates the table, tries out the stores, writes the cluster's id. May be repeated.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    #[command(flatten)]
    stores: StoreArgs,
    /// Create the bucket, too, if it does not exist
    #[arg(long)]
    create_bucket: bool,
}

/// Runs `tidelog init`.
pub async fn run(args: InitArgs) -> Result<(), Failure> {
    let stores = ClusterStores::open(&args.stores).await?;
    for done in stores.create(args.create_bucket).await? {
        eprintln!("{done}");
    }
    let entropy = Entropy::from_os();
    let findings = stores.probe(&SystemClock, &entropy).await;
    let mut usable = true;
    for (store, finding) in &findings {
        if finding.verdict != Verdict::Good {
            eprintln!("{store}: {finding}");
        }
        usable &= finding.verdict != Verdict::Bad;
    }
    if !usable {
        return Err(Failure::new(
            Exit::Unhealthy,
            "the stores cannot be used as they are; nothing was initialised",
        ));
    }
    let cluster = genesis::initialise(&*stores.data, &*stores.log, &SystemClock, &entropy)
        .await
        .map_err(|error| genesis_failure(&error))?;
    eprintln!("cluster {cluster} is initialised; next:");
    println!("tidelog agent --storage '{}' --metadata '{}'", args.stores.storage, args.stores.metadata);
    Ok(())
}

/// What a genesis error means for the exit code.
pub fn genesis_failure(error: &GenesisError) -> Failure {
    let exit = match error {
        GenesisError::Mismatch { .. }
        | GenesisError::LogMissing { .. }
        | GenesisError::StorageMissing { .. } => Exit::Conflict,
        GenesisError::Storage(_) | GenesisError::Log(_) => Exit::Unavailable,
        GenesisError::Marker | GenesisError::Entry { .. } | GenesisError::NoGenesis { .. } => Exit::Failure,
    };
    let said = crate::stores::with_causes(error);
    if exit == Exit::Unavailable {
        let doctor = "`tidelog doctor` with the same --storage and --metadata says what to do";
        return Failure::new(exit, format!("{said}; {doctor}"));
    }
    Failure::new(exit, said)
}
