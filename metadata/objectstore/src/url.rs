//! Storage URLs: `s3://bucket/prefix?endpoint=…&region=…&path_style=…`, `file:///path`, `memory:`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

use crate::{DurableLocal, LocalError, S3Url};

/// The keys that an S3 URL may have after its `?`.
const S3_KEYS: &str = "endpoint, region and path_style";
/// What a storage URL may look like.
const FORMS: &str = "s3://BUCKET/PREFIX?endpoint=URL&region=REGION&path_style=true, file:///PATH or memory:";

/// Where segments, snapshots and, if it is kept there, the metadata log are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageUrl {
    /// `memory:`. Gone with the process.
    Memory,
    /// `file:///path`. A directory of this machine, used by one process.
    Local(PathBuf),
    /// `s3://bucket/prefix?…`. S3 or a compatible service.
    S3(S3Url),
}

/// A storage URL that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// None of the forms.
    #[error("\"{0}\" is no storage URL, expected {FORMS}")]
    Form(String),
    /// Not an absolute path.
    #[error("\"{0}\" names no absolute path, expected file:///PATH")]
    LocalPath(String),
    /// S3 has rules for names.
    #[error("bucket name \"{0}\" is not 3 to 63 lower case letters, digits, '.' or '-'")]
    Bucket(String),
    /// A prefix that no key can have.
    #[error("prefix \"{prefix}\" is not allowed: {reason}")]
    Prefix {
        /// As given.
        prefix: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that means nothing here.
    #[error("unknown key \"{key}\" in the storage URL, allowed are {allowed}")]
    UnknownKey {
        /// As given.
        key: String,
        /// Those that mean something in this form of URL.
        allowed: &'static str,
    },
    /// A key that stands there twice.
    #[error("key \"{0}\" is given twice in the storage URL")]
    Repeated(String),
    /// A key whose value cannot be.
    #[error("\"{value}\" is no value for {key} in the storage URL, expected {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Somebody put a secret where it would be logged.
    #[error(
        "credentials do not belong into the storage URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
         or use an instance or container role"
    )]
    Credentials,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory cannot be used.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The S3 client cannot be built.
    #[error("cannot use {url}")]
    S3 {
        /// The URL.
        url: String,
        /// Why.
        source: object_store::Error,
    },
}

/// An opened storage: two views of one place, already below the URL's prefix.
#[derive(Debug, Clone)]
pub struct Stores {
    /// For segments, snapshots and archive files. Repeats requests that fail; a PUT may therefore be refused as existing
    /// because an earlier try of its own took effect: compare before you conclude.
    pub data: Arc<dyn ObjectStore>,
    /// For [`crate::ObjectStoreLog`]: repeats nothing.
    pub log: Arc<dyn ObjectStore>,
}

impl StorageUrl {
    /// Reads a URL; touches nothing.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        // What stands before an @ may be a secret, however the rest is written: then no part of it is repeated.
        Self::read(text).map_err(|error| if text.contains('@') { UrlError::Credentials } else { error })
    }

    fn read(text: &str) -> Result<Self, UrlError> {
        if text == "memory:" || text == "memory://" {
            return Ok(Self::Memory);
        }
        if text.starts_with("file:") {
            return local(text);
        }
        match text.strip_prefix("s3://") {
            Some(rest) => s3(rest).map(Self::S3),
            None => Err(UrlError::Form(text.to_owned())),
        }
    }

    /// Opens the storage. For a directory this takes its lock, tidies up and syncs, and blocks meanwhile; each memory
    /// storage is a new one; S3 is not asked yet.
    pub fn open(&self) -> Result<Stores, OpenError> {
        Ok(match self {
            Self::Memory => Stores::one(Arc::new(InMemory::new())),
            Self::Local(path) => Stores::one(Arc::new(DurableLocal::open(path)?)),
            Self::S3(url) => {
                let failed = |source| OpenError::S3 { url: url.to_string(), source };
                Stores { data: url.data_store().map_err(failed)?, log: url.log_store().map_err(failed)? }
            }
        })
    }
}

impl Stores {
    /// One store for both views, as it does for stores that repeat nothing by themselves.
    pub fn one(store: Arc<dyn ObjectStore>) -> Self {
        Self { data: Arc::clone(&store), log: store }
    }
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Local(path) => write!(f, "file://{}", path.display()),
            Self::S3(url) => url.fmt(f),
        }
    }
}

fn local(text: &str) -> Result<StorageUrl, UrlError> {
    let refused = || UrlError::LocalPath(text.to_owned());
    if !text.starts_with("file:///") {
        return Err(refused());
    }
    let url = Url::parse(text).map_err(|_| refused())?;
    if let Some((key, _)) = url.query_pairs().next() {
        return Err(UrlError::UnknownKey { key: key.into_owned(), allowed: "none for file:" });
    }
    if url.fragment().is_some() {
        return Err(refused());
    }
    url.to_file_path().map(StorageUrl::Local).map_err(|()| refused())
}

fn s3(rest: &str) -> Result<S3Url, UrlError> {
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = location.split_once('/').unwrap_or((location, ""));
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(allowed) {
        return Err(UrlError::Bucket(bucket.to_owned()));
    }
    let prefix = Path::parse(prefix)
        .map_err(|error| UrlError::Prefix { prefix: prefix.to_owned(), reason: error.to_string() })?;

    let mut parsed = S3Url::new(bucket, prefix);
    let mut seen = Vec::new();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "endpoint" => parsed.endpoint = Some(endpoint(&value)?),
            "region" => parsed.region = Some(region(&value)?),
            "path_style" => parsed.path_style = Some(path_style(&value)?),
            _ => return Err(UrlError::UnknownKey { key: key.into_owned(), allowed: S3_KEYS }),
        }
        if seen.contains(&key) {
            return Err(UrlError::Repeated(key.into_owned()));
        }
        seen.push(key);
    }
    Ok(parsed)
}

fn endpoint(value: &str) -> Result<Url, UrlError> {
    let expected = "http://HOST:PORT or https://HOST";
    match Url::parse(value) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => Err(UrlError::Credentials),
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.path() == "/"
                && url.query().is_none() =>
        {
            Ok(url)
        }
        _ => Err(UrlError::Value { key: "endpoint", value: value.to_owned(), expected }),
    }
}

fn region(value: &str) -> Result<String, UrlError> {
    if !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(value.to_owned());
    }
    Err(UrlError::Value { key: "region", value: value.to_owned(), expected: "a region such as eu-central-1" })
}

fn path_style(value: &str) -> Result<bool, UrlError> {
    value.parse().map_err(|_| UrlError::Value {
        key: "path_style",
        value: value.to_owned(),
        expected: "true or false",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_back_as_they_went_in() {
        for text in [
            "memory:",
            "file:///var/lib/tidelog",
            "s3://bucket",
            "s3://bucket/pre/fix",
            "s3://my.bucket-1/prefix?region=eu-central-1",
            "s3://bucket?endpoint=http://127.0.0.1:9000&region=us-east-1&path_style=true",
            "s3://bucket/p?endpoint=https://minio.example.org&path_style=false",
        ] {
            assert_eq!(StorageUrl::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(StorageUrl::parse("file:///a%20b"), Ok(StorageUrl::Local("/a b".into())));
        assert_eq!(StorageUrl::parse("s3://bucket/a/").expect("allowed").to_string(), "s3://bucket/a");
    }

    #[test]
    fn mistakes_are_named_with_what_is_allowed() {
        let rows = [
            ("", "expected s3://BUCKET"),
            ("/var/lib/tidelog", "or memory:"),
            ("S3://bucket", "expected s3://BUCKET"),
            ("gs://bucket", "expected s3://BUCKET"),
            ("memory:x", "expected s3://BUCKET"),
            ("file://relative/path", "expected file:///PATH"),
            ("file:relative", "expected file:///PATH"),
            (
                "file:///path?region=x",
                "unknown key \"region\" in the storage URL, allowed are none for file:",
            ),
            ("s3://", "bucket name \"\""),
            ("s3://B", "bucket name \"B\""),
            ("s3://Bucket", "lower case"),
            ("s3://bucket/a//b", "prefix \"a//b\""),
            ("s3://bucket/a/../b", "prefix \"a/../b\""),
            ("s3://bucket?endpont=x", "unknown key \"endpont\""),
            ("s3://bucket?Region=x", "allowed are endpoint, region and path_style"),
            ("s3://bucket?region=a&region=b", "\"region\" is given twice"),
            ("s3://bucket?region=", "no value for region"),
            ("s3://bucket?path_style=yes", "expected true or false"),
            ("s3://bucket?endpoint=127.0.0.1:9000", "expected http://HOST:PORT"),
            ("s3://bucket?endpoint=http://x/path", "expected http://HOST:PORT"),
            ("s3://key:secret@bucket", "credentials do not belong"),
            ("s3://bucket?endpoint=http://key:secret@x", "credentials do not belong"),
            ("s3://key:sec/ret@bucket", "credentials do not belong"),
            ("s3://bucket?endpoint=http://key:sec/r&t@x", "credentials do not belong"),
            ("https://key:secret@bucket", "credentials do not belong"),
        ];
        for (text, said) in rows {
            let error = StorageUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(said) && !error.contains("sec"), "{text}: {error}");
        }
        assert!(StorageUrl::parse("s3://bucket/pre@fix").is_ok());
    }

    #[test]
    fn secrets_are_not_shown() {
        let StorageUrl::S3(url) = StorageUrl::parse("s3://bucket").expect("a URL") else { panic!("S3") };
        let url = StorageUrl::S3(url.with_static_credentials("AKIA", "hush"));
        for shown in [format!("{url:?}"), url.to_string()] {
            assert!(!shown.contains("hush") && !shown.contains("AKIA"), "{shown}");
        }
    }
}
