//! The metadata log kept in a DynamoDB table.
//!
//! A place is an item of its own: hash key `place` (text `<shard>/<epoch>/<seq>`), attribute `entry` (bytes). There is
//! no sort key, so that the table spreads a hot log over its partitions by itself, and no index. Nothing but a
//! conditional put creates an item and nothing updates one.
//!
//! It is the one crate with the AWS SDK, which takes long to build; nothing of it appears in a signature.
//!
//! Map: [`DynamoDbUrl`] where the table is · [`DynamoDbLog`] the log (`log`, with `batch` for its reads) · `table`
//! creating and probing it · `failure` what an error means.

mod batch;
mod failure;
mod log;
mod table;
mod url;

pub use log::{ConnectError, DynamoDbLog};
pub use table::CreateTableError;
pub use url::{DynamoDbUrl, UrlError};
