//! The tidelog.v1 gRPC contract, generated, with its conversions and error details
