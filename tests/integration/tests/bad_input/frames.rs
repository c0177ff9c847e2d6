//! HTTP/2 frames written by hand, for what no client library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

/// Flag of HEADERS and DATA: nothing follows on the stream.
pub const END_STREAM: u8 = 1;
/// Flag of HEADERS and CONTINUATION: the header block is whole.
pub const END_HEADERS: u8 = 4;
/// Flag of SETTINGS and PING.
const ACK: u8 = 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection on which frames are written by hand.
pub struct Frames {
    socket: TcpStream,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer said GOAWAY with this code.
    GoAway(u32),
    /// The peer closed it without a word.
    Closed,
    /// It did not.
    Open,
}

impl Frames {
    /// Connects, and sends the preface and empty settings.
    pub async fn connect(port: u16) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        socket.write_all(PREFACE).await.expect("the server reads");
        socket.write_all(&encoded(SETTINGS, 0, 0, &[])).await.expect("the server reads");
        Self { socket }
    }

    /// Writes a frame; `false` if the peer has closed the connection.
    pub async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.socket.write_all(&encoded(kind, flags, stream, payload)).await.is_ok()
    }

    /// Writes what is encoded already.
    pub async fn write_raw(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).await.is_ok()
    }

    /// Opens a stream: a gRPC call of a method.
    pub async fn open(&mut self, stream: u32, method: &str) -> bool {
        self.write(HEADERS, END_HEADERS, stream, &request_headers(method)).await
    }

    /// The next frame; `None` when the connection is closed. Settings and pings are answered.
    pub async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.socket.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if frame.flags & ACK == 0 && frame.kind == SETTINGS {
            self.write(SETTINGS, ACK, 0, &[]).await;
        }
        if frame.flags & ACK == 0 && frame.kind == PING {
            self.write(PING, ACK, 0, &frame.payload).await;
        }
        Some(frame)
    }

    /// Reads all frames that come within a time.
    pub async fn read_for(&mut self, time: Duration) -> Vec<Frame> {
        let (until, mut frames) = (Instant::now() + time, Vec::new());
        while let Ok(Some(frame)) = tokio::time::timeout_at(until, self.read()).await {
            frames.push(frame);
        }
        frames
    }

    /// Reads until the peer ends the connection, or the time is over.
    pub async fn end(&mut self, within: Duration) -> End {
        let until = Instant::now() + within;
        loop {
            match tokio::time::timeout_at(until, self.read()).await {
                Ok(Some(frame)) if frame.kind == GOAWAY => {
                    let code = frame.payload.get(4..8).and_then(|code| code.try_into().ok());
                    return End::GoAway(u32::from_be_bytes(code.expect("a GOAWAY has a code")));
                }
                Ok(Some(_)) => {}
                Ok(None) => return End::Closed,
                Err(_) => return End::Open,
            }
        }
    }
}

/// A frame's bytes.
pub fn encoded(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The header block of a gRPC request.
pub fn request_headers(method: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "tidelog"),
        (":path", &format!("/{method}")),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        literal(name, value.as_bytes(), &mut block);
    }
    block
}

/// A header as HPACK's literal without indexing, with a new name (RFC 7541, 6.2.2).
pub fn literal(name: &str, value: &[u8], block: &mut Vec<u8>) {
    block.push(0);
    text(name.as_bytes(), block);
    text(value, block);
}

/// A string without Huffman code; its length is an integer with a prefix of 7 bits.
fn text(bytes: &[u8], block: &mut Vec<u8>) {
    if let Some(short) = u8::try_from(bytes.len()).ok().filter(|length| *length < 127) {
        block.push(short);
    } else {
        block.push(127);
        let mut rest = bytes.len() - 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(bytes);
}
