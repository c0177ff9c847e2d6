//! The beginning of a cluster: its id, written once into the object store and once into the metadata log.
//!
//! Both carry it, so that a store that belongs to one cluster is never used with the log of another.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tidelog_metadata_log::env::{Clock, Entropy};
use tidelog_metadata_log::{Append, LogError, MetadataLog};
use tidelog_metadata_state::{Entry, EntryBody, EntryError, EntryId, FEATURE_LEVEL};
use tidelog_types::{ClusterId, LogEpoch, LogSeq, Place, ShardId};
use uuid::Uuid;

/// Name of the object that holds the cluster's id, as text.
pub const CLUSTER_OBJECT: &str = "meta/cluster";

/// Tries to append the genesis before giving up; each takes a few seconds at most.
const APPEND_TRIES: u32 = 5;

/// Why a cluster could not be initialised or recognised.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The object store did not answer, or refused.
    #[error("object store: {0}")]
    Storage(#[from] object_store::Error),
    /// The metadata log did not answer, or refused.
    #[error("metadata log: {0}")]
    Log(#[from] LogError),
    /// `meta/cluster` holds no cluster id.
    #[error("object {CLUSTER_OBJECT} holds no cluster id: this prefix is used by something else")]
    Marker,
    /// The log's first entry is no genesis.
    #[error("first metadata entry, in {log}: {cause}")]
    Entry {
        /// The metadata log.
        log: String,
        /// What is wrong with it.
        cause: EntryError,
    },
    /// The first place holds something else.
    #[error("the first metadata entry is no genesis: {log} is used by something else")]
    NoGenesis {
        /// The metadata log.
        log: String,
    },
    /// The two stores belong to different clusters.
    #[error(
        "the object store belongs to cluster {storage}, the metadata log to cluster {log}: one of the two URLs is wrong"
    )]
    Mismatch {
        /// Cluster of the object store.
        storage: ClusterId,
        /// Cluster of the metadata log.
        log: ClusterId,
    },
    /// The object store belongs to a cluster and holds its data, and the log is empty.
    #[error(
        "the object store belongs to cluster {storage} and holds its data, the metadata log is empty: is the metadata URL right?"
    )]
    LogMissing {
        /// Cluster of the object store.
        storage: ClusterId,
    },
    /// The log belongs to a cluster, and the object store to none.
    #[error(
        "the metadata log belongs to cluster {log}, the object store is not initialised: is the storage URL right?"
    )]
    StorageMissing {
        /// Cluster of the metadata log.
        log: ClusterId,
    },
}

/// The id of the cluster that the object store belongs to, if it is initialised.
pub async fn storage_cluster(store: &dyn ObjectStore) -> Result<Option<ClusterId>, GenesisError> {
    match store.get(&Path::from(CLUSTER_OBJECT)).await {
        Ok(found) => {
            let bytes = found.bytes().await?;
            let text = std::str::from_utf8(&bytes).map_err(|_| GenesisError::Marker)?;
            let id = Uuid::parse_str(text.trim()).map_err(|_| GenesisError::Marker)?;
            Ok(Some(ClusterId(id)))
        }
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The id of the cluster that the metadata log belongs to, if it is initialised.
pub async fn log_cluster(log: &dyn MetadataLog) -> Result<Option<ClusterId>, GenesisError> {
    let first = log.read(ShardId::ZERO, LogEpoch::ZERO, LogSeq::ZERO, 1).await?;
    first.first().map(|bytes| genesis_of(log, bytes)).transpose()
}

fn genesis_of(log: &dyn MetadataLog, bytes: &[u8]) -> Result<ClusterId, GenesisError> {
    let described = || log.describe();
    match Entry::decode(bytes).map_err(|cause| GenesisError::Entry { log: described(), cause })?.body {
        EntryBody::Genesis { cluster } => Ok(cluster),
        _ => Err(GenesisError::NoGenesis { log: described() }),
    }
}

/// The id of the cluster that both stores belong to; `None` if neither, or only the object store, is initialised.
pub async fn recognise(
    store: &dyn ObjectStore,
    log: &dyn MetadataLog,
) -> Result<Option<ClusterId>, GenesisError> {
    match (storage_cluster(store).await?, log_cluster(log).await?) {
        (Some(storage), Some(log)) if storage == log => Ok(Some(storage)),
        (Some(storage), Some(log)) => Err(GenesisError::Mismatch { storage, log }),
        (None, Some(log)) => Err(GenesisError::StorageMissing { log }),
        (_, None) => Ok(None),
    }
}

/// Whether a cluster has written segments or snapshots.
async fn holds_data(store: &dyn ObjectStore) -> Result<bool, GenesisError> {
    for folder in ["wal", "meta/snapshots"] {
        if store.list(Some(&Path::from(folder))).next().await.transpose()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the two stores one cluster, or finds that they are one already. May be repeated, and run twice at a time:
/// the object store's id is written first, and the log takes it from there.
pub async fn initialise(
    store: &dyn ObjectStore,
    log: &dyn MetadataLog,
    clock: &dyn Clock,
    entropy: &Entropy,
) -> Result<ClusterId, GenesisError> {
    if let Some(cluster) = recognise(store, log).await? {
        return Ok(cluster);
    }
    if let Some(storage) = storage_cluster(store).await?
        && holds_data(store).await?
    {
        // A second log over the same objects: each would collect what the other one needs.
        return Err(GenesisError::LogMissing { storage });
    }
    let fresh = entropy.uuid();
    let create = PutOptions::from(PutMode::Create);
    match store.put_opts(&Path::from(CLUSTER_OBJECT), Bytes::from(format!("{fresh}\n")).into(), create).await
    {
        Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let cluster = storage_cluster(store).await?.ok_or(GenesisError::Marker)?;
    let genesis = Entry {
        level: FEATURE_LEVEL,
        id: EntryId(entropy.uuid()),
        time: clock.now(),
        body: EntryBody::Genesis { cluster },
    };
    let bytes = genesis.encode();
    let mut tries = 0;
    loop {
        match log.append(ShardId::ZERO, Place::begin_of(LogEpoch::ZERO), bytes.clone()).await {
            Append::Appended => return Ok(cluster),
            Append::Occupied(found) => {
                let found = genesis_of(log, &found)?;
                if found == cluster {
                    return Ok(cluster);
                }
                return Err(GenesisError::Mismatch { storage: cluster, log: found });
            }
            Append::Unknown(error) => {
                tries += 1;
                if tries == APPEND_TRIES || !error.retryable {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
