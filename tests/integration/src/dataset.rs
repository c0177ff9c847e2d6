//! Real data: two sets of the npm package `vega-datasets` (BSD-3-Clause), fetched once by `tests/datasets.sh`.

use std::path::PathBuf;

/// Where the data lies: `TIDELOG_DATASETS`, or `target/datasets`.
fn directory() -> PathBuf {
    std::env::var_os("TIDELOG_DATASETS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/datasets"),
        PathBuf::from,
    )
}

/// The lines of a set, one record a row, each ended by a newline.
pub fn lines(name: &str) -> Vec<u8> {
    let path = directory().join(name);
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; fetch it with `tests/datasets.sh`", path.display());
    })
}
