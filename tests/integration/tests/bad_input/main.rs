//! Bad input against the real binary: whatever is sent, there is no panic, no memory beyond a bound, no effect on other connections,
//! and an error that names what is wrong.
//!
//! Map: `bed` a server, and whether it is still well · `frames` HTTP/2 by hand · `calls` gRPC calls that no stub would make ·
//! `stand_in` an object store with faults · then the surfaces: `requests` fields of gRPC requests, `batches` record batches, `memory` sizes
//! and bombs, `http2` connections, `stored` and `items` damaged bytes at rest, `config` settings, `stores` services that are not there or
//! break promises, `secrets` credentials, `cli` client commands.

mod batches;
mod bed;
mod calls;
mod cli;
mod config;
mod frames;
mod http2;
mod items;
mod memory;
mod requests;
mod secrets;
mod stand_in;
mod stored;
mod stores;
