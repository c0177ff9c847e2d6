//! The gRPC front end of an agent
