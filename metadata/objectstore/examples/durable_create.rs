//! What a durable create costs on this machine's disk, and what a boot over many files costs.
//!
//! ```text
//! cargo run -p tidelog-metadata-objectstore --example durable_create -- [DIRECTORY] [FILES]
//! ```
//!
//! Compares [`DurableLocal`] with object_store's own `LocalFileSystem` with fsync on and off. `DIRECTORY` (default: the
//! system's temporary one, which may be memory) should be on the disk that is meant; `FILES` (default 10000) is how many
//! a boot finds.

use std::error::Error;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode};
use tidelog_metadata_objectstore::DurableLocal;
use tokio::time::Instant;

/// Creates measured per row.
const CREATES: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let files = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let root = tempfile::tempdir_in(parent)?;

    println!(
        "{:<28} {:>9} {:>11} {:>9} {:>9} {:>9}",
        "store", "bytes", "in flight", "p50 ms", "p99 ms", "per s"
    );
    for (bytes, in_flight) in [(1024, 1), (1024, 8), (1 << 20, 1), (1 << 20, 4)] {
        for (name, store) in stores(root.path(), &format!("{bytes}-{in_flight}"))? {
            let row = measure(store, bytes, in_flight).await?;
            println!("{name:<28} {bytes:>9} {in_flight:>11} {row}");
        }
    }
    boot(&root.path().join("boot"), files).await
}

type Named = (&'static str, Arc<dyn ObjectStore>);

fn stores(root: &FilePath, row: &str) -> Result<[Named; 3], Box<dyn Error>> {
    let directory = |name: &str| {
        let path = root.join(name).join(row);
        std::fs::create_dir_all(&path).map(|()| path)
    };
    let plain = LocalFileSystem::new_with_prefix(directory("plain")?)?;
    let synced = LocalFileSystem::new_with_prefix(directory("synced")?)?.with_fsync(true);
    Ok([
        ("DurableLocal", Arc::new(DurableLocal::open(directory("durable")?)?)),
        ("LocalFileSystem, fsync", Arc::new(synced)),
        ("LocalFileSystem, no fsync", Arc::new(plain)),
    ])
}

async fn measure(
    store: Arc<dyn ObjectStore>,
    bytes: usize,
    in_flight: usize,
) -> Result<String, Box<dyn Error>> {
    let payload = bytes::Bytes::from(vec![7; bytes]);
    let create = async |n: usize| {
        let started = Instant::now();
        let key = Path::from(format!("wal/{n:020}"));
        store.put_opts(&key, payload.clone().into(), PutMode::Create.into()).await.map(|_| started.elapsed())
    };
    create(usize::MAX).await?;
    let started = Instant::now();
    let took: Vec<_> =
        futures::stream::iter(0..CREATES).map(create).buffer_unordered(in_flight).collect().await;
    let per_s = CREATES as f64 / started.elapsed().as_secs_f64();
    let mut took = took.into_iter().collect::<Result<Vec<Duration>, _>>()?;
    took.sort();
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    Ok(format!("{:>9.2} {:>9.2} {per_s:>9.0}", ms(took[CREATES / 2]), ms(took[CREATES * 99 / 100])))
}

/// Fills a directory without syncing and opens it, twice: what is dirty, and what is durable already.
async fn boot(directory: &FilePath, files: usize) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(directory)?;
    let plain = LocalFileSystem::new_with_prefix(directory)?;
    for n in 0..files {
        let key = Path::from(format!("wal/{n:020}"));
        plain.put_opts(&key, vec![7; 1024].into(), PutMode::Create.into()).await?;
    }
    for state in ["not synced", "durable already"] {
        let started = Instant::now();
        drop(DurableLocal::open(directory)?);
        println!("open with {files} files, {state}: {:.2} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}
