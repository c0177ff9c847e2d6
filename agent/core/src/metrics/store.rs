//! A decorator that counts and times what the object store is asked.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::{HistogramFamily, latency};

/// Counters of object store requests; cheap to clone, clones count together.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    requests: Family<ClassLabels, Counter>,
    durations: HistogramFamily<OutcomeLabels>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    op: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    op: &'static str,
    outcome: &'static str,
}

/// What is asked of an object store. Stores bill by class: A (writes and lists) costs about 12 times B (reads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOp {
    /// Write an object.
    Put,
    /// Read an object, or a range of one.
    Get,
    /// Read what is known of an object.
    Head,
    /// List objects.
    List,
    /// Delete an object; free of charge.
    Delete,
    /// Copy an object.
    Copy,
}

impl StoreOp {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Put | Self::List | Self::Copy => "a",
            Self::Get | Self::Head => "b",
            Self::Delete => "free",
        }
    }
}

impl StoreMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let requests: Family<ClassLabels, Counter> = Family::default();
        let durations = HistogramFamily::new_with_constructor(latency as fn() -> Histogram);
        registry.register(
            "object_store_requests",
            "Requests to the object store, by billing class",
            requests.clone(),
        );
        registry.register(
            "object_store_request_duration_seconds",
            "Time until the object store answered; of reads, until the first byte",
            durations.clone(),
        );
        Self { requests, durations }
    }

    /// How many requests of one kind were made.
    pub fn requests(&self, op: StoreOp) -> u64 {
        self.requests.get_or_create(&ClassLabels { op: op.name(), class: op.class() }).get()
    }

    fn sent(&self, op: StoreOp) {
        self.requests.get_or_create(&ClassLabels { op: op.name(), class: op.class() }).inc();
    }

    fn answered<T>(&self, op: StoreOp, since: Instant, result: &Result<T>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(Error::NotFound { .. }) => "not_found",
            Err(Error::AlreadyExists { .. }) => "exists",
            Err(Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) => "denied",
            Err(_) => "error",
        };
        let labels = OutcomeLabels { op: op.name(), outcome };
        self.durations.get_or_create(&labels).observe(since.elapsed().as_secs_f64());
    }

    async fn timed<T>(&self, op: StoreOp, request: impl Future<Output = Result<T>>) -> Result<T> {
        let since = Instant::now();
        self.sent(op);
        let result = request.await;
        self.answered(op, since, &result);
        result
    }
}

/// An object store whose requests are counted.
#[derive(Debug)]
pub struct MeteredStore {
    inner: Arc<dyn ObjectStore>,
    metrics: StoreMetrics,
}

impl MeteredStore {
    /// Counts what is asked of `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, metrics: StoreMetrics) -> Self {
        Self { inner, metrics }
    }
}

impl fmt::Display for MeteredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for MeteredStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.metrics.timed(StoreOp::Put, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.metrics.timed(StoreOp::Put, self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { StoreOp::Head } else { StoreOp::Get };
        self.metrics.timed(op, self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let metrics = self.metrics.clone();
        let counted = locations.inspect(move |location| {
            if location.is_ok() {
                metrics.sent(StoreOp::Delete);
            }
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.metrics.sent(StoreOp::List);
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.metrics.sent(StoreOp::List);
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.metrics.timed(StoreOp::List, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.metrics.timed(StoreOp::Copy, self.inner.copy_opts(from, to, options)).await
    }
}
