//! The agent on memory stores, under virtual time.

mod faults;
mod fetch;
mod groups;
mod harness;
mod limits;
mod order;
mod produce;
