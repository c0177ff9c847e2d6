//! The generated protobuf messages of package `tidelog.segment.v1`.

#![allow(missing_docs, clippy::all, reason = "generated; the .proto file carries the documentation")]

include!(concat!(env!("OUT_DIR"), "/tidelog.segment.v1.rs"));
