//! Syncing to the disk, and what happens when that fails.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use object_store::{Error, Result};

use super::{STORE, failed};

/// What is done when a sync fails; it is given the message. Production ends the process.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Says why on stderr and ends the process at once, without unwinding: no code may run that could still acknowledge.
pub fn end_process(message: &str) {
    tracing::error!(message, event = "fsync_failed");
    eprintln!("tidelog: {message}");
    std::process::abort();
}

/// Makes a file or directory durable. A seam, so that tests can fail it and see its order.
pub(super) trait Syncs: Send + Sync + fmt::Debug {
    fn sync(&self, path: &Path, file: &File) -> io::Result<()>;

    /// The same for all files and directories of the file system that `directory` is on.
    fn sync_all(&self, path: &Path, directory: &File) -> io::Result<()>;
}

/// fsync.
#[derive(Debug)]
pub(super) struct RealSync;

impl Syncs for RealSync {
    fn sync(&self, _path: &Path, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    #[cfg(target_os = "linux")]
    fn sync_all(&self, _path: &Path, directory: &File) -> io::Result<()> {
        Ok(rustix::fs::syncfs(directory)?)
    }

    /// Other systems have no such call that tells errors. Files were synced before they got their names, and their
    /// directories are synced one by one.
    #[cfg(not(target_os = "linux"))]
    fn sync_all(&self, _path: &Path, _directory: &File) -> io::Result<()> {
        Ok(())
    }
}

/// A disk whose first failed sync is its last operation.
pub(super) struct Disk {
    syncs: Box<dyn Syncs>,
    fatal: Fatal,
    failed: AtomicBool,
}

impl Disk {
    pub(super) fn new(syncs: Box<dyn Syncs>, fatal: Fatal) -> Self {
        Self { syncs, fatal, failed: AtomicBool::new(false) }
    }

    /// Fails if a sync has failed: only seen where the end of the process was replaced.
    pub(super) fn check(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Generic { store: STORE, source: "closed after a failed fsync".into() });
        }
        Ok(())
    }

    pub(super) fn sync(&self, path: &Path, file: &File) -> Result<()> {
        self.check()?;
        self.judge(path, self.syncs.sync(path, file))
    }

    /// The end of the process if a sync failed.
    fn judge(&self, path: &Path, synced: io::Result<()>) -> Result<()> {
        let Err(source) = synced else { return Ok(()) };
        self.failed.store(true, Ordering::Release);
        (self.fatal)(&format!(
            "fsync of {} failed: {source}; what was written may be lost, so the process ends here. \
             Check the disk, then start again",
            path.display()
        ));
        Err(failed("sync", path, source))
    }

    /// Makes the entries of a directory durable. On systems that cannot sync a directory this does nothing.
    pub(super) fn sync_directory(&self, path: &Path) -> Result<()> {
        if !cfg!(unix) {
            return Ok(());
        }
        let directory = File::open(path).map_err(|source| failed("open directory", path, source))?;
        self.sync(path, &directory)
    }

    /// Makes everything below a directory durable.
    pub(super) fn sync_tree(&self, path: &Path) -> Result<()> {
        self.check()?;
        let directory = File::open(path).map_err(|source| failed("open directory", path, source))?;
        self.judge(path, self.syncs.sync_all(path, &directory))
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("syncs", &self.syncs)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
