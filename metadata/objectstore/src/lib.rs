//! The metadata log kept in an object store or a local directory, and what is needed to trust such a store.
//!
//! It is not an object store client: that is the `object_store` crate, whose trait goes through all of Tidelog. Here is
//! what Tidelog demands of a store beyond that trait.
//!
//! Map: [`ObjectStoreLog`] the metadata log, one object per place · [`DurableLocal`] a local directory that is durable
//! when it answers; in the embedded mode it carries segments and metadata alike · [`StorageUrl`] and [`S3Url`] from a URL
//! to stores with the right settings · [`probe`] whether a store keeps what Tidelog relies on.

mod local;
mod log;
pub mod probe;
mod s3;
mod url;

pub use local::{DurableLocal, Fatal, LocalError, end_process};
pub use log::ObjectStoreLog;
pub use s3::S3Url;
pub use url::{OpenError, StorageUrl, Stores, UrlError};
