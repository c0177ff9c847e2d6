//! Connections that abuse HTTP/2, or speak something else: ended soon or held within bounds, while others are served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed::{Bed, MIB};
use crate::calls::message;
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, End, Frame, Frames, HEADERS, RST_STREAM, SETTINGS, encoded,
    literal, request_headers,
};

const FETCH: &str = "tidelog.v1.ConsumerService/Fetch";

/// How long an abusive connection may go on.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn other_protocols_are_turned_away() {
    let mut bed = Bed::new().await;
    // A TLS 1.3 client hello, as far as a server needs it to see what it is.
    let mut hello = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    hello.extend_from_slice(&[0x5a; 506]);
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let kafka = [0, 0, 0, 20, 0, 18, 0, 3, 0, 0, 0, 1, 0, 4, b't', b'e', b's', b't', 0, 0, 0, 0, 0, 0];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let rows: [(&str, Vec<u8>); 9] = [
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: tidelog\r\n\r\n".to_vec()),
        ("an upgrade", b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_vec()),
        ("a TLS hello", hello),
        ("a Kafka request", kafka.to_vec()),
        (
            "a frame length of 2 GiB, as Kafka would say it",
            [0x7f, 0xff, 0xff, 0xff, 0, 18, 0, 3, 0, 0, 0, 1].repeat(3),
        ),
        ("garbage", garbage.clone()),
        ("garbage behind the preface", [preface.clone(), garbage].concat()),
        (
            "a frame larger than allowed",
            [preface.clone(), encoded(SETTINGS, 0, 0, &[]), vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]]
                .concat(),
        ),
        ("data before settings", [preface, encoded(DATA, 0, 1, b"x")].concat()),
    ];
    for (what, bytes) in rows {
        let mut socket = TcpStream::connect(("127.0.0.1", bed.server.port())).await.expect("it listens");
        // It may close before all is written.
        let _ = socket.write_all(&bytes).await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(ENDED_WITHIN, socket.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{what}: the connection is still open");
        assert!(answer.len() < 1024, "{what}: {} bytes in answer", answer.len());
    }
    bed.is_well().await;
}

#[tokio::test]
async fn connections_that_say_nothing_cost_little() {
    const CONNECTIONS: usize = 400;
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    let mut sockets = Vec::new();
    for number in 0..CONNECTIONS {
        let mut socket = TcpStream::connect(("127.0.0.1", bed.server.port())).await.expect("it listens");
        // Nothing, the beginning of a preface, or a preface and the beginning of a frame, byte by byte.
        let begun: &[u8] = match number % 4 {
            0 => b"",
            1 => b"PRI * HT",
            2 => b"\x16\x03\x01",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00",
        };
        socket.write_all(begun).await.expect("it listens");
        sockets.push(socket);
    }
    bed.serves().await;
    let grown = bed.resident().saturating_sub(before);
    println!("{CONNECTIONS} connections, grown by {} KiB each", grown / 1024 / CONNECTIONS as u64);
    assert!(grown < CONNECTIONS as u64 * 64 * 1024, "{} KiB", grown / 1024);
    // Whoever does not even begin to speak is not kept.
    let patience = tokio::time::Instant::now() + Duration::from_secs(25);
    for (number, mut socket) in sockets.into_iter().enumerate().filter(|(number, _)| number % 4 != 3) {
        let mut answer = Vec::new();
        let ended = tokio::time::timeout_at(patience, socket.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "connection {number} is kept though it never spoke");
    }
    bed.is_well().await;
}

/// One address takes the places of no other: beyond its share, its connections are closed at once.
#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    const SHARE: usize = 1_000;
    let mut bed = Bed::new().await;
    allow_descriptors(std::process::id()).await;
    allow_descriptors(bed.server.pid()).await;
    // All of 127.0.0.0/8 is this machine: the attacker has an address of its own.
    let connect = async || {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 2], 0).into()).expect("loopback");
        socket.connect(([127, 0, 0, 1], bed.server.port()).into()).await.expect("it listens")
    };
    let mut kept = Vec::new();
    for _ in 0..SHARE {
        let mut socket = connect().await;
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("one of its share");
        kept.push(socket);
    }
    for _ in 0..20 {
        // Less time than a connection has to begin to speak.
        let (mut refused, patience) = (connect().await, Duration::from_secs(5));
        let ended = tokio::time::timeout(patience, refused.read(&mut [0])).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "one more than its share is kept");
    }
    assert_eq!(bed.server.metric("tidelog_connections_refused_total", &[]).await, 20.0);
    bed.serves().await;
    drop(kept);
    bed.is_well().await;
}

#[tokio::test]
async fn streams_are_capped() {
    const STREAMS: u32 = 100_000;
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    let mut frames = Frames::connect(bed.server.port()).await;
    let first = frames.read_for(Duration::from_millis(300)).await;
    let settings =
        first.iter().find(|frame| frame.kind == SETTINGS && !frame.payload.is_empty()).expect("settings");
    let cap = settings.payload.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("a cap of streams");
    assert_eq!(u32::from_be_bytes(cap[2..6].try_into().expect("four bytes")), 100);

    // Each is opened and gets the beginning of a message, and none is finished.
    let mut opened = 0;
    for number in 0..STREAMS {
        let stream = 2 * number + 1;
        let mut pair = encoded(HEADERS, END_HEADERS, stream, &request_headers(FETCH));
        pair.extend_from_slice(&encoded(DATA, 0, stream, &[0, 0, 0, 1, 0, 7]));
        if !frames.write_raw(&pair).await {
            break;
        }
        opened += 1;
    }
    let ended = frames.end(ENDED_WITHIN).await;
    bed.serves().await;
    let grown = bed.resident().saturating_sub(before);
    println!("{ended:?} after {opened} streams, grown by {} KiB", grown / 1024);
    assert_ne!(ended, End::Open, "{opened} streams were opened, and the connection lives");
    assert!(grown < 32 * MIB, "{} MiB for {opened} streams", grown / MIB);
    drop(frames);

    // Who keeps to the cap is refused the streams beyond it, and those alone.
    let mut frames = Frames::connect(bed.server.port()).await;
    for number in 0..110 {
        assert!(frames.open(2 * number + 1, FETCH).await);
    }
    let refused = frames.read_for(Duration::from_millis(700)).await;
    let refused: Vec<u32> = refused
        .iter()
        .filter(|frame| frame.kind == RST_STREAM && frame.payload == 7_u32.to_be_bytes())
        .map(|frame| frame.stream)
        .collect();
    assert_eq!(refused, (100..110).map(|number| 2 * number + 1).collect::<Vec<u32>>());
    bed.is_well().await;
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    const STREAMS: u32 = 50_000;
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    let mut frames = Frames::connect(bed.server.port()).await;
    let mut opened = 0;
    for number in 0..STREAMS {
        let stream = 2 * number + 1;
        let mut pair = encoded(HEADERS, END_HEADERS, stream, &request_headers(FETCH));
        pair.extend_from_slice(&encoded(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        if !frames.write_raw(&pair).await {
            break;
        }
        opened += 1;
    }
    let ended = frames.end(ENDED_WITHIN).await;
    println!("{ended:?} after {opened} streams");
    assert_ne!(ended, End::Open, "{opened} streams were reset, and the connection lives");
    bed.serves().await;
    let grown = bed.resident().saturating_sub(before);
    assert!(grown < 32 * MIB, "{} MiB", grown / MIB);
    bed.is_well().await;
}

#[tokio::test]
async fn headers_without_end_end_the_connection() {
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    let mut piece = Vec::new();
    literal("x-flood", &[b'x'; 16_000], &mut piece);
    for (what, piece) in [("large pieces", piece.as_slice()), ("empty pieces", &[])] {
        let mut frames = Frames::connect(bed.server.port()).await;
        assert!(frames.write(HEADERS, 0, 1, &request_headers(FETCH)).await);
        let mut sent = 0;
        // 64 MiB, or as many frames.
        for _ in 0..4_096 {
            if !frames.write(CONTINUATION, 0, 1, piece).await {
                break;
            }
            sent += 1;
        }
        let ended = frames.end(ENDED_WITHIN).await;
        println!("{what}: {ended:?} after {sent} frames");
        assert_ne!(ended, End::Open, "{what}: {sent} frames of headers, and the connection lives");
    }
    bed.serves().await;
    let grown = bed.resident_peak().saturating_sub(before);
    assert!(grown < 32 * MIB, "{} MiB", grown / MIB);
    bed.is_well().await;
}

#[tokio::test]
async fn a_header_block_of_a_mebibyte_is_refused() {
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    // Many small headers, and one large one; in one frame, and in several.
    let mut small = request_headers(FETCH);
    for number in 0..20_000 {
        literal(&format!("x-{number}"), &[b'x'; 40], &mut small);
    }
    let mut large = request_headers(FETCH);
    literal("x-large", &vec![b'x'; MIB as usize - 1024], &mut large);
    // One byte of a block can stand for a header of the table: 4 KiB, again and again.
    let mut table = request_headers(FETCH);
    table.push(0x40);
    table.extend_from_slice(&[1, b'x', 127, 0x81, 0x1e]);
    table.extend_from_slice(&[b'x'; 3_968]);
    table.extend_from_slice(&[0xbe; 10_000]);
    for (what, block) in
        [("small headers", small), ("a large header", large), ("one header 10,000 times", table)]
    {
        for pieces in [1, 80] {
            let mut frames = Frames::connect(bed.server.port()).await;
            let size = block.len().div_ceil(pieces);
            let count = block.chunks(size).count();
            for (number, piece) in block.chunks(size).enumerate() {
                let flags = if number + 1 == count { END_HEADERS } else { 0 };
                let (kind, flags) =
                    if number == 0 { (HEADERS, flags | END_STREAM) } else { (CONTINUATION, flags) };
                if !frames.write(kind, flags, 1, piece).await {
                    break;
                }
            }
            // Refused is the stream (431 or a reset) or the connection; the request is not served.
            let answer = frames.read_for(Duration::from_millis(400)).await;
            let served = answer.iter().any(|frame| frame.kind == DATA && frame.stream == 1);
            assert!(!served, "{what} in {pieces}: {answer:?}");
            let refused =
                answer.iter().any(|frame| [HEADERS, RST_STREAM, crate::frames::GOAWAY].contains(&frame.kind));
            let ended = frames.end(Duration::from_millis(100)).await;
            assert!(refused || ended != End::Open, "{what} in {pieces}: nothing was said: {answer:?}");
        }
    }
    bed.serves().await;
    let grown = bed.resident_peak().saturating_sub(before);
    println!("grown by {} KiB", grown / 1024);
    assert!(grown < 32 * MIB, "{} MiB", grown / MIB);
    bed.is_well().await;
}

#[tokio::test]
async fn slow_requests_are_bounded() {
    const CONNECTIONS: usize = 50;
    let mut bed = Bed::new().await;
    bed.serves().await;
    let before = bed.resident();
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut frames = Frames::connect(bed.server.port()).await;
        for stream in [1, 3, 5, 7] {
            assert!(frames.open(stream, FETCH).await);
            // As large a message as may be is announced, and comes byte by byte.
            assert!(frames.write(DATA, 0, stream, &message(0, 1 << 20, b"x")).await);
        }
        slow.push(frames);
    }
    for _ in 0..10 {
        for frames in &mut slow {
            frames.write(DATA, 0, 1, b"x").await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bed.serves().await;
    let grown = bed.resident().saturating_sub(before);
    println!("{CONNECTIONS} slow connections, grown by {} KiB each", grown / 1024 / CONNECTIONS as u64);
    // What is announced is made room for, and that is little where no records are sent.
    assert!(grown < CONNECTIONS as u64 * 4 * MIB * 3 / 2, "{} KiB", grown / 1024);
    // Nobody waits for ever: each of the streams is ended.
    let last = slow.last_mut().expect("some");
    let frames = last.read_for(Duration::from_secs(14)).await;
    for stream in [1, 3, 5, 7] {
        let ended = |frame: &&Frame| {
            frame.stream == stream
                && (frame.kind == RST_STREAM || (frame.kind == HEADERS && frame.flags & END_STREAM != 0))
        };
        assert!(frames.iter().any(|frame| ended(&frame)), "stream {stream} is open: {frames:?}");
    }
    bed.is_well().await;
}

/// Out of file descriptors the server refuses connections, does not spin, and takes new ones when there are some.
#[tokio::test]
async fn running_out_of_descriptors_is_survived() {
    let mut bed = Bed::new().await;
    bed.serves().await;
    let pid = bed.server.pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("our own child").count();
    set_descriptors(bed.server.pid(), open + 40).await;
    let channel = bed.channel();
    let mut admin = tidelog_proto::v1::admin_service_client::AdminServiceClient::new(channel);
    let ask = tidelog_proto::v1::GetServerInfoRequest {};
    admin.get_server_info(ask).await.expect("a connection before");
    let mut sockets = Vec::new();
    for _ in 0..100 {
        sockets
            .push(TcpStream::connect(("127.0.0.1", bed.server.port())).await.expect("the kernel takes it"));
    }
    let before = cpu_ticks(&pid);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = cpu_ticks(&pid) - before;
    println!("{used} ticks in 2 s");
    assert!(used < 100, "{used} of 200 ticks in 2 s: it spins");
    admin.get_server_info(ask).await.expect("who was connected is served");
    drop(sockets);
    tokio::time::sleep(Duration::from_secs(1)).await;
    bed.is_well().await;
}

/// Lets a process of ours have enough of them for a thousand connections.
async fn allow_descriptors(pid: u32) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("our own process");
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    if soft.and_then(|soft| soft.parse::<u64>().ok()).is_some_and(|soft| soft < 4096) {
        set_descriptors(pid, 4096).await;
    }
}

async fn set_descriptors(pid: u32, soft: usize) {
    let arguments = ["--pid", &pid.to_string(), &format!("--nofile={soft}:")];
    let set = tokio::process::Command::new("prlimit").args(arguments).status().await;
    assert!(set.expect("prlimit is there").success());
}

fn cpu_ticks(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("our own child");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a name before").split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}
