//! What a server runs on: the set-ups that every end-to-end test should pass on.

use std::path::Path;

use tidelog_test_services::{Kind, require};

use crate::tidelog;

/// A set-up of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoresKind {
    /// `tidelog dev` on a local directory.
    Embedded,
    /// Segments in MinIO, metadata in DynamoDB Local.
    MinioDynamoDb,
    /// Segments and metadata in one SeaweedFS bucket.
    SeaweedFs,
    /// S3 and DynamoDB of LocalStack.
    LocalStack,
}

impl StoresKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Embedded, Self::MinioDynamoDb, Self::SeaweedFs, Self::LocalStack];
}

/// Stores of one test, fresh and initialised.
#[derive(Debug)]
pub struct Stores {
    directory: tempfile::TempDir,
    urls: Option<(String, String)>,
}

impl Stores {
    /// Makes fresh stores; `None` if the run was asked to do without services.
    pub async fn new(kind: StoresKind, name: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let urls = match kind {
            StoresKind::Embedded => None,
            StoresKind::MinioDynamoDb => {
                let (minio, dynamodb) = (require(Kind::Minio).await?, require(Kind::DynamoDbLocal).await?);
                let bucket = minio.bucket(name).await.expect("a bucket");
                Some((minio.storage_url(&bucket, "t"), dynamodb.metadata_url(&dynamodb.table(name))))
            }
            StoresKind::SeaweedFs => {
                let seaweedfs = require(Kind::SeaweedFs).await?;
                let bucket = seaweedfs.bucket(name).await.expect("a bucket");
                Some((seaweedfs.storage_url(&bucket, "t"), "storage".to_owned()))
            }
            StoresKind::LocalStack => {
                let localstack = require(Kind::LocalStack).await?;
                let bucket = localstack.bucket(name).await.expect("a bucket");
                let metadata = localstack.metadata_url(&localstack.table(name));
                Some((localstack.storage_url(&bucket, "t"), metadata))
            }
        };
        if let Some((storage, metadata)) = &urls {
            tidelog(None, &["init", "--storage", storage, "--metadata", metadata], Vec::new()).await.ok();
        }
        Some(Self { directory, urls })
    }

    /// A directory that lives as long as the stores.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `--storage` and `--metadata`, unless embedded.
    pub fn urls(&self) -> Option<(&str, &str)> {
        self.urls.as_ref().map(|(storage, metadata)| (storage.as_str(), metadata.as_str()))
    }

    /// Role and arguments of a server on these stores.
    pub fn server(&self) -> (&'static str, Vec<String>) {
        match &self.urls {
            None => {
                let data = self.directory.path().join("data");
                ("dev", vec!["--data-dir".into(), data.to_string_lossy().into_owned()])
            }
            Some((storage, metadata)) => {
                ("agent", vec!["--storage".into(), storage.clone(), "--metadata".into(), metadata.clone()])
            }
        }
    }
}
