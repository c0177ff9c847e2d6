//! Seeded simulation of the metadata protocol under faults
