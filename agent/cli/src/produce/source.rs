//! Reading a file or standard input on a thread of its own: a read of a terminal or a pipe may block for ever.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::lines::LineSplitter;
use crate::failure::{Exit, Failure};

/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;

/// Some lines of input, or why there are no more.
pub type Lines = Result<Vec<Bytes>, SourceError>;

/// Why input ended before its end.
#[derive(Debug)]
pub enum SourceError {
    /// The next line is longer than a record may be.
    TooLong,
    /// It could not be read.
    Read(std::io::Error),
}

/// Where lines come from.
pub struct Source {
    name: String,
    reader: Box<dyn Read + Send>,
}

impl Source {
    /// Opens a file; `-` is standard input.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self { name: "standard input".into(), reader: Box::new(std::io::stdin()) });
        }
        let name = path.display().to_string();
        let failed = |error: std::io::Error| {
            let exit = match error.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Failure,
            };
            Failure::new(exit, format!("cannot read {name}: {error}"))
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self { name, reader: Box::new(file) })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads lines of at most `limit` bytes, a few reads ahead.
    pub fn lines(self, limit: usize) -> mpsc::Receiver<Lines> {
        let (lines, receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || read(self.reader, limit, &lines));
        receiver
    }
}

fn read(mut reader: Box<dyn Read + Send>, limit: usize, to: &mpsc::Sender<Lines>) {
    let mut splitter = LineSplitter::new(limit);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let _ = to.blocking_send(Err(SourceError::Read(error)));
                return;
            }
        };
        let mut lines = Vec::new();
        let fed = match buffer.get(..read) {
            Some(piece) if read > 0 => splitter.feed(Bytes::copy_from_slice(piece), &mut lines),
            _ => {
                lines.extend(splitter.finish());
                Ok(())
            }
        };
        // Nobody receives once the command has stopped reading.
        if to.blocking_send(Ok(lines)).is_err() {
            return;
        }
        if fed.is_err() {
            let _ = to.blocking_send(Err(SourceError::TooLong));
            return;
        }
        if read == 0 {
            return;
        }
    }
}

/// Path of a file, or `-`.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty, expected a path or -".into()) } else { Ok(text.into()) }
}
