//! A stand-in for an S3 service that is wrong in ways in which the real ones of the tests are not. What it does right is just enough for
//! an agent to run on it: objects in memory, ranges, and create-if-absent.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    /// `If-None-Match` is dropped on the way, and objects are overwritten.
    DropsCondition,
    /// `If-None-Match` is answered with 501.
    KnowsNoCondition,
    /// The bucket is in another region, as S3 says it.
    OtherRegion,
    /// The credentials are not those, as S3 says it.
    OtherSecret,
}

/// The running service; it ends when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    port: u16,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    objects: BTreeMap<String, Vec<u8>>,
}

/// A request as far as it matters here.
struct Request {
    method: String,
    path: String,
    creates: bool,
    range: Option<(usize, usize)>,
    body: Vec<u8>,
}

impl StandIn {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(Mutex::new(State { fault: Fault::Nothing, objects: BTreeMap::new() }));
        let accepting = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(serve(socket, Arc::clone(&state)));
                }
            }
        });
        Self { port, state, accepting }
    }

    /// What it does wrong from now on.
    pub fn set(&self, fault: Fault) {
        self.state.lock().expect("nobody panicked").fault = fault;
    }

    /// A `--storage` URL.
    pub fn storage_url(&self) -> String {
        format!("s3://bucket/p?endpoint=http://127.0.0.1:{}&region=us-east-1&path_style=true", self.port)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(socket: TcpStream, state: Arc<Mutex<State>>) {
    let mut socket = BufReader::new(socket);
    while let Some(request) = read(&mut socket).await {
        let answer = state.lock().expect("nobody panicked").answer(request);
        if socket.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn read(socket: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    socket.read_line(&mut line).await.ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.split('?').next()?.to_owned());
    let mut request = Request { method, path, creates: false, range: None, body: Vec::new() };
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.body = vec![0; value.parse().ok()?],
            "if-none-match" => request.creates = true,
            "range" => {
                let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                request.range = Some((first.parse().ok()?, last.parse().unwrap_or(usize::MAX - 1)));
            }
            _ => {}
        }
    }
    socket.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

impl State {
    fn answer(&mut self, request: Request) -> Vec<u8> {
        let Request { method, path, creates, range, body } = request;
        let error = |code: &str, text: &str| {
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{text}</Message></Error>")
                .into_bytes()
        };
        match (self.fault, method.as_str()) {
            (Fault::OtherRegion, _) => {
                let text = "the region 'us-east-1' is wrong; expecting 'eu-west-1'";
                response("400 Bad Request", "", &error("AuthorizationHeaderMalformed", text))
            }
            (Fault::OtherSecret, _) => {
                let text = "The request signature we calculated does not match the signature you provided.";
                response("403 Forbidden", "", &error("SignatureDoesNotMatch", text))
            }
            (Fault::KnowsNoCondition, "PUT") if creates => {
                let text = "A header you provided implies functionality that is not implemented";
                response("501 Not Implemented", "", &error("NotImplemented", text))
            }
            (fault, "PUT")
                if creates && fault != Fault::DropsCondition && self.objects.contains_key(&path) =>
            {
                response("412 Precondition Failed", "", &error("PreconditionFailed", "it exists"))
            }
            (_, "PUT") => {
                self.objects.insert(path, body);
                response("200 OK", "ETag: \"x\"\r\n", b"")
            }
            (_, "HEAD") if self.objects.contains_key(&path) => {
                let mut whole = response("200 OK", &known(), &self.objects[&path]);
                whole.truncate(whole.len() - self.objects[&path].len());
                whole
            }
            (_, "HEAD") => response("404 Not Found", "", b""),
            (_, "GET") => match (self.objects.get(&path), range) {
                (None, _) => response("404 Not Found", "", &error("NoSuchKey", "it does not exist")),
                (Some(object), None) => response("200 OK", &known(), object),
                (Some(object), Some((first, last))) => {
                    let end = (last + 1).min(object.len());
                    let place = format!("Content-Range: bytes {first}-{}/{}\r\n", end - 1, object.len());
                    response("206 Partial Content", &(known() + &place), &object[first..end])
                }
            },
            // Deletion is not allowed, which an agent does not need.
            _ => response("403 Forbidden", "", &error("AccessDenied", "no")),
        }
    }
}

/// What is known of an object. All were written just now, because agents compare this clock with theirs.
fn known() -> String {
    let now = Command::new("date").env("LC_ALL", "C").args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"]).output();
    let now = String::from_utf8(now.expect("date is there").stdout).expect("ASCII");
    format!("ETag: \"x\"\r\nLast-Modified: {}\r\n", now.trim_end())
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}
