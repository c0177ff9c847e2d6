//! Where snapshots lie.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tidelog_types::{ShardId, TimestampMs};
use uuid::Uuid;

/// Why a snapshot could not be written, read or deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotStoreError {
    /// There is none of this name.
    #[error("snapshot {0} does not exist")]
    NotFound(String),
    /// The store did not answer, or refused.
    #[error("{0}")]
    Store(String),
}

/// A place for snapshots of the state machine; all calls may be repeated.
#[async_trait]
pub trait SnapshotStore: Send + Sync + fmt::Debug + 'static {
    /// Writes a snapshot under a name that was never used before. Writing the same bytes again is no error.
    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), SnapshotStoreError>;

    /// Reads a snapshot.
    async fn read(&self, name: &str) -> Result<Bytes, SnapshotStoreError>;

    /// Deletes a snapshot; that it is gone already is no error.
    async fn delete(&self, name: &str) -> Result<(), SnapshotStoreError>;

    /// What the store's clock says, to a second. `probe` is a number that was never used before.
    async fn store_time(&self, probe: Uuid) -> Result<TimestampMs, SnapshotStoreError>;
}

/// Snapshots in an object store: `meta/snapshots/<shard>/<name>`.
#[derive(Debug, Clone)]
pub struct ObjectSnapshots {
    store: Arc<dyn ObjectStore>,
    shard: ShardId,
}

impl ObjectSnapshots {
    /// Snapshots of one shard in `store`.
    pub fn new(store: Arc<dyn ObjectStore>, shard: ShardId) -> Self {
        Self { store, shard }
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("meta/snapshots/{:04}/{name}", self.shard.0))
    }
}

fn failed(path: &Path, error: object_store::Error) -> SnapshotStoreError {
    match error {
        object_store::Error::NotFound { .. } => SnapshotStoreError::NotFound(path.to_string()),
        other => SnapshotStoreError::Store(other.to_string()),
    }
}

#[async_trait]
impl SnapshotStore for ObjectSnapshots {
    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), SnapshotStoreError> {
        let path = self.path(name);
        let create = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&path, bytes.into(), create).await {
            // The name is unique, so what is there came from an earlier try.
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(failed(&path, error)),
        }
    }

    async fn read(&self, name: &str) -> Result<Bytes, SnapshotStoreError> {
        let path = self.path(name);
        let got = self.store.get(&path).await.map_err(|error| failed(&path, error))?;
        got.bytes().await.map_err(|error| failed(&path, error))
    }

    async fn delete(&self, name: &str) -> Result<(), SnapshotStoreError> {
        let path = self.path(name);
        match self.store.delete(&path).await.map_err(|error| failed(&path, error)) {
            Err(SnapshotStoreError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    async fn store_time(&self, probe: Uuid) -> Result<TimestampMs, SnapshotStoreError> {
        let path = Path::from(format!("meta/clock/{probe}"));
        let create = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&path, Bytes::new().into(), create).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(failed(&path, error)),
        }
        let found = self.store.head(&path).await.map_err(|error| failed(&path, error))?;
        Ok(TimestampMs(found.last_modified.timestamp_millis()))
    }
}
