//! A socket that gathers what HTTP/2 writes frame by frame, and reads in large pieces.
//!
//! h2 writes and flushes once per DATA frame, and clients that nobody tuned use frames of 16 KiB: a system call for
//! every 16 KiB. Here up to 256 KiB are gathered before they are written, and reads go through a buffer of the same
//! size; for such clients that makes fetch about twice as fast per CPU-second, and produce a fifth.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::connections::ConnectionPlace;

/// What is gathered before a write, and read at once, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;
/// Size of the read buffer before a read has filled it; it doubles from there.
const FIRST_READ_BYTES: usize = 16 * 1024;
/// Bytes that every client of HTTP/2 sends first, and how long it may take: who says less is not kept.
const PREFACE_BYTES: usize = 24;
const PREFACE_WITHIN: Duration = Duration::from_secs(10);
/// A reader that asks for this much is served without the buffer.
const DIRECT_READ_BYTES: usize = 64 * 1024;

/// A socket with a write buffer that outlives a flush by one turn of its task. See the module's documentation.
#[derive(Debug)]
pub struct Gathering<S> {
    socket: S,
    unwritten: Vec<u8>,
    /// How much of `unwritten` has been written already.
    written: usize,
    /// Something was added since the last flush; the next flush waits for one turn of the task, in which more may come.
    added_since_flush: bool,
    /// Allocated as large as reads are; only `read..filled` is data.
    unread: Vec<u8>,
    read: usize,
    filled: usize,
    /// Until the preface has been read: how much of it is there, and when it has to be.
    opening: Option<(usize, Pin<Box<tokio::time::Sleep>>)>,
    /// Given back when the connection has ended.
    _place: Option<ConnectionPlace>,
}

impl<S> Gathering<S> {
    /// Wraps a socket on which an HTTP/2 client is to speak first. Buffers grow when they are first used.
    pub fn new(socket: S) -> Self {
        Self {
            socket,
            unwritten: Vec::new(),
            written: 0,
            added_since_flush: false,
            unread: Vec::new(),
            read: 0,
            filled: 0,
            opening: Some((0, Box::pin(tokio::time::sleep(PREFACE_WITHIN)))),
            _place: None,
        }
    }

    /// Holds a place among the connections for as long as it lives.
    pub(crate) fn holding(mut self, place: Option<ConnectionPlace>) -> Self {
        self._place = place;
        self
    }

    /// Notes how much was read while the connection opens; an error if that takes too long.
    fn poll_opening(
        &mut self,
        cx: &mut Context<'_>,
        read: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Some((begun, patience)) = &mut self.opening else { return read };
        match read {
            Poll::Ready(Ok(bytes)) => {
                *begun += bytes;
                if *begun >= PREFACE_BYTES {
                    self.opening = None;
                }
                read
            }
            Poll::Pending => patience.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.unwritten.len() {
            let wrote = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unwritten[self.written..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += wrote;
        }
        self.unwritten.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read == this.filled {
            if buf.remaining() >= DIRECT_READ_BYTES {
                let before = buf.filled().len();
                let read = Pin::new(&mut this.socket).poll_read(cx, buf);
                let read = read.map_ok(|()| buf.filled().len() - before);
                return this.poll_opening(cx, read).map_ok(|_| ());
            }
            if this.filled == this.unread.len() && this.unread.len() < BUFFER_BYTES {
                // The last read filled it: this connection moves data.
                this.unread.resize((this.unread.len() * 2).max(FIRST_READ_BYTES), 0);
            }
            let mut into = ReadBuf::new(&mut this.unread);
            let read = Pin::new(&mut this.socket).poll_read(cx, &mut into);
            let read = read.map_ok(|()| into.filled().len());
            let filled = ready!(this.poll_opening(cx, read))?;
            (this.read, this.filled) = (0, filled);
        }
        let piece = buf.remaining().min(this.filled - this.read);
        buf.put_slice(&this.unread[this.read..this.read + piece]);
        this.read += piece;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if this.unwritten.len() + length > BUFFER_BYTES {
            ready!(this.poll_write_out(cx))?;
            if length >= BUFFER_BYTES {
                return Pin::new(&mut this.socket).poll_write_vectored(cx, bufs);
            }
        }
        bufs.iter().for_each(|buf| this.unwritten.extend_from_slice(buf));
        this.added_since_flush = true;
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.added_since_flush {
            // More frames may follow in this turn of the task. It gets another turn right after this one, in which the
            // flush comes again, finds nothing added, and writes.
            self.added_since_flush = false;
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// When a connection was accepted; an extension of its requests.
#[derive(Debug, Clone, Copy)]
pub struct OpenedAt(pub tokio::time::Instant);

impl<S> Connected for Gathering<S> {
    type ConnectInfo = OpenedAt;

    fn connect_info(&self) -> OpenedAt {
        // It is asked for once, when the connection begins.
        OpenedAt(tokio::time::Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_arrives_in_order() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Gathering::new(near);
        let data: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for piece in data.chunks(16 * 1024) {
            near.write_all(piece).await.expect("open");
        }
        near.write_all(&data[..300_000]).await.expect("open");
        near.shutdown().await.expect("open");
        let mut arrived = Vec::new();
        far.read_to_end(&mut arrived).await.expect("open");
        assert_eq!(arrived.len(), data.len() + 300_000);
        assert_eq!(arrived[..data.len()], data);
        assert_eq!(arrived[data.len()..], data[..300_000]);
    }

    #[tokio::test]
    async fn a_second_flush_writes_what_the_first_held_back() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let mut near = Gathering::new(near);
        near.write_all(b"hello").await.expect("open");
        poll_fn(|cx| Pin::new(&mut near).poll_flush(cx)).await.expect("held back");
        poll_fn(|cx| Pin::new(&mut near).poll_flush(cx)).await.expect("written");
        let mut arrived = [0; 5];
        far.read_exact(&mut arrived).await.expect("open");
        assert_eq!(&arrived, b"hello");
    }

    #[tokio::test]
    async fn small_reads_come_from_one_large_one() {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut far = Gathering::new(far);
        let data: Vec<u8> = (0..500_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        near.write_all(&data).await.expect("open");
        drop(near);
        let mut arrived = Vec::new();
        let mut piece = [0; 1000];
        loop {
            let read = far.read(&mut piece).await.expect("open");
            if read == 0 {
                break;
            }
            arrived.extend_from_slice(&piece[..read]);
        }
        assert_eq!(arrived, data);
    }
}
