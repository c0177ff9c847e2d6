//! The cluster's knowledge as a pure, deterministic state machine
