//! S3 clients with the settings that Tidelog needs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, Result, RetryConfig};
use url::{Host, Url};

/// Time for a request of the log, as in every backend.
const LOG_REQUEST_TIME_MAX: Duration = Duration::from_secs(3);
/// Time for a segment or an archive file of up to 256 MiB. Callers have their own, shorter deadlines.
const DATA_REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// Repeats of a data request. The whole must end within a producer's patience, not within object_store's 3 minutes.
const DATA_RETRIES_MAX: usize = 4;
const DATA_RETRY_TIME_MAX: Duration = Duration::from_secs(15);

/// A bucket, a prefix in it, and how to get there.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Url {
    bucket: String,
    prefix: Path,
    pub(crate) endpoint: Option<Url>,
    pub(crate) region: Option<String>,
    pub(crate) path_style: Option<bool>,
    credentials: Option<(String, String)>,
}

impl S3Url {
    pub(crate) fn new(bucket: &str, prefix: Path) -> Self {
        Self {
            bucket: bucket.to_owned(),
            prefix,
            endpoint: None,
            region: None,
            path_style: None,
            credentials: None,
        }
    }

    /// Uses these credentials and not those of the environment: for tests, whose process has none there.
    #[must_use]
    pub fn with_static_credentials(mut self, access_key_id: &str, secret_access_key: &str) -> Self {
        self.credentials = Some((access_key_id.to_owned(), secret_access_key.to_owned()));
        self
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The store for segments, snapshots and archive files, below the prefix.
    pub fn data_store(&self) -> Result<Arc<dyn ObjectStore>> {
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        };
        let retry =
            RetryConfig { backoff, max_retries: DATA_RETRIES_MAX, retry_timeout: DATA_RETRY_TIME_MAX };
        Ok(self.below_prefix(self.client(retry, DATA_REQUEST_TIME_MAX)?))
    }

    /// The store for the metadata log, below the prefix. It repeats no request.
    pub fn log_store(&self) -> Result<Arc<dyn ObjectStore>> {
        let never = RetryConfig { max_retries: 0, retry_timeout: LOG_REQUEST_TIME_MAX, ..Default::default() };
        Ok(self.below_prefix(self.client(never, LOG_REQUEST_TIME_MAX)?))
    }

    /// Creates the bucket: `true`, or `false` if it is there already and is ours.
    pub async fn create_bucket(&self) -> Result<bool> {
        let client = self.client(RetryConfig::default(), LOG_REQUEST_TIME_MAX)?;
        // object_store has no call for it, but signs any request.
        let url = client.signed_url(reqwest::Method::PUT, &Path::default(), Duration::from_secs(60)).await?;
        let mut request = reqwest::Client::new().put(url).timeout(Duration::from_secs(30));
        if let Some(region) = self.region.as_deref().filter(|region| *region != "us-east-1") {
            request = request.body(format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ));
        }
        // Without its URL, which is signed.
        let answer = request.send().await.map_err(|error| generic(error.without_url().to_string()))?;
        let status = answer.status();
        let said = answer.text().await.unwrap_or_default();
        match status {
            _ if status.is_success() => Ok(true),
            _ if said.contains("BucketAlreadyOwnedByYou") => Ok(false),
            _ => Err(generic(format!("creating bucket {}: {status}: {}", self.bucket, first_words(&said)))),
        }
    }

    fn below_prefix(&self, client: AmazonS3) -> Arc<dyn ObjectStore> {
        if self.prefix.as_ref().is_empty() {
            return Arc::new(client);
        }
        Arc::new(PrefixStore::new(client, self.prefix.clone()))
    }

    fn client(&self, retry: RetryConfig, request_time_max: Duration) -> Result<AmazonS3> {
        // The build has one crypto provider, without which rustls cannot start; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let mut builder = AmazonS3Builder::from_env();
        let url = self.with_endpoint_of(&builder);
        if let Some(region) = &url.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &url.endpoint {
            // This key and not `with_endpoint`, which a variable of the environment would overrule.
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, url.client_endpoint(endpoint));
        }
        if let Some((id, secret)) = &url.credentials {
            builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        }
        builder
            .with_bucket_name(&url.bucket)
            .with_virtual_hosted_style_request(!url.is_path_style())
            // Whatever the environment says: without it nothing here is safe.
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_unsigned_payload(url.is_unsigned())
            .with_retry(retry)
            .with_client_options(
                ClientOptions::new()
                    .with_allow_http(url.endpoint.as_ref().is_some_and(|url| url.scheme() == "http"))
                    .with_timeout(request_time_max)
                    .with_connect_timeout(CONNECT_TIME_MAX),
            )
            .build()
    }

    /// The same URL; where it names no endpoint and the environment does (`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`), with
    /// that one.
    fn with_endpoint_of(&self, environment: &AmazonS3Builder) -> Self {
        let keys = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
        let given = keys.iter().find_map(|key| environment.get_config_value(key));
        let endpoint = self.endpoint.clone().or_else(|| given.and_then(|text| Url::parse(&text).ok()));
        Self { endpoint, ..self.clone() }
    }

    /// The bucket in the path rather than in the host name: compatible services mostly have no host per bucket.
    fn is_path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }

    /// Hashing payloads for their signature costs a quarter of the CPU. TLS protects them as well, loopback has nobody
    /// to protect from, and our own checksums lie inside.
    fn is_unsigned(&self) -> bool {
        match &self.endpoint {
            None => true,
            Some(url) => url.scheme() == "https" || is_loopback(url),
        }
    }

    /// As the client wants it: with the bucket in front, if it is to be in the host name.
    fn client_endpoint(&self, endpoint: &Url) -> String {
        let text = endpoint.as_str().trim_end_matches('/');
        match text.split_once("://") {
            Some((scheme, host)) if !self.is_path_style() => format!("{scheme}://{}.{host}", self.bucket),
            _ => text.to_owned(),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn generic(said: String) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: said.into() }
}

fn first_words(said: &str) -> String {
    said.chars().take(300).collect()
}

impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.as_ref().is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        let keys = [
            ("endpoint", self.endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned())),
            ("region", self.region.clone()),
            ("path_style", self.path_style.map(|style| style.to_string())),
        ];
        let given = keys.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
        for ((key, value), separator) in given.zip(['?', '&', '&']) {
            write!(f, "{separator}{key}={value}")?;
        }
        Ok(())
    }
}

/// Without the secret.
impl fmt::Debug for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Url({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StorageUrl;

    fn s3(text: &str) -> S3Url {
        match StorageUrl::parse(text) {
            Ok(StorageUrl::S3(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn payloads_are_unsigned_over_tls_and_loopback_only() {
        for (text, unsigned) in [
            ("s3://bucket", true),
            ("s3://bucket?endpoint=https://s3.example.org", true),
            ("s3://bucket?endpoint=http://127.0.0.1:9000", true),
            ("s3://bucket?endpoint=http://localhost:9000", true),
            ("s3://bucket?endpoint=http://[::1]:9000", true),
            ("s3://bucket?endpoint=http://10.0.0.7:9000", false),
            ("s3://bucket?endpoint=http://minio:9000", false),
        ] {
            assert_eq!(s3(text).is_unsigned(), unsigned, "{text}");
        }
    }

    #[test]
    fn the_bucket_is_in_the_path_of_other_services_unless_asked_otherwise() {
        let endpoint_of = |text: &str| {
            let url = s3(text);
            url.endpoint.as_ref().map(|endpoint| url.client_endpoint(endpoint))
        };
        assert!(!s3("s3://bucket").is_path_style());
        assert_eq!(endpoint_of("s3://bkt?endpoint=http://x:9000").as_deref(), Some("http://x:9000"));
        assert_eq!(
            endpoint_of("s3://bkt?endpoint=https://x.org&path_style=false").as_deref(),
            Some("https://bkt.x.org")
        );
    }

    #[test]
    fn clients_are_built_without_asking_anybody() {
        for text in
            ["s3://bucket?region=eu-central-1", "s3://bucket/p?endpoint=http://127.0.0.1:1&path_style=true"]
        {
            let url = s3(text).with_static_credentials("id", "secret");
            let shown = format!("{} {:?}", url.data_store().expect(text), url.log_store().expect(text));
            assert!(shown.contains("bucket") && !shown.contains("\"secret\""), "{shown}");
        }
    }
}
