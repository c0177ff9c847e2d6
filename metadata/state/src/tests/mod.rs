//! Tests of the crate as a whole; what concerns one module alone is tested beside it.
//!
//! Map: `groups` consumer groups · `bed` a log under test that checks coherence after each entry · `coherence` what holds in every state · `model`
//! an independent account of offsets and producers · `steps` random histories · the others are tests by subject.

pub(crate) mod bed;
mod coherence;
pub(crate) mod coherence_groups;
pub(crate) mod damaged;
mod entries;
mod groups;
mod histories;
mod model;
mod producers;
mod proposals;
mod protocol;
mod records;
mod snapshots;
mod steps;
mod topics;
