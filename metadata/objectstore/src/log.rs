//! The metadata log over any object store: one object per place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use tidelog_metadata_log::{Append, LogError, MetadataLog, check_entry_length};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};
use tokio::time::timeout;

/// Longest entry. An object could be larger; a reader that follows the log should not have to wait for it.
const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Time for one request. A leader whose append is outstanding for longer is as good as gone: better `Unknown` and a
/// repeat than to wait for a store that sleeps.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(3);
/// GETs in flight in the widest window of a read. Wider ones would not be faster on 20 ms a GET, only more of them
/// would be for nothing at the end of the log.
const WINDOW_MAX: usize = 32;

/// A [`MetadataLog`] that keeps one object per place, `<prefix>/meta/log/<shard>/<epoch>/<seq>`.
///
/// **The store must not repeat a PUT by itself**: a retry after an effect turns `Appended` into `Occupied`, which is
/// found out, but one that is answered late may land after its caller gave up, which costs time in a takeover. Build
/// S3 clients for it by [`crate::S3Url::log_store`], or set `RetryConfig { max_retries: 0, .. }`. Local directories go
/// through [`crate::DurableLocal`], or nothing is durable.
#[derive(Debug, Clone)]
pub struct ObjectStoreLog {
    store: Arc<dyn ObjectStore>,
    root: Path,
    name: String,
}

impl ObjectStoreLog {
    /// The log under `prefix`, which may be empty.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &Path) -> Self {
        let name = store.to_string();
        Self { store, root: prefix.clone().join("meta").join("log"), name }
    }

    /// Tells the store by this name in errors and logs, for instance its URL. A store below a prefix does not tell its
    /// bucket by itself.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The key of a place. Numbers have a fixed width, so that a listing is in the log's order.
    fn key(&self, shard: ShardId, place: Place) -> Path {
        self.root
            .clone()
            .join(format!("{:04}", shard.0))
            .join(format!("{:010}", place.epoch.0))
            .join(format!("{:010}", place.seq.0))
    }

    /// The bytes at a key, or `None` if nothing is there.
    async fn get(&self, key: &Path) -> Result<Option<Bytes>, Cause> {
        let request = async {
            let found = match self.store.get(key).await {
                Ok(found) => found,
                // A bucket that is not there answers 404 like a key that is not there; it says nothing about the log.
                Err(Error::NotFound { source, .. }) if source.to_string().contains("NoSuchBucket") => {
                    return Err(Cause { text: "the bucket does not exist".to_owned(), retryable: false });
                }
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(Cause::from(error)),
            };
            // Checked before the body is read: whatever lies there, it does not cost more memory than an entry.
            let length = usize::try_from(found.meta.size).unwrap_or(usize::MAX);
            if !(1..=ENTRY_BYTES_MAX).contains(&length) {
                return Err(Cause {
                    text: format!("the object is {length} bytes long, entries are 1 to {ENTRY_BYTES_MAX}"),
                    retryable: false,
                });
            }
            Ok(Some(found.bytes().await?))
        };
        timeout(REQUEST_TIME_MAX, request).await.unwrap_or_else(|_| Err(Cause::timed_out()))
    }

    fn error(&self, operation: &'static str, key: &Path, cause: Cause) -> LogError {
        LogError {
            operation,
            target: format!("{}, key {key}", self.name),
            cause: cause.text,
            retryable: cause.retryable,
        }
    }
}

#[async_trait]
impl MetadataLog for ObjectStoreLog {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        let key = self.key(shard, place);
        if let Err(refused) = check_entry_length(key.as_ref(), bytes.len(), ENTRY_BYTES_MAX) {
            return Append::Unknown(refused);
        }
        let put = self.store.put_opts(&key, bytes.into(), PutMode::Create.into());
        let refusal = match timeout(REQUEST_TIME_MAX, put).await {
            Ok(Ok(_)) => return Append::Appended,
            Ok(Err(refusal @ (Error::AlreadyExists { .. } | Error::Precondition { .. }))) => refusal,
            Ok(Err(error)) => return Append::Unknown(self.error("append", &key, error.into())),
            Err(_) => return Append::Unknown(self.error("append", &key, Cause::timed_out())),
        };
        // S3 says 412 when the key exists and 409 when another PUT is under way that may yet fail; both arrive here.
        // Only bytes decide.
        match self.get(&key).await {
            Ok(Some(existing)) => Append::Occupied(existing),
            Ok(None) => {
                let text = format!("refused as existing, then not found: {refusal}");
                Append::Unknown(self.error("append", &key, Cause { text, retryable: true }))
            }
            Err(cause) => Append::Unknown(self.error("append", &key, cause)),
        }
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        let mut entries = Vec::new();
        let mut window = 1;
        // A follower at the end of the log asks for one place in vain; one that catches up soon asks for 32 at a time.
        while entries.len() < limit {
            let first = from.0.saturating_add(entries.len() as u64);
            let keys: Vec<_> = (first..u64::MAX)
                .take(window.min(limit - entries.len()))
                .map(|seq| self.key(shard, Place::new(epoch, LogSeq(seq))))
                .collect();
            if keys.is_empty() {
                break;
            }
            let found = join_all(keys.iter().map(|key| self.get(key))).await;
            // In the order of the places: what lies behind the first absent one is not looked at, errors included.
            for (key, found) in keys.iter().zip(found) {
                match found {
                    Ok(Some(entry)) => entries.push(entry),
                    Ok(None) => return Ok(entries),
                    Err(cause) => return Err(self.error("read", key, cause)),
                }
            }
            window = (window * 2).min(WINDOW_MAX);
        }
        Ok(entries)
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        // Each key once: MinIO answers a bulk deletion that names one twice with an entry that has no key.
        let seqs: BTreeSet<LogSeq> = seqs.iter().copied().collect();
        let keys: Vec<_> = seqs.iter().map(|seq| Ok(self.key(shard, Place::new(epoch, *seq)))).collect();
        let mut removals = self.store.delete_stream(futures::stream::iter(keys).boxed());
        let mut first_error = None;
        loop {
            match timeout(REQUEST_TIME_MAX, removals.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(_) | Err(Error::NotFound { .. }))) => {}
                // The others are removed all the same, so that a repeat has less to do.
                Ok(Some(Err(error))) => first_error = first_error.or(Some(Cause::from(error))),
                Err(_) => {
                    first_error = first_error.or(Some(Cause::timed_out()));
                    break;
                }
            }
        }
        match first_error {
            None => Ok(()),
            Some(cause) => {
                let first = seqs.first().copied().unwrap_or(LogSeq::ZERO);
                Err(self.error("remove", &self.key(shard, Place::new(epoch, first)), cause))
            }
        }
    }

    fn entry_bytes_max(&self) -> usize {
        ENTRY_BYTES_MAX
    }

    fn describe(&self) -> String {
        format!("{}, keys below {}", self.name, self.root)
    }
}

/// Why a request failed, before it is known which one it was.
struct Cause {
    text: String,
    retryable: bool,
}

impl Cause {
    fn timed_out() -> Self {
        Self { text: format!("no answer within {} s", REQUEST_TIME_MAX.as_secs()), retryable: true }
    }
}

impl From<Error> for Cause {
    fn from(error: Error) -> Self {
        // These want an operator; all else may pass: time-outs, throttling, connections, 5xx.
        let retryable = !matches!(
            error,
            Error::PermissionDenied { .. }
                | Error::Unauthenticated { .. }
                | Error::NotImplemented { .. }
                | Error::NotSupported { .. }
                | Error::InvalidPath { .. }
                | Error::UnknownConfigurationKey { .. }
        );
        Self { text: error.to_string(), retryable }
    }
}
