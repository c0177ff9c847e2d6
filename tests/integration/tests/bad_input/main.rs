//! Bad input against the real binary: whatever is sent, there is no panic, no memory beyond a bound, no effect on other connections,
//! and an error that names what is wrong.
//!
//! Map: `bed` a server, and whether it is still well · `frames` HTTP/2 by hand · `calls` gRPC calls that no stub would make ·
//! then the surfaces: `requests` fields of gRPC requests, `batches` record batches, `memory` sizes and bombs, `http2` connections, `stored`
//! damaged bytes at rest, `config` settings and stores, `cli` client commands.

mod batches;
mod bed;
mod calls;
mod cli;
mod config;
mod frames;
mod http2;
mod memory;
mod requests;
mod stored;
