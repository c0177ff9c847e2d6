//! The log itself: conditional puts, consistent reads.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Credentials;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use futures::StreamExt;
use tidelog_metadata_log::{Append, LogError, MetadataLog, check_entry_length};
use tidelog_types::{LogEpoch, LogSeq, Place, ShardId};

use crate::DynamoDbUrl;
use crate::failure::Failure;

/// The hash key.
pub(crate) const PLACE: &str = "place";
/// The attribute that holds the bytes.
const ENTRY: &str = "entry";

/// Longest entry. An item may have 400 KB; a put costs a write unit per KiB, and 100 of these fit into one answer.
const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// Time for one request, connecting included.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(3);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// Deletions in flight. Truncation has time, the log's own puts have not.
const DELETES_IN_FLIGHT: usize = 8;
/// Deletions may be repeated at will, so a throttled one is.
const DELETE_TRIES_MAX: u32 = 4;
const DELETE_PAUSE: Duration = Duration::from_millis(50);

/// A [`MetadataLog`] in a DynamoDB table; cheap to clone.
#[derive(Debug, Clone)]
pub struct DynamoDbLog {
    pub(crate) client: Client,
    pub(crate) url: DynamoDbUrl,
}

/// Why there is no client for a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Neither the URL nor the surroundings name a region, and a request is signed for one.
    #[error("no region for {url}; add region=… to the URL or set AWS_REGION")]
    NoRegion {
        /// The URL as given.
        url: String,
    },
}

impl DynamoDbLog {
    /// Prepares a client; sends nothing to the table yet.
    ///
    /// Credentials come from the AWS provider chain: environment, profile files, web identity, container, instance.
    pub async fn connect(url: &DynamoDbUrl) -> Result<Self, ConnectError> {
        let tls = Provider::rustls(CryptoMode::Ring);
        let time_outs = TimeoutConfig::builder()
            .operation_timeout(REQUEST_TIME_MAX)
            .connect_timeout(CONNECT_TIME_MAX)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().tls_provider(tls).build_https())
            .timeout_config(time_outs)
            // A put repeated by the SDK after its first try took effect would be told "condition failed".
            .retry_config(RetryConfig::disabled());
        if let Some(endpoint) = &url.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(region) = &url.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some((id, secret)) = &url.credentials {
            loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "given"));
        }
        let config = loader.load().await;
        if config.region().is_none() {
            return Err(ConnectError::NoRegion { url: url.to_string() });
        }
        Ok(Self { client: Client::new(&config), url: url.clone() })
    }

    /// One item, strongly consistent.
    pub(crate) async fn get(&self, place: &str) -> Result<Option<Bytes>, Failure> {
        let found = self
            .client
            .get_item()
            .table_name(&self.url.table)
            .key(PLACE, AttributeValue::S(place.to_owned()))
            .consistent_read(true)
            .send()
            .await?;
        found.item.map(entry_of).transpose()
    }

    /// Puts an item if there is none: `None` if that took effect, else the bytes that are there.
    pub(crate) async fn put(&self, place: &str, bytes: Bytes) -> Result<Option<Bytes>, Failure> {
        let put = self
            .client
            .put_item()
            .table_name(&self.url.table)
            .item(PLACE, AttributeValue::S(place.to_owned()))
            .item(ENTRY, AttributeValue::B(Blob::new(bytes)))
            .condition_expression("attribute_not_exists(#place)")
            .expression_attribute_names("#place", PLACE)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let existing = match put {
            Ok(_) => return Ok(None),
            Err(SdkError::ServiceError(refused)) => match refused.into_err() {
                PutItemError::ConditionalCheckFailedException(refused) => refused.item,
                other => return Err(SdkError::service_error(other, ()).into()),
            },
            Err(error) => return Err(error.into()),
        };
        match existing {
            Some(item) => entry_of(item).map(Some),
            // A compatible service that does not hand over the item: then it is fetched.
            None => match self.get(place).await? {
                Some(bytes) => Ok(Some(bytes)),
                None => Err(Failure::new("refused as existing, then not found", true)),
            },
        }
    }

    /// Deletes one item; an absent one is no error.
    pub(crate) async fn delete(&self, place: &str) -> Result<(), Failure> {
        let mut attempt = 1;
        loop {
            let deletion = self
                .client
                .delete_item()
                .table_name(&self.url.table)
                .key(PLACE, AttributeValue::S(place.to_owned()));
            match deletion.send().await.map_err(Failure::from) {
                Ok(_) => return Ok(()),
                Err(failure) if failure.retryable && attempt < DELETE_TRIES_MAX => {
                    tokio::time::sleep(DELETE_PAUSE * 2_u32.pow(attempt)).await;
                    attempt += 1;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    pub(crate) fn error(&self, operation: &'static str, place: &str, failure: Failure) -> LogError {
        LogError {
            operation,
            target: format!("{}, place {place}", self.url),
            cause: failure.text,
            retryable: failure.retryable,
        }
    }
}

/// The hash key of a place. The width is for people who look at the table; equality is all that counts.
pub(crate) fn key_of(shard: ShardId, place: Place) -> String {
    format!("{}/{:010}/{:010}", shard.0, place.epoch.0, place.seq.0)
}

/// The bytes of an item.
pub(crate) fn entry_of(mut item: HashMap<String, AttributeValue>) -> Result<Bytes, Failure> {
    match item.remove(ENTRY) {
        Some(AttributeValue::B(blob)) if (1..=ENTRY_BYTES_MAX).contains(&blob.as_ref().len()) => {
            Ok(blob.into_inner().into())
        }
        Some(AttributeValue::B(blob)) => {
            let length = blob.as_ref().len();
            Err(Failure::new(
                format!("attribute `{ENTRY}` is {length} bytes long, entries are 1 to {ENTRY_BYTES_MAX}"),
                false,
            ))
        }
        _ => Err(Failure::new(format!("the item has no attribute `{ENTRY}` of type B"), false)),
    }
}

#[async_trait]
impl MetadataLog for DynamoDbLog {
    async fn append(&self, shard: ShardId, place: Place, bytes: Bytes) -> Append {
        let place = key_of(shard, place);
        if let Err(refused) = check_entry_length(&place, bytes.len(), ENTRY_BYTES_MAX) {
            return Append::Unknown(refused);
        }
        match self.put(&place, bytes).await {
            Ok(None) => Append::Appended,
            Ok(Some(existing)) => Append::Occupied(existing),
            Err(failure) => Append::Unknown(self.error("append", &place, failure)),
        }
    }

    async fn read(
        &self,
        shard: ShardId,
        epoch: LogEpoch,
        from: LogSeq,
        limit: usize,
    ) -> Result<Vec<Bytes>, LogError> {
        self.read_batches(shard, epoch, from, limit).await
    }

    async fn remove(&self, shard: ShardId, epoch: LogEpoch, seqs: &[LogSeq]) -> Result<(), LogError> {
        let places: Vec<_> = seqs.iter().map(|seq| key_of(shard, Place::new(epoch, *seq))).collect();
        let removals = places.into_iter().map(|place| async move {
            let removed = self.delete(&place).await;
            removed.map_err(|failure| self.error("remove", &place, failure))
        });
        // All are tried, so that a repeat has less to do; the first error is told.
        let mut running = futures::stream::iter(removals).buffer_unordered(DELETES_IN_FLIGHT);
        let mut result = Ok(());
        while let Some(removed) = running.next().await {
            result = result.and(removed);
        }
        result
    }

    fn entry_bytes_max(&self) -> usize {
        ENTRY_BYTES_MAX
    }

    fn describe(&self) -> String {
        self.url.to_string()
    }
}
