//! A running service and what tests want of it.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::process::{Process, Run, last_lines};
use crate::wire::{Answer, Request};
use crate::{Mode, REGION, ServiceError, native};

/// A port that was free may be taken when the service binds it; then the service ends at once and is started anew.
const ATTEMPTS: usize = 3;

/// How often a starting service is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// A real service that tests can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// MinIO: S3.
    Minio,
    /// Amazon's DynamoDB Local: DynamoDB.
    DynamoDbLocal,
    /// LocalStack: S3 and DynamoDB in one.
    LocalStack,
    /// SeaweedFS: a second S3, to show that we are tied to none. Races for one key take seconds there.
    SeaweedFs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Minio, Self::DynamoDbLocal, Self::LocalStack, Self::SeaweedFs];

    /// The name used on command lines, in file names and by `install.sh`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minio => "minio",
            Self::DynamoDbLocal => "dynamodb",
            Self::LocalStack => "localstack",
            Self::SeaweedFs => "seaweedfs",
        }
    }

    /// The inverse of [`Kind::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it speaks S3.
    pub fn has_s3(self) -> bool {
        self != Self::DynamoDbLocal
    }

    /// Whether it speaks DynamoDB.
    pub fn has_dynamodb(self) -> bool {
        matches!(self, Self::DynamoDbLocal | Self::LocalStack)
    }

    /// From the start of the process to the first right answer, on a busy machine of two cores.
    fn ready_within(self) -> Duration {
        match self {
            Self::Minio | Self::DynamoDbLocal | Self::SeaweedFs => Duration::from_secs(90),
            Self::LocalStack => Duration::from_secs(180),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A running service on a free port of 127.0.0.1. Dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Service {
    kind: Kind,
    authority: String,
    process: Process,
}

impl Service {
    /// Starts a service of one's own and waits until it answers. Installs it first if need be, which can take minutes.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn start(kind: Kind) -> Result<Self, ServiceError> {
        match Mode::from_env()? {
            Mode::None => Err(ServiceError::SwitchedOff { kind }),
            Mode::Native => Self::start_native(kind).await,
            Mode::Containers => Self::start_container(kind).await,
            Mode::Auto if Self::container_is_at_hand(kind).await => Self::start_container(kind).await,
            Mode::Auto => Self::start_native(kind).await,
        }
    }

    #[cfg(feature = "containers")]
    async fn container_is_at_hand(kind: Kind) -> bool {
        tokio::task::spawn_blocking(move || crate::containers::is_at_hand(kind)).await.unwrap_or(false)
    }

    #[cfg(not(feature = "containers"))]
    async fn container_is_at_hand(_kind: Kind) -> bool {
        false
    }

    #[cfg(feature = "containers")]
    async fn start_container(kind: Kind) -> Result<Self, ServiceError> {
        let (process, port) = crate::containers::start(kind).await?;
        let mut service = Self { kind, authority: format!("127.0.0.1:{port}"), process };
        service.ready().await?;
        Ok(service)
    }

    #[cfg(not(feature = "containers"))]
    async fn start_container(kind: Kind) -> Result<Self, ServiceError> {
        let reason = "build with `--features tidelog-test-services/containers`".to_owned();
        Err(ServiceError::Container { kind, reason })
    }

    /// The service that all tests of this process share; the first caller starts it. It ends with the process.
    ///
    /// # Errors
    /// See [`ServiceError`]; the next caller tries again.
    pub async fn shared(kind: Kind) -> Result<&'static Self, ServiceError> {
        static SHARED: [OnceCell<Service>; 4] = [const { OnceCell::const_new() }; 4];
        SHARED[kind as usize].get_or_try_init(|| Self::start(kind)).await
    }

    async fn start_native(kind: Kind) -> Result<Self, ServiceError> {
        let installed = tokio::task::spawn_blocking(move || native::install(kind))
            .await
            .map_err(|panic| ServiceError::Install { kind, last_lines: panic.to_string() })??;
        let mut attempt = 1;
        loop {
            let failed = |action: &str, log: &Path, source| ServiceError::Start {
                kind,
                action: action.to_owned(),
                log: log.to_owned(),
                source,
            };
            let run = Run::create(kind)
                .map_err(|error| failed("making its folder", &crate::process::services_dir(), error))?;
            let (launch, port) = native::launch(kind, &installed, &run.work)
                .map_err(|error| failed("finding a port", &run.log, error))?;
            let process =
                Process::spawn(&run, &launch).map_err(|error| failed("running run.sh", &run.log, error))?;
            let mut service = Self { kind, authority: format!("127.0.0.1:{port}"), process };
            match service.ready().await {
                Err(ServiceError::Ended { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(service),
            }
        }
    }

    /// Waits for right answers on each of its interfaces.
    async fn ready(&mut self) -> Result<(), ServiceError> {
        let deadline = Instant::now() + self.kind.ready_within();
        loop {
            let answer = self.probe().await;
            if self.process.has_ended() {
                let log = self.process.log().to_owned();
                return Err(ServiceError::Ended { kind: self.kind, last_lines: last_lines(&log), log });
            }
            let Err(last_answer) = answer else { return Ok(()) };
            if Instant::now() >= deadline {
                let log = self.process.log().to_owned();
                return Err(ServiceError::NotReady {
                    kind: self.kind,
                    seconds: self.kind.ready_within().as_secs(),
                    last_answer,
                    last_lines: last_lines(&log),
                    log,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn probe(&self) -> Result<(), String> {
        if self.kind.has_s3() {
            // A write: gateways list buckets before they can store a byte.
            expect_success(self.s3("PUT", "/ready-probe", &[], b"").await)?;
            expect_success(self.s3("PUT", "/ready-probe/object", &[], b"1").await)?;
            expect_success(self.s3("DELETE", "/ready-probe/object", &[], b"").await)?;
            expect_success(self.s3("DELETE", "/ready-probe", &[], b"").await)?;
        }
        if self.kind.has_dynamodb() {
            expect_success(self.dynamodb("ListTables", "{}").await)?;
        }
        Ok(())
    }

    /// Which service it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// `127.0.0.1:PORT`, for instance to put a proxy in front.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What the service says. The file outlives it by about a day.
    pub fn log_file(&self) -> &Path {
        self.process.log()
    }

    /// Makes a bucket that no other test of this process uses: the name given, plus a number.
    ///
    /// # Errors
    /// [`ServiceError::Refused`] for instance for a name that S3 does not allow, [`ServiceError::NoInterface`].
    pub async fn bucket(&self, name: &str) -> Result<String, ServiceError> {
        if !self.kind.has_s3() {
            return Err(ServiceError::NoInterface { kind: self.kind, interface: "S3" });
        }
        let bucket = unique(name);
        self.make_bucket(&bucket).await?;
        Ok(bucket)
    }

    /// Makes a bucket of exactly this name.
    ///
    /// # Errors
    /// As [`Service::bucket`].
    pub async fn make_bucket(&self, bucket: &str) -> Result<(), ServiceError> {
        expect_success(self.s3("PUT", &format!("/{bucket}"), &[], b"").await).map_err(|answer| {
            ServiceError::Refused {
                kind: self.kind,
                action: format!("make the bucket {bucket}"),
                answer,
                log: self.process.log().to_owned(),
            }
        })
    }

    /// A table name that no other test of this process uses. The table is not made: that is `tidelog init`'s work.
    pub fn table(&self, name: &str) -> String {
        unique(name)
    }

    /// A `--storage` URL for a bucket of this service. The prefix may be empty.
    pub fn storage_url(&self, bucket: &str, prefix: &str) -> String {
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!("s3://{bucket}{slash}{prefix}?endpoint={}&region={REGION}&path_style=true", self.endpoint())
    }

    /// A `--metadata` URL for a table of this service.
    pub fn metadata_url(&self, table: &str) -> String {
        format!("dynamodb://{table}?endpoint={}&region={REGION}", self.endpoint())
    }

    /// One signed S3 request; the path is `/bucket/key`.
    ///
    /// # Errors
    /// What [`Request::send`] returns.
    pub async fn s3(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        Request { service: "s3", method, path, headers, body }.send(&self.authority).await
    }

    /// One signed DynamoDB request, for instance `PutItem` with its JSON.
    ///
    /// # Errors
    /// What [`Request::send`] returns.
    pub async fn dynamodb(&self, operation: &str, json: &str) -> std::io::Result<Answer> {
        let target = format!("DynamoDB_20120810.{operation}");
        let headers = [("x-amz-target", target.as_str()), ("content-type", "application/x-amz-json-1.0")];
        Request { service: "dynamodb", method: "POST", path: "/", headers: &headers, body: json.as_bytes() }
            .send(&self.authority)
            .await
    }

    /// Stops the service, removes its data and returns when both are done. Dropping does the same, but blocks a thread
    /// of the runtime for it.
    pub async fn stop(self) {
        // A panic in there would be ours to see in the next line's absence; there is none to have.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn expect_success(answer: std::io::Result<Answer>) -> Result<(), String> {
    match answer {
        Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
        Ok(answer) => Err(answer.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
