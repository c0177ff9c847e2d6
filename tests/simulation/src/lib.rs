//! Seeded simulation of the metadata protocol under faults.
//!
//! Three nodes, their clients and their stores run in one thread, in virtual time, with every random decision drawn
//! from one seed: delayed, duplicated, repeated and lost requests and replies, torn reads, crashes, processes that
//! stand still past every time-out, clocks set wrong, truncation, outages. The nodes are the real ones of
//! `tidelog-metadata-node`; what is simulated are the seams that they take as parameters.
//!
//! To replay a seed, with every event printed:
//! ```text
//! TIDELOG_SIM_FIRST_SEED=17 TIDELOG_SIM_SEEDS=1 TIDELOG_SIM_TRACE=1 cargo test -p tidelog-simulation --test seeds -- --nocapture
//! ```
//! A failure names the invariant that broke, by its id in the list of invariants or by the rule of the design, and the
//! command that replays it. Nodes can be told to break a rule ([`tidelog_metadata_node::Mistake`]; to replay that, put
//! for instance `TIDELOG_SIM_MISTAKE=SkipSealCheck` before the command); the test `mistakes` shows that the simulation
//! finds each.
//!
//! It simulates `metadata/` alone: no records, no object bodies, no consumer groups.
//!
//! Map: [`run`] the script of a run · [`world`] what is shared · [`dice`] random decisions · [`faults`] what can go
//! wrong, how often · [`chaos`] what happens to nodes from outside · [`process`] a node's process · [`log`],
//! [`snapshots`], [`clock`], [`network`] the simulated seams · [`oracle`], [`offsets`] the truth · [`workload`], `produce` clients ·
//! [`history`] what they were told · [`checks`] nodes against the truth · [`trace`] the events.

pub mod chaos;
pub mod checks;
pub mod clock;
pub mod dice;
pub mod faults;
pub mod history;
pub mod log;
pub mod network;
pub mod offsets;
pub mod oracle;
pub mod process;
mod produce;
pub mod run;
pub mod snapshots;
pub mod trace;
pub mod workload;
pub mod world;

pub use run::{Failure, Options, Report, simulate};
