//! Taking possession of a directory: lock, fitness, leftovers, first sync.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::disk::Disk;

/// Held locked while a process uses the directory; holds its process id.
pub(super) const LOCK_FILE: &str = "tidelog.lock";

/// Why a directory cannot be used as a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// Another process, or another handle of this one, has it.
    #[error(
        "directory {} is in use by {}; stop it or choose another directory",
        path.display(),
        holder.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, as it wrote itself down.
        holder: Option<u32>,
    },
    /// The file system cannot create a file under a name only if the name is free.
    #[error(
        "the file system of directory {} is unfit: {problem}; choose one with hard links (ext4, xfs, btrfs, zfs, apfs, ntfs)",
        path.display()
    )]
    Unfit {
        /// The directory.
        path: PathBuf,
        /// What it did instead.
        problem: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
}

/// A directory that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    synced: BTreeSet<PathBuf>,
    /// The lock lives as long as this open file.
    _lock: File,
}

impl Directory {
    pub(super) fn open(path: &Path, disk: &Disk) -> Result<Self, LocalError> {
        fs::create_dir_all(path).map_err(io_error("create directory", path))?;
        let path = fs::canonicalize(path).map_err(io_error("resolve", path))?;
        let lock = take_lock(&path)?;
        check_fitness(&path)?;
        let mut directories = BTreeSet::new();
        remove_leftovers(&path, &mut directories)?;
        for directory in &directories {
            sync_directory(directory, disk)?;
        }
        // The files too: what lies here may come from a backup that somebody copied back a second ago. All in one call,
        // because an fsync of a file that is durable already still waits for the disk (2 ms a file were measured).
        disk.sync_tree(&path).map_err(sync_error(&path))?;
        // The directory itself may be new: its name must not be lost either. Its parent may belong to somebody else and
        // be unreadable; then it was there before us.
        if let Some(parent) = path.parent().filter(|parent| File::open(parent).is_ok()) {
            sync_directory(parent, disk)?;
        }
        Ok(Self { path, synced: directories, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All directories in it, which were synced when it was opened.
    pub(super) fn synced_directories(&self) -> &BTreeSet<PathBuf> {
        &self.synced
    }
}

fn take_lock(directory: &Path) -> Result<File, LocalError> {
    let path = directory.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut lock = options.open(&path).map_err(io_error("open", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Best effort: the holder may not have written itself down yet.
            let _ = Read::by_ref(&mut lock).take(20).read_to_string(&mut holder);
            return Err(LocalError::InUse { path: directory.to_owned(), holder: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(LocalError::Io { doing: "lock", path, source }),
    }
    let write_pid = |lock: &mut File| {
        lock.set_len(0)?;
        lock.rewind()?;
        lock.write_all(std::process::id().to_string().as_bytes())
    };
    write_pid(&mut lock).map_err(io_error("write", &path))?;
    Ok(lock)
}

/// Creates a file under a free name by a hard link, and sees a second link to the same name refused.
fn check_fitness(directory: &Path) -> Result<(), LocalError> {
    // Names of leftovers: if we die here, the next boot removes them.
    let (one, other, linked) =
        (directory.join("fitness#1"), directory.join("fitness#2"), directory.join("fitness#3"));
    for path in [&one, &other, &linked] {
        let _ = fs::remove_file(path);
    }
    fs::write(&one, b"1").map_err(io_error("write", &one))?;
    fs::write(&other, b"2").map_err(io_error("write", &other))?;
    let unfit = |problem: String| Err(LocalError::Unfit { path: directory.to_owned(), problem });
    let verdict = match (fs::hard_link(&one, &linked), fs::hard_link(&other, &linked), fs::read(&linked)) {
        (Ok(()), Err(error), Ok(bytes)) if error.kind() == io::ErrorKind::AlreadyExists && bytes == b"1" => {
            Ok(())
        }
        (Err(error), _, _) => unfit(format!("it has no hard links ({error})")),
        (_, second, bytes) => {
            unfit(format!("a second link to one name ended as {second:?}, the name holds {bytes:?}"))
        }
    };
    for path in [&one, &other, &linked] {
        let _ = fs::remove_file(path);
    }
    verdict
}

/// Removes half-written files, and collects the directories.
fn remove_leftovers(directory: &Path, directories: &mut BTreeSet<PathBuf>) -> Result<(), LocalError> {
    for entry in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(io_error("look at", &path))?;
        if kind.is_dir() {
            remove_leftovers(&path, directories)?;
        } else if kind.is_file() && is_leftover(&path) {
            fs::remove_file(&path).map_err(io_error("remove leftover", &path))?;
        }
    }
    directories.insert(directory.to_owned());
    Ok(())
}

/// Whether the name ends in `#` and digits, as only staged files' names do.
fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn sync_directory(path: &Path, disk: &Disk) -> Result<(), LocalError> {
    disk.sync_directory(path).map_err(sync_error(path))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::Io { doing, path, source }
}

fn sync_error(path: &Path) -> impl FnOnce(object_store::Error) -> LocalError {
    let path = path.to_owned();
    move |error| LocalError::Io { doing: "sync", path, source: error.into() }
}
