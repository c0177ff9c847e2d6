//! Creating the table (`tidelog init`) and probing it (`init`, `doctor`, start of an agent).

use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription,
    TableStatus, TimeToLiveStatus,
};
use bytes::Bytes;
use futures::future::join_all;
use tidelog_metadata_log::env::Entropy;
use tidelog_metadata_log::{Check, Finding};
use tokio::time::{Instant, sleep};

use crate::DynamoDbLog;
use crate::failure::Failure;
use crate::log::PLACE;

/// A table takes seconds to become active; an account's limits may hold it up longer, and then somebody wants to know.
const ACTIVE_WITHIN: Duration = Duration::from_secs(120);
const ACTIVE_POLL: Duration = Duration::from_millis(500);
/// Writers of the probe's race.
const RACERS: usize = 16;

const CREATE_IT: &str =
    "run `tidelog init` with this --metadata URL, or correct the table's name, region or endpoint";
const CHECK_ACCESS: &str = "check endpoint, region and credentials (AWS_ACCESS_KEY_ID, profile or role), and that the role \
     may do GetItem, BatchGetItem, PutItem and DeleteItem on the table";
const WRONG_TABLE: &str =
    "choose another table name: this table serves something else, its only key must be `place` of type S";
const NOT_A_LOG: &str =
    "use DynamoDB itself or DynamoDB Local: this service does not keep conditional puts atomic";

/// Why a table could not be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateTableError {
    /// The service said no.
    #[error("cannot create {table}: {cause}")]
    Refused {
        /// The table's URL.
        table: String,
        /// What the service said.
        cause: String,
    },
    /// A table of that name is there for something else.
    #[error("table {table} exists and is no metadata log: {found}; {WRONG_TABLE}")]
    OtherSchema {
        /// The table's URL.
        table: String,
        /// Its keys.
        found: String,
    },
    /// It was created, or found in creation, and is not ready.
    #[error("table {table} is not active after {} s, but {status}", ACTIVE_WITHIN.as_secs())]
    NotActive {
        /// The table's URL.
        table: String,
        /// Its last status.
        status: String,
    },
}

impl DynamoDbLog {
    /// Creates the table, billed on demand, and waits until it is active. One that is there already is taken if it has
    /// the right keys: then this returns `false`.
    pub async fn create_table(&self) -> Result<bool, CreateTableError> {
        let created = match self.describe_table().await {
            Ok(_) => false,
            Err(failure) if failure.is("ResourceNotFoundException") => self.send_create().await?,
            Err(failure) => return Err(self.refused(failure)),
        };
        let deadline = Instant::now() + ACTIVE_WITHIN;
        loop {
            let status = match self.describe_table().await {
                Ok(table) => {
                    if let Some(found) = schema_problem(&table) {
                        return Err(CreateTableError::OtherSchema { table: self.url.to_string(), found });
                    }
                    if table.table_status == Some(TableStatus::Active) {
                        return Ok(created);
                    }
                    table.table_status.map_or("without a status".to_owned(), |status| status.to_string())
                }
                // For a moment after its creation a table may not be found.
                Err(failure) if failure.retryable || failure.is("ResourceNotFoundException") => failure.text,
                Err(failure) => return Err(self.refused(failure)),
            };
            if Instant::now() > deadline {
                return Err(CreateTableError::NotActive { table: self.url.to_string(), status });
            }
            sleep(ACTIVE_POLL).await;
        }
    }

    /// Sends the creation; `false` if somebody else was faster.
    async fn send_create(&self) -> Result<bool, CreateTableError> {
        let refused =
            |error: aws_sdk_dynamodb::error::BuildError| self.refused(Failure::new(error.to_string(), false));
        let key = KeySchemaElement::builder().attribute_name(PLACE).key_type(KeyType::Hash).build();
        let attribute = AttributeDefinition::builder()
            .attribute_name(PLACE)
            .attribute_type(ScalarAttributeType::S)
            .build();
        let sent = self
            .client
            .create_table()
            .table_name(&self.url.table)
            .key_schema(key.map_err(refused)?)
            .attribute_definitions(attribute.map_err(refused)?)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await;
        match sent.map_err(Failure::from) {
            Ok(_) => Ok(true),
            Err(failure) if failure.is("ResourceInUseException") => Ok(false),
            Err(failure) => Err(self.refused(failure)),
        }
    }

    /// Looks whether the table can be used, with no more than an agent's permissions; writes nothing.
    ///
    /// For the start of an agent. [`DynamoDbLog::probe`] asks more.
    pub async fn probe_access(&self) -> Finding {
        match self.get("probe").await {
            Ok(_) => Finding::good(Check::Reachable, format!("{} answers", self.url)),
            Err(failure) if failure.is("ResourceNotFoundException") => {
                Finding::bad(Check::Reachable, format!("{}: {}", self.url, failure.text), CREATE_IT)
            }
            // "The provided key element does not match the schema."
            Err(failure) if failure.is("ValidationException") => {
                Finding::bad(Check::TableSchema, format!("{}: {}", self.url, failure.text), WRONG_TABLE)
            }
            Err(failure) => {
                Finding::bad(Check::Reachable, format!("{}: {}", self.url, failure.text), CHECK_ACCESS)
            }
        }
    }

    /// All that can be found out: access, schema, settings, conditional puts under a race, reads after writes, deletion.
    ///
    /// Writes some items under keys that are no places and deletes them.
    pub async fn probe(&self, entropy: &Entropy) -> Vec<Finding> {
        let access = self.probe_access().await;
        if access.verdict == tidelog_metadata_log::Verdict::Bad {
            return vec![access];
        }
        let mut findings = vec![access, self.probe_schema().await, self.probe_settings().await];
        findings.extend(self.probe_puts(entropy).await);
        findings
    }

    async fn probe_schema(&self) -> Finding {
        match self.describe_table().await {
            Ok(table) => match schema_problem(&table) {
                None => Finding::good(Check::TableSchema, "one key, `place` of type S"),
                Some(problem) => Finding::bad(Check::TableSchema, problem, WRONG_TABLE),
            },
            Err(failure) => Finding::note(
                Check::TableSchema,
                failure.text,
                "right for an agent, which needs no DescribeTable; `tidelog init` does",
            ),
        }
    }

    async fn probe_settings(&self) -> Finding {
        let table = self.client.describe_time_to_live().table_name(&self.url.table).send().await;
        let ttl = match table.map_err(Failure::from) {
            Ok(answer) => answer.time_to_live_description.and_then(|ttl| ttl.time_to_live_status),
            Err(failure) => {
                return Finding::note(
                    Check::TableSettings,
                    failure.text,
                    "make sure that the table has no time to live and is no global table",
                );
            }
        };
        if matches!(ttl, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
            return Finding::bad(
                Check::TableSettings,
                "time to live is on, which deletes entries",
                "switch time to live off: only the log's own truncation may remove entries",
            );
        }
        match self.describe_table().await {
            Ok(table) if !table.replicas().is_empty() => Finding::bad(
                Check::TableSettings,
                "it is a global table, whose regions overwrite each other",
                "use a table in one region",
            ),
            Ok(_) => Finding::good(Check::TableSettings, "no time to live, one region"),
            Err(failure) => Finding::note(
                Check::TableSettings,
                failure.text,
                "make sure that the table is no global table",
            ),
        }
    }

    async fn probe_puts(&self, entropy: &Entropy) -> Vec<Finding> {
        let key = format!("probe/{}", entropy.uuid());
        let result = self.race_for(&key).await;
        let deletion = match self.delete(&key).await {
            Ok(()) => Finding::good(Check::Delete, "allowed"),
            Err(failure) => Finding::note(
                Check::Delete,
                failure.text,
                "allow DeleteItem, which truncation needs: without it the table grows for good",
            ),
        };
        vec![result, deletion]
    }

    async fn race_for(&self, key: &str) -> Finding {
        let bytes_of = |racer: usize| Bytes::from(format!("racer {racer}"));
        let puts = join_all((0..RACERS).map(|racer| self.put(key, bytes_of(racer)))).await;
        let stored = match self.get(key).await {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                return Finding::bad(Check::ReadAfterWrite, "what was put was not found", NOT_A_LOG);
            }
            Err(failure) => return Finding::bad(Check::CreateRace, failure.text, CHECK_ACCESS),
        };
        let mut winners = 0;
        for (racer, put) in puts.into_iter().enumerate() {
            let told = match put {
                Ok(None) => {
                    winners += 1;
                    bytes_of(racer)
                }
                Ok(Some(existing)) => existing,
                Err(failure) if failure.retryable => continue,
                Err(failure) => return Finding::bad(Check::CreateRace, failure.text, CHECK_ACCESS),
            };
            if told != stored {
                return Finding::bad(
                    Check::CreateRace,
                    format!("writers of one place were told {told:?} and {stored:?}"),
                    NOT_A_LOG,
                );
            }
        }
        if winners > 1 {
            return Finding::bad(Check::CreateRace, format!("{winners} of {RACERS} writers won"), NOT_A_LOG);
        }
        Finding::good(Check::CreateRace, format!("one of {RACERS} writers won, the others saw its bytes"))
    }

    async fn describe_table(&self) -> Result<TableDescription, Failure> {
        let answer = self.client.describe_table().table_name(&self.url.table).send().await?;
        answer.table.ok_or_else(|| Failure::new("the service described no table", true))
    }

    fn refused(&self, failure: Failure) -> CreateTableError {
        CreateTableError::Refused { table: self.url.to_string(), cause: failure.text }
    }
}

/// What is wrong with the table's keys.
fn schema_problem(table: &TableDescription) -> Option<String> {
    let types = table.attribute_definitions();
    let keys: Vec<_> = table
        .key_schema()
        .iter()
        .map(|key| {
            let kind = types.iter().find(|a| a.attribute_name == key.attribute_name);
            (key.attribute_name.as_str(), key.key_type.clone(), kind.map(|a| a.attribute_type.clone()))
        })
        .collect();
    match keys.as_slice() {
        [(PLACE, KeyType::Hash, Some(ScalarAttributeType::S))] => None,
        _ => Some(format!("its keys are {keys:?}")),
    }
}
