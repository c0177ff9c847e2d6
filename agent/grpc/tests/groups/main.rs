//! Consumer groups over gRPC: a server on loopback, an agent on memory stores, and the generated client.

mod bed;
mod session;
mod unary;
