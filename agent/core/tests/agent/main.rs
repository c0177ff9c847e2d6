//! The agent on memory stores, under virtual time.

mod faults;
mod harness;
mod produce;
