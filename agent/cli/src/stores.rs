//! From `--storage` and `--metadata` to the stores of a cluster.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use tidelog_metadata_dynamodb::{DynamoDbLog, DynamoDbUrl};
use tidelog_metadata_log::env::{Clock, Entropy};
use tidelog_metadata_log::memory::MemoryLog;
use tidelog_metadata_log::{Finding, MetadataLog};
use tidelog_metadata_objectstore::{ObjectStoreLog, StorageUrl, probe};

use crate::failure::{Exit, Failure};

/// The two URLs that name a cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreArgs {
    /// Where segments are: s3://BUCKET/PREFIX?endpoint=URL&region=REGION&path_style=true, file:///PATH or memory:
    #[arg(long, env = "TIDELOG_STORAGE", value_name = "URL")]
    pub storage: String,
    /// Where the metadata log is: dynamodb://TABLE?endpoint=URL&region=REGION, memory:, or "storage" to keep it beside the
    /// segments
    #[arg(long, env = "TIDELOG_METADATA", value_name = "URL")]
    pub metadata: String,
}

/// Where the metadata log is.
#[derive(Debug)]
pub enum MetadataUrl {
    /// Beside the segments.
    Storage,
    /// In this process.
    Memory,
    /// In a table.
    DynamoDb(DynamoDbUrl),
}

impl MetadataUrl {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "storage" => Ok(Self::Storage),
            "memory:" | "memory://" => Ok(Self::Memory),
            // It knows which texts must not be repeated, because there may be a secret in them.
            _ if text.starts_with("dynamodb:") || text.contains('@') => DynamoDbUrl::parse(text)
                .map(Self::DynamoDb)
                .map_err(|error| Failure::usage(format!("--metadata: {error}"))),
            _ => Err(Failure::usage(format!(
                "--metadata: \"{text}\" is no metadata URL, expected dynamodb://TABLE?endpoint=URL&region=REGION, memory: or storage"
            ))),
        }
    }
}

/// The stores of a cluster, opened; whether they are initialised is another question.
#[derive(Debug)]
pub struct ClusterStores {
    /// For segments and snapshots.
    pub data: Arc<dyn ObjectStore>,
    /// For the metadata.
    pub log: Arc<dyn MetadataLog>,
    /// The stores are this process's alone: a locked directory, or memory.
    pub exclusive: bool,
    /// Whether a PUT takes milliseconds, not tens of them.
    pub near: bool,
    storage: StorageUrl,
    table: Option<DynamoDbLog>,
}

impl StoreArgs {
    /// Reads both URLs; touches nothing.
    pub fn urls(&self) -> Result<(StorageUrl, MetadataUrl), Failure> {
        let storage = StorageUrl::parse(&self.storage)
            .map_err(|error| Failure::usage(format!("--storage: {error}")))?;
        Ok((storage, MetadataUrl::parse(&self.metadata)?))
    }
}

impl ClusterStores {
    /// Opens both; only a local directory is touched by that.
    pub async fn open(args: &StoreArgs) -> Result<Self, Failure> {
        let (storage, metadata) = args.urls()?;
        // Takes the directory's lock and syncs: not on a thread that serves others.
        let opened = tokio::task::spawn_blocking({
            let storage = storage.clone();
            move || storage.open()
        });
        let stores = opened
            .await
            .map_err(|error| Failure::failed(error.to_string()))?
            .map_err(|error| Failure::new(Exit::Unavailable, with_causes(&error)))?;
        let near = !matches!(storage, StorageUrl::S3(_));
        let mut table = None;
        let (log, exclusive): (Arc<dyn MetadataLog>, bool) = match metadata {
            MetadataUrl::Storage => (Arc::new(ObjectStoreLog::new(stores.log, &Path::default())), near),
            MetadataUrl::Memory => (Arc::new(MemoryLog::new()), true),
            MetadataUrl::DynamoDb(url) => {
                let log =
                    DynamoDbLog::connect(&url).await.map_err(|error| Failure::failed(with_causes(&error)))?;
                table = Some(log.clone());
                (Arc::new(log), false)
            }
        };
        Ok(Self { data: stores.data, log, exclusive, near, storage, table })
    }

    /// Creates the table if the metadata is in one; the bucket too, if asked.
    pub async fn create(&self, create_bucket: bool) -> Result<Vec<String>, Failure> {
        let mut done = Vec::new();
        match &self.storage {
            StorageUrl::S3(url) if create_bucket => {
                let created =
                    url.create_bucket().await.map_err(|error| Failure::failed(with_causes(&error)))?;
                let what = if created { "created" } else { "exists" };
                done.push(format!("bucket {} {what}", url.bucket()));
            }
            _ if create_bucket => return Err(Failure::usage("--create-bucket needs an s3:// storage URL")),
            _ => {}
        }
        if let Some(table) = &self.table {
            let created = table.create_table().await.map_err(|error| Failure::failed(with_causes(&error)))?;
            done.push(format!("{} {}", table.describe(), if created { "created" } else { "exists" }));
        }
        Ok(done)
    }

    /// Tries out whether the stores keep what Tidelog relies on. Writes a few small objects below `meta/probe`.
    pub async fn probe(&self, clock: &dyn Clock, entropy: &Entropy) -> Vec<(String, Finding)> {
        let mut findings: Vec<(String, Finding)> = probe::probe(&*self.data, clock, entropy)
            .await
            .into_iter()
            .map(|finding| ("storage".to_owned(), finding))
            .collect();
        if let Some(table) = &self.table {
            findings.extend(
                table.probe(entropy).await.into_iter().map(|finding| ("metadata".to_owned(), finding)),
            );
        }
        findings
    }
}

/// An error with all its causes, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let said = source.to_string();
        // Many errors repeat their source already.
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = source.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
