//! The agent on memory stores, under virtual time.

mod faults;
mod fetch;
mod harness;
mod limits;
mod order;
mod produce;
