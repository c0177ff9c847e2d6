//! The generated protobuf messages of rows at rest, package `tidelog.meta.v1`.

#![allow(missing_docs, clippy::all, reason = "generated; the .proto files carry the documentation")]

include!(concat!(env!("OUT_DIR"), "/tidelog.meta.v1.rs"));
