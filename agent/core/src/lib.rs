//! The serving process: produce, fetch, cache, administration. No protocol: front ends are crates of their own.
//!
//! An [`Agent`] is a handle, cheap to clone; [`AgentTasks`] is what has to run behind it. It is stateless: what it
//! acknowledged lies in the object store and in the metadata log, and whatever else it holds is a cache or a buffer.
//!
//! It is not the metadata (`tidelog-metadata-node`), which it is given as a handle, and it chooses no stores.
//!
//! Map: [`agent`] the handle · [`produce`] appending · [`fetch`] reading · `cache` slices in memory · [`admin`] topics,
//! log starts, producer ids · [`groups`] consumer groups · [`cluster`] the agents · [`budget`] bytes that requests may occupy · [`metrics`] · [`settings`] · [`supervise`] the
//! background tasks · `batch` record batches as the agent looks at them.

pub mod admin;
pub mod agent;
mod batch;
pub mod budget;
mod cache;
pub mod cluster;
pub mod fetch;
pub mod groups;
pub mod metrics;
pub mod produce;
pub mod settings;
pub mod supervise;

pub use admin::{Admin, AdminError, ConfigEntry, PartitionInfo, TopicInfo, TopicRef};
pub use agent::{Agent, Components};
pub use budget::{Budget, Overloaded, Reservation};
pub use cluster::{AgentSeen, ClusterLink, ClusterView};
pub use fetch::{
    Delivery, FetchError, FetchPartition, FetchRequest, FetchResponse, FetchedBatch, FetchedPartition,
    FoundOffset, OffsetQuery, OffsetWanted, Progress, StartAt, SubscribePartition, Subscription,
};
pub use groups::Groups;
pub use metrics::{MeteredLog, MeteredStore, Metrics};
pub use produce::{
    Payload, ProduceAck, ProduceBatch, ProduceError, ProduceRequest, ProduceResult, ProduceSession,
    ProduceTicket,
};
pub use settings::{FetchLimits, Settings};
pub use supervise::{AgentTasks, TaskError};
