//! The client's commands against `tidelog dev --memory`: what they write, what they refuse, and their exit codes.

mod service;

use std::io::{Read, Write};
use std::time::Duration;

use service::{Said, Service, interrupt};

#[test]
fn bytes_come_back_as_they_went_in() {
    let service = Service::start();
    let mut input = Vec::new();
    for number in 0..5_000_u32 {
        input.extend_from_slice(format!("{number}\t\u{e9}\r").as_bytes());
        input.extend(number.to_le_bytes().map(|byte| if byte == b'\n' { 0xff } else { byte }));
        input.push(b'\n');
    }
    input.extend_from_slice(b"\n\n");
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("raw-{codec}");
        let said = service.run(&["produce", &topic, "-", "--compression", codec], &input).ok();
        assert!(
            said.err.contains(&format!("{topic}[0] offsets 0 to 5001\n5002 records acknowledged")),
            "{}",
            said.err
        );
        let back = service.run(&["consume", &topic, "--offset", "start", "--exit-at-end"], b"").ok();
        assert!(back.out == input, "{codec}: {} bytes came back for {}", back.out.len(), input.len());
    }
    // The last line needs no newline to be a record.
    service.run(&["produce", "last"], b"a\nb").ok();
    assert_eq!(service.run(&["consume", "last", "-o", "start", "-e"], b"").ok().out, b"a\nb\n");
    assert!(service.run(&["produce", "last"], b"").ok().err.contains("0 records acknowledged"));
}

#[test]
fn json_makes_the_round_trip() {
    let service = Service::start();
    let lines = concat!(
        r#"{"key":null,"value":"","headers":[]}"#,
        "\n",
        r#"{"key":"","value":null,"timestamp":-1,"headers":[["a","1"],["a",null],["",{"base64":"/w=="}]]}"#,
        "\n",
        r#"{"key_base64":"/wA=","value_base64":"gA==","timestamp":253402300799999}"#,
        "\n",
        r#"{"key":"\u0000\"\\","value":"line\nbreak"}"#,
        "\n",
    );
    service.run(&["topic", "create", "from", "--partitions", "3"], b"").ok();
    service.run(&["topic", "create", "to", "--partitions", "3"], b"").ok();
    service.run(&["produce", "from", "--input", "json"], lines.as_bytes()).ok();
    let sorted = |topic| {
        let said = service.run(&["consume", topic, "-o", "start", "-e", "--format", "json"], b"").ok();
        let mut lines: Vec<String> = said.text().lines().map(str::to_owned).collect();
        lines.sort();
        (said.out, lines)
    };
    let (exported, before) = sorted("from");
    assert_eq!(before.len(), 4);
    service.run(&["produce", "to", "--input", "json"], &exported).ok();
    let after: Vec<String> =
        sorted("to").1.iter().map(|line| line.replace("\"topic\":\"to\"", "\"topic\":\"from\"")).collect();
    assert_eq!(before, after);
}

#[test]
fn places_counts_and_templates() {
    let service = Service::start();
    let input: String = (0..10).map(|number| format!("k{number}:v{number}\n")).collect();
    service
        .run(&["produce", "t", "--key-delimiter", ":", "-H", "h:1", "--timestamp", "1000"], input.as_bytes())
        .ok();
    service.run(&["produce", "t", "--timestamp", "2000"], b"late\n").ok();
    let consume = |arguments: &[&str]| {
        let all: Vec<&str> = ["consume", "t", "--exit-at-end"].iter().chain(arguments).copied().collect();
        service.run(&all, b"").ok().text()
    };
    assert_eq!(
        consume(&["-o", "8", "-f", r"%t[%p]@%o %T %k=%v %h\n"]),
        "t[0]@8 1000 k8=v8 h=1\nt[0]@9 1000 k9=v9 h=1\nt[0]@10 2000 =late \n"
    );
    assert_eq!(consume(&["-o", "-2", "-f", r"%o "]), "9 10 ");
    assert_eq!(consume(&["--offset=-100", "-n", "2", "-f", r"%o "]), "0 1 ");
    assert_eq!(consume(&["-o", "@1500", "-f", r"%o"]), "10");
    assert_eq!(consume(&["-o", "@5000", "-f", r"%o"]), "");
    assert_eq!(consume(&["-o", "end"]), "");
    assert_eq!(consume(&["-o", "start", "-n", "0"]), "");
    service
        .run(&["consume", "t", "-e", "-o", "12"], b"")
        .failed(3, "t[0] has no offset 12, it holds 0 to 11");
    service.run(&["consume", "t", "-e", "-p", "7"], b"").failed(3, "7");
}

#[test]
fn topics_are_managed() {
    let service = Service::start();
    let run = |arguments: &[&str]| service.run(arguments, b"");
    run(&["topic", "create", "a", "--partitions", "2", "--config", "max.message.bytes=2048"]).ok();
    run(&["topic", "create", "a"]).failed(6, "a");
    assert_eq!(run(&["topic", "list"]).ok().text(), "a\t2\tmax.message.bytes=2048\n");
    let listed = run(&["topic", "list", "--format", "json"]).ok().text();
    assert!(listed.starts_with("{\"name\":\"a\",\"id\":") && listed.ends_with("}\n"), "{listed}");
    run(&["topic", "configure", "a", "max.message.bytes="]).ok();
    run(&["topic", "configure", "a", "nonsense=1"]).failed(2, "nonsense");
    run(&["topic", "describe", "b"]).failed(3, "b");
    service.run(&["produce", "a", "--partition", "1"], b"1\n2\n3\n").ok();
    run(&["topic", "trim", "a", "--partition", "1", "--before", "2"]).failed(2, "--yes");
    run(&["topic", "trim", "a", "--partition", "1", "--before", "2", "--yes"]).ok();
    let described = run(&["topic", "describe", "a"]).ok().text();
    assert!(described.starts_with("0\t0\t0\t0\n1\t2\t3\t"), "{described}");
    run(&["topic", "trim", "a", "--partition", "1", "--before", "9", "--yes"]).failed(2, "offset");
    run(&["topic", "delete", "a"]).failed(2, "--yes");
    run(&["topic", "delete", "a", "--yes"]).ok();
    run(&["topic", "delete", "a", "--yes"]).failed(3, "a");
}

#[test]
fn bad_input_is_named() {
    let service = Service::start();
    service.run(&["topic", "create", "t", "--config", "max.message.bytes=2048"], b"").ok();
    let long = [b"first\n".as_slice(), &[b'x'; 3000], b"\nafter\n"].concat();
    let said = service.run(&["produce", "t"], &long);
    said.failed(1, "line 2 is longer than 2048 bytes");
    assert!(
        said.err.contains("t[0] offset 0\n") && said.err.contains("; 1 record acknowledged"),
        "{}",
        said.err
    );
    // Within the line's limit, but as a batch beyond the topic's.
    let said = service.run(&["produce", "t", "-z", "none"], &[b'y'; 2040]);
    said.failed(1, "line 1: record has 2110 bytes");
    service.run(&["produce", "t", "/no/such/file"], b"").failed(3, "/no/such/file");
    service.run(&["produce", "t", "/"], b"").failed(1, "cannot read /");
    service
        .run(&["produce", "t", "--partition", "1"], b"v\n")
        .failed(3, "line 1: topic t has no partition 1");
    service
        .run(&["produce", "t", "--key-delimiter", ":"], b"k:v\nnone\n")
        .failed(1, "line 2: there is no key delimiter");
    service
        .run(&["produce", "t", "--input", "json"], b"{\"value\":\"a\"}\n{}\n")
        .failed(1, "line 2: neither value");
    service.run(&["produce", "t", "--input", "json", "-K", ":"], b"").failed(2, "--key-delimiter");
    // An endless line, whatever its length, costs no memory beyond the limit.
    let said = service.run(&["produce", "t"], &vec![b'x'; 64 << 20]);
    said.failed(1, "line 1 is longer than 2048 bytes");
    for wrong in ["a/b", "..", "", &"x".repeat(250)] {
        assert_eq!(service.run(&["topic", "create", wrong], b"").code, Some(2), "{wrong}");
    }
    for wrong in [
        ["consume", "t", "--offset", "begin"],
        ["consume", "t", "--format", "text"],
        ["produce", "t", "--compression", "lzma"],
        ["produce", "t", "--partition", "-1"],
        ["produce", "t", "--header", "none"],
        ["topic", "create", "t", "--config=novalue"],
    ] {
        assert_eq!(service.run(&wrong, b"").code, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_wrong_endpoint_is_named_in_time() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("free").local_addr().expect("bound");
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("free");
    let service = Service::absent(&format!("http://{free}"));
    for arguments in [["topic", "list"], ["produce", "t"], ["consume", "t"]] {
        service.run(&arguments, b"").failed(5, &free.to_string());
    }
    service.run(&["--endpoint", "https://127.0.0.1:1", "topic", "list"], b"").failed(2, "TLS");
    service
        .run(&["--endpoint", "http://no-such-host.invalid:1", "topic", "list"], b"")
        .failed(5, "no-such-host.invalid");
    // Of several addresses one that answers is enough.
    let alive = Service::start();
    let several = format!("http://{free},{},127.0.0.1:1", alive.endpoint.trim_start_matches("http://"));
    for _ in 0..5 {
        service.run(&["--endpoint", &several, "topic", "list"], b"").ok();
    }
    let none = format!("http://{free},127.0.0.1:1");
    service
        .run(&["--endpoint", &none, "topic", "list"], b"")
        .failed(5, "cannot connect to http://127.0.0.1:");
    service.run(&["--endpoint", &format!("{several},"), "topic", "list"], b"").failed(2, "endpoint");
    let begin = std::time::Instant::elapsed;
    let started = tokio::time::Instant::now().into_std();
    let said = service.run(
        &["--endpoint", &format!("http://{}", silent.local_addr().expect("bound")), "topic", "list"],
        b"",
    );
    assert_eq!(said.code, Some(5), "{}", said.err);
    assert!(begin(&started) < Duration::from_secs(25));
}

#[test]
fn a_closed_pipe_and_ctrl_c_end_quietly() {
    let service = Service::start();
    let input: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    service.run(&["produce", "t"], input.as_bytes()).ok();
    // Reads one line and goes away, as `head -1` does.
    let mut child = service.command(&["consume", "t", "-o", "start"]).spawn().expect("starts");
    let mut first = [0; 2];
    child.stdout.take().expect("piped").read_exact(&mut first).expect("a record");
    service.run(&["produce", "t"], b"more\n").ok();
    let said = Said::from(child.wait_with_output().expect("ends"));
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));

    // A producer that waits for more input acknowledges what it has.
    let mut child = service.command(&["produce", "u"]).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"a\nb\nunfinished").expect("reads");
    let consumed = service.run(&["consume", "t", "-o", "start", "-n", "1"], b"").ok();
    assert_eq!(consumed.out, b"0\n");
    while !String::from_utf8_lossy(&service.run(&["consume", "u", "-o", "start", "-e"], b"").out)
        .contains("b\n")
    {}
    interrupt(&child);
    let said = Said::from(child.wait_with_output().expect("ends"));
    said.failed(130, "interrupted: 2 records acknowledged");
    drop(stdin);
    // A consumer that waits stops.
    let mut child = service.command(&["consume", "t", "-o", "-1"]).spawn().expect("starts");
    child.stdout.as_mut().expect("piped").read_exact(&mut first).expect("a record");
    interrupt(&child);
    assert_eq!(child.wait().expect("ends").code(), Some(130));
}

#[test]
fn the_bench_measures() {
    let service = Service::start();
    let pid = service.child.id().to_string();
    let short = ["--duration", "300ms", "--warm-up", "100ms", "--format", "json", "--pid", &pid];
    for arguments in [
        vec![
            "bench",
            "produce",
            "--partitions",
            "2",
            "--batch-size",
            "16KiB",
            "-z",
            "lz4",
            "--content",
            "text",
        ],
        vec!["bench", "produce", "--payload", "records", "--stock", "--rate", "1000", "--batch-size", "4KiB"],
        vec!["bench", "consume"],
        vec!["bench", "consume", "--payload", "records", "--stock", "--message-size", "64KiB"],
        vec!["bench", "latency", "--rate", "200"],
    ] {
        let said = service.run(&[arguments.as_slice(), &short].concat(), b"").ok();
        let row: serde_json::Value = serde_json::from_slice(&said.out).expect("one JSON object");
        assert!(row["records"].as_u64() > Some(0), "{arguments:?}: {row}");
        assert!(row["agent_cpu_seconds"].is_number(), "{row}");
        assert_eq!(row["acknowledge_ms"]["p99"].is_number(), arguments[1] != "consume", "{row}");
    }
    service.run(&["bench", "consume", "--topic", "none"], b"").failed(3, "none");
    service.run(&["bench", "produce", "--pid", "4000000000"], b"").failed(3, "4000000000");
}

#[test]
fn completions_are_written() {
    let service = Service::absent("");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(service.run(&["completion", shell], b"").ok().text().contains("consume"), "{shell}");
    }
}
