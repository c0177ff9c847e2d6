//! The serving process: produce, fetch, cache; no protocol
