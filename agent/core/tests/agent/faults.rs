//! An object store and a metadata log that misbehave on order.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tidelog_metadata_log::memory::MemoryLog;
use tidelog_metadata_log::{Append, LogError, MetadataLog};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

/// What happens to one PUT of a segment.
#[derive(Debug, Clone)]
pub enum PutFault {
    /// It goes through.
    None,
    /// An error, and nothing was written.
    ErrorBefore,
    /// An error, and it was written.
    ErrorAfter,
    /// "Exists" although nothing is there: a conflict.
    Conflict,
    /// The name is taken by as many other bytes.
    Foreign,
    /// It takes this long.
    Slow(Duration),
    /// It never answers, and nothing is written.
    Stall,
}

/// What happens to one GET of a segment.
#[derive(Debug, Clone)]
pub enum GetFault {
    /// It goes through.
    None,
    /// A bit is flipped on the way, at this place of what was read.
    FlipInTransfer(usize),
    /// The answer is cut off.
    Truncate,
    /// No such object.
    NotFound,
    /// An error.
    Error,
    /// It takes this long.
    Slow(Duration),
}

#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<InMemory>,
    puts: Mutex<VecDeque<PutFault>>,
    gets: Mutex<VecDeque<GetFault>>,
    /// Every GET from now on.
    pub all_gets: Mutex<Option<GetFault>>,
    /// Every PUT from now on.
    pub all_puts: Mutex<Option<PutFault>>,
    /// The ranges that were read.
    pub reads: Mutex<Vec<(String, Range<u64>)>>,
}

fn error() -> Error {
    Error::Generic { store: "faults", source: "on order".into() }
}

impl FaultStore {
    pub fn new(inner: Arc<InMemory>) -> Self {
        Self {
            inner,
            puts: Mutex::default(),
            gets: Mutex::default(),
            all_gets: Mutex::default(),
            all_puts: Mutex::default(),
            reads: Mutex::default(),
        }
    }

    pub fn on_puts(&self, faults: impl IntoIterator<Item = PutFault>) {
        self.puts.lock().extend(faults);
    }

    pub fn on_gets(&self, faults: impl IntoIterator<Item = GetFault>) {
        self.gets.lock().extend(faults);
    }

    pub async fn segments(&self) -> Vec<Path> {
        let mut names: Vec<Path> = self
            .inner
            .list(Some(&Path::from("wal")))
            .filter_map(|meta| async { Some(meta.ok()?.location) })
            .collect()
            .await;
        names.sort();
        names
    }

    /// Changes what lies in the store.
    pub async fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let bytes = self.inner.get(path).await.expect("exists").bytes().await.expect("readable");
        let mut bytes = bytes.to_vec();
        change(&mut bytes);
        self.inner.put(path, bytes.into()).await.expect("memory takes it");
    }

    pub async fn remove(&self, path: &Path) {
        self.inner.delete(path).await.expect("memory deletes");
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faults")
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fault =
            self.puts.lock().pop_front().or_else(|| self.all_puts.lock().clone()).unwrap_or(PutFault::None);
        let exists = || Error::AlreadyExists { path: location.to_string(), source: "on order".into() };
        match fault {
            PutFault::None => self.inner.put_opts(location, payload, opts).await,
            PutFault::ErrorBefore => Err(error()),
            PutFault::ErrorAfter => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(error())
            }
            PutFault::Conflict => Err(exists()),
            PutFault::Foreign => {
                let other = vec![7; payload.content_length()];
                self.inner.put(location, other.into()).await?;
                Err(exists())
            }
            PutFault::Slow(duration) => {
                tokio::time::sleep(duration).await;
                self.inner.put_opts(location, payload, opts).await
            }
            PutFault::Stall => std::future::pending().await,
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(error())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(GetRange::Bounded(range)) = &options.range {
            self.reads.lock().push((location.to_string(), range.clone()));
        }
        let fault =
            self.gets.lock().pop_front().or_else(|| self.all_gets.lock().clone()).unwrap_or(GetFault::None);
        match fault {
            GetFault::None => self.inner.get_opts(location, options).await,
            GetFault::NotFound => {
                Err(Error::NotFound { path: location.to_string(), source: "on order".into() })
            }
            GetFault::Error => Err(error()),
            GetFault::Slow(duration) => {
                tokio::time::sleep(duration).await;
                self.inner.get_opts(location, options).await
            }
            GetFault::FlipInTransfer(at) => {
                let got = self.inner.get_opts(location, options).await?;
                changed(got, |bytes| bytes[at] ^= 1).await
            }
            GetFault::Truncate => {
                let got = self.inner.get_opts(location, options).await?;
                changed(got, |bytes| bytes.truncate(bytes.len() / 2)).await
            }
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

async fn changed(got: GetResult, change: impl FnOnce(&mut Vec<u8>)) -> Result<GetResult> {
    let (meta, range, attributes) = (got.meta.clone(), got.range.clone(), got.attributes.clone());
    let mut bytes = got.bytes().await?.to_vec();
    change(&mut bytes);
    let stream = futures::stream::once(async move { Ok(Bytes::from(bytes)) }).boxed();
    Ok(GetResult {
        payload: GetResultPayload::Stream(stream),
        meta,
        range,
        attributes,
        extensions: Default::default(),
    })
}

/// A metadata log that answers nothing while it is away.
#[derive(Debug)]
pub struct AwayLog {
    pub inner: MemoryLog,
    pub is_away: AtomicBool,
    pub entry_bytes_max: usize,
}

impl Default for AwayLog {
    fn default() -> Self {
        let inner = MemoryLog::new();
        let entry_bytes_max = inner.entry_bytes_max();
        Self { inner, is_away: AtomicBool::new(false), entry_bytes_max }
    }
}

impl AwayLog {
    fn refusal(&self, operation: &'static str) -> LogError {
        LogError { operation, target: "away".into(), cause: "on order".into(), retryable: true }
    }
}

#[async_trait]
impl MetadataLog for AwayLog {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        if self.is_away.load(Ordering::Relaxed) {
            return Append::Unknown(self.refusal("append"));
        }
        self.inner.append(shard, place, bytes).await
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(self.refusal("read"));
        }
        self.inner.read(shard, epoch, from, limit).await
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        self.inner.remove(shard, epoch, seqs).await
    }

    fn entry_bytes_max(&self) -> usize {
        self.entry_bytes_max
    }

    fn describe(&self) -> String {
        "away".to_owned()
    }
}
