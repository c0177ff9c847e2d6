//! Memory for segments: buffers that are filled once, uploaded from where they lie, and used again.
//!
//! Data that waits for its PUT would otherwise live in fresh pages all the time, each of which the system has to find and clear.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Buffers of one size; cheap to clone, clones share them.
#[derive(Debug, Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    idle: Mutex<Vec<Vec<u8>>>,
    idle_max: usize,
    buffer_bytes: usize,
}

/// A buffer that is being filled. It never grows beyond its size.
#[derive(Debug)]
pub struct PooledBuffer {
    bytes: Vec<u8>,
    pool: Arc<Shared>,
}

/// A filled buffer, which goes back to its pool when the last [`Bytes`] of it is dropped.
struct Filled {
    bytes: Vec<u8>,
    pool: Arc<Shared>,
}

impl BufferPool {
    /// A pool of buffers of `buffer_bytes` each, of which at most `idle_max` are kept while nobody uses them.
    pub fn new(buffer_bytes: usize, idle_max: usize) -> Self {
        Self { shared: Arc::new(Shared { idle: Mutex::default(), idle_max, buffer_bytes }) }
    }

    /// An empty buffer: one that was used before, or a new one.
    pub fn take(&self) -> PooledBuffer {
        let idle = self.shared.idle.lock().pop();
        let bytes = idle.unwrap_or_else(|| Vec::with_capacity(self.shared.buffer_bytes));
        PooledBuffer { bytes, pool: Arc::clone(&self.shared) }
    }

    /// Size of each buffer in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes
    }

    /// How many buffers wait to be used again.
    pub fn idle(&self) -> usize {
        self.shared.idle.lock().len()
    }
}

impl PooledBuffer {
    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes it can still take.
    pub fn remaining(&self) -> usize {
        self.pool.buffer_bytes.saturating_sub(self.bytes.len())
    }

    /// Copies bytes behind the others, if there is room; says whether there was.
    #[must_use]
    pub fn try_extend(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.remaining();
        if fits {
            self.bytes.extend_from_slice(bytes);
        }
        fits
    }

    /// The memory itself, for a writer that knows how much it will write: it must stay within [`PooledBuffer::remaining`], or the buffer moves.
    pub fn as_mut_vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes what was filled readable; nothing is copied.
    pub fn freeze(mut self) -> Bytes {
        let bytes = std::mem::take(&mut self.bytes);
        Bytes::from_owner(Filled { bytes, pool: Arc::clone(&self.pool) })
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Shared {
    fn give_back(&self, mut bytes: Vec<u8>) {
        // A buffer that moved is not of the pool's size any more.
        if bytes.capacity() != self.buffer_bytes {
            return;
        }
        bytes.clear();
        let mut idle = self.idle.lock();
        if idle.len() < self.idle_max {
            idle.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_last_reader() {
        let pool = BufferPool::new(1024, 1);
        let mut buffer = pool.take();
        assert!(buffer.try_extend(&[7; 1000]));
        assert!(!buffer.try_extend(&[7; 25]), "it does not grow");
        let address = buffer.as_mut_vec().as_ptr();
        let bytes = buffer.freeze();
        assert_eq!(bytes.as_ptr(), address, "nothing is copied");
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(pool.idle(), 0);
        drop(part);
        assert_eq!(pool.idle(), 1);
        let mut again = pool.take();
        assert!(again.is_empty());
        assert_eq!(again.as_mut_vec().as_ptr(), address);
        drop((again, pool.take()));
        assert_eq!(pool.idle(), 1, "no more than allowed are kept");
    }
}
