//! The metadata log kept in an object store or a local directory
