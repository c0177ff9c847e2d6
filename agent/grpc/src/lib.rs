//! The gRPC front end of an agent: `tidelog.v1`, health and reflection over HTTP/2.
//!
//! It translates: requests are checked and handed to `tidelog-agent`, results and errors are put into the contract's words. What a call
//! means is decided there, how a connection is treated here.
//!
//! Map: [`GrpcServer`] sockets and HTTP/2 · `producer`, `consumer`, `group`, `admin` the services · `admission` bytes are reserved before they are
//! read · `fetched` answers of bounded size · `connections` how many one address may have · `age` how old they become · [`gather`] few system calls for many frames ·
//! `timed` calls are counted · `error` the errors.

mod admin;
mod admission;
mod age;
mod connections;
mod consumer;
mod entries;
mod error;
mod fetched;
pub mod gather;
mod group;
mod producer;
mod server;
mod timed;

pub use server::{GrpcServer, ServerError};
