//! Consumer groups on the command line, against `tidelog dev --memory`.

mod service;

use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use service::{Said, Service, interrupt};

/// Lines of a command that runs on. How long one may take: machines are slow at times.
const LINE_WITHIN: Duration = Duration::from_secs(60);

/// A consumer that runs in the background.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(service: &Service, arguments: &[&str]) -> Self {
        let mut child = service.command(arguments).spawn().expect("the binary starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (to_test, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if to_test.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LINE_WITHIN).expect("a line in time")
    }

    /// Ends it as Ctrl-C does; the lines that were left, and what it said.
    fn interrupt(mut self) -> (Vec<String>, Said) {
        interrupt(&self.child);
        let mut err = String::new();
        let status = self.child.wait().expect("it ends");
        self.child.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
        (self.lines.iter().collect(), Said { code: status.code(), out: Vec::new(), err })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Repeats a question until its answer is as it should be.
fn until<T>(what: &str, mut ask: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T {
    let begin = std::time::Instant::elapsed;
    let started = tokio::time::Instant::now().into_std();
    loop {
        let answer = ask();
        if is_so(&answer) {
            return answer;
        }
        assert!(begin(&started) < LINE_WITHIN, "{what} takes too long");
    }
}

#[test]
fn a_group_reads_on_where_it_has_committed() {
    let service = Service::start();
    let run = |arguments: &[&str]| service.run(arguments, b"");
    run(&["topic", "create", "t", "--partitions", "2"]).ok();
    service.run(&["produce", "t", "--partition", "0"], b"a0\na1\na2\na3\n").ok();
    service.run(&["produce", "t", "--partition", "1"], b"b0\n").ok();
    let consume = ["consume", "t", "--group", "g", "-o", "start", "--exit-at-end", "-f", r"%v@%p:%o "];
    let mut read: Vec<String> = run(&consume).ok().text().split_whitespace().map(str::to_owned).collect();
    read.sort();
    assert_eq!(read, ["a0@0:0", "a1@0:1", "a2@0:2", "a3@0:3", "b0@1:0"]);
    assert_eq!(run(&consume).ok().text(), "", "all of it is committed");

    assert_eq!(run(&["group", "list"]).ok().text(), "g\tempty\t0\n");
    let described = run(&["group", "describe", "g"]).ok();
    assert_eq!(described.text(), "t\t0\t4\t4\t0\t-\nt\t1\t1\t1\t0\t-\n");
    assert!(
        described.err.contains("group g, empty") && described.err.contains("0 members"),
        "{}",
        described.err
    );
    service.run(&["produce", "t", "--partition", "1"], b"b1\nb2\n").ok();
    let described = run(&["group", "describe", "g", "--format", "json"]).ok();
    let described: serde_json::Value = serde_json::from_slice(&described.out).expect("one JSON object");
    assert_eq!((&described["name"], &described["state"]), (&"g".into(), &"empty".into()));
    let row = &described["partitions"][1];
    assert_eq!(
        (&row["topic"], &row["partition"], &row["committed_offset"], &row["high_watermark"], &row["lag"]),
        (&"t".into(), &1.into(), &1.into(), &3.into(), &2.into())
    );
    assert!(row["owner"].is_null() && row["committed_at"].as_i64() > Some(0), "{row}");

    // A count ends it in the middle; the next run goes on there.
    let one = ["consume", "t", "--group", "g", "--count", "1"];
    assert_eq!(run(&one).ok().text(), "b1\n");
    assert_eq!(run(&one).ok().text(), "b2\n");
}

#[test]
fn groups_are_moved_and_deleted() {
    let service = Service::start();
    let run = |arguments: &[&str]| service.run(arguments, b"");
    run(&["topic", "create", "t", "--partitions", "2"]).ok();
    service.run(&["produce", "t", "--partition", "0", "--timestamp", "1000"], b"0\n1\n2\n").ok();
    service.run(&["produce", "t", "--partition", "0", "--timestamp", "2000"], b"3\n4\n").ok();
    let seek = |to: &str, more: &[&str]| {
        let all = [&["group", "seek", "new group", "--topic", "t", "--to", to], more].concat();
        service.run(&all, b"")
    };
    // A group appears with its first offsets, and not before.
    assert_eq!(seek("start", &["--dry-run"]).ok().text(), "t\t0\t-\t->\t0\nt\t1\t-\t->\t0\n");
    assert_eq!(run(&["group", "list"]).ok().text(), "");
    let moved = seek("end", &["--yes"]).ok();
    assert_eq!(moved.text(), "t\t0\t-\t->\t5\nt\t1\t-\t->\t0\n");
    assert!(moved.err.contains("group new group moved in 2 partitions of t"), "{}", moved.err);
    for (to, new) in [("1", 1), ("-2", 3), ("-100", 0), ("@1500", 3), ("@9000", 5), ("start", 0), ("5", 5)] {
        let moved = seek(to, &["--partition", "0", "--yes", "--format", "json"]).ok();
        let row: serde_json::Value = serde_json::from_slice(&moved.out).expect("one JSON object");
        assert_eq!((&row["partition"], &row["new"]), (&0.into(), &new.into()), "{to}");
        assert!(row["old"].is_i64(), "{row}");
    }
    assert_eq!(seek("2", &["-p", "0", "--dry-run"]).ok().text(), "t\t0\t5\t->\t2\n");
    assert_eq!(
        seek("2", &["-p", "0", "--yes"]).ok().text(),
        "t\t0\t5\t->\t2\n",
        "the dry run changed nothing"
    );
    let read = run(&["consume", "t", "--group", "new group", "--exit-at-end"]).ok();
    assert_eq!(read.text(), "2\n3\n4\n");

    seek("6", &["-p", "0", "--yes"]).failed(3, "t[0] has no offset 6, it holds 0 to 5");
    seek("0", &["-p", "7", "--yes"]).failed(3, "7");
    seek("0", &[]).failed(2, "add --yes");
    run(&["group", "seek", "g", "--topic", "nowhere", "--to", "0", "--yes"]).failed(3, "nowhere");
    run(&["group", "delete", "new group"]).failed(2, "add --yes");
    run(&["group", "delete", "new group", "--yes"]).ok();
    run(&["group", "delete", "new group", "--yes"]).failed(3, "new group");
    run(&["group", "describe", "new group"]).failed(3, "new group");
    assert_eq!(run(&["group", "list", "--format", "json"]).ok().text(), "");
}

#[test]
fn a_group_with_members_is_not_moved() {
    let service = Service::start();
    let run = |arguments: &[&str]| service.run(arguments, b"");
    service.run(&["produce", "t"], b"a\nb\n").ok();
    let member =
        Running::start(&service, &["consume", "t", "--group", "g", "--member-id", "m-1", "-o", "start"]);
    assert_eq!((member.line(), member.line()), ("a".into(), "b".into()));
    assert_eq!(run(&["group", "list"]).ok().text(), "g\tstable\t1\n");
    // What was written is committed after a while, without more records or an end.
    let described = || run(&["group", "describe", "g"]).ok().text();
    until("the commit", described, |text| text == "t\t0\t2\t2\t0\tm-1\n");
    let seek = ["group", "seek", "g", "--topic", "t", "--to", "start", "--yes"];
    run(&seek).failed(6, "group g has 1 member (m-1)");
    run(&["group", "delete", "g", "--yes"]).failed(6, "member");

    let (rest, said) = member.interrupt();
    assert_eq!(rest, [""; 0]);
    said.failed(130, "interrupted");
    // It has left: nobody waits for the end of its session.
    assert_eq!(run(&["group", "list"]).ok().text(), "g\tempty\t0\n");
    run(&seek).ok();
}

#[test]
fn members_share_the_partitions_and_take_over() {
    let service = Service::start();
    let run = |arguments: &[&str]| service.run(arguments, b"");
    run(&["topic", "create", "t", "--partitions", "4"]).ok();
    let start =
        |id| Running::start(&service, &["consume", "t", "--group", "g", "--member-id", id, "-o", "start"]);
    let owners = || {
        let text = run(&["group", "describe", "g"]).text();
        text.lines().map(|line| line.rsplit('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let one = start("one");
    until("the first member", owners, |owners| owners.iter().filter(|owner| *owner == "one").count() == 4);
    let two = start("two");
    until("sharing", owners, |owners| {
        ["one", "two"].iter().all(|id| owners.iter().filter(|owner| owner == id).count() == 2)
    });
    let input =
        |from: u32| -> String { (from..from + 40).map(|number| format!("k{number}:v{number}\n")).collect() };
    service.run(&["produce", "t", "--key-delimiter", ":"], input(0).as_bytes()).ok();
    let mut lines = Vec::new();
    let mut of_two = 0;
    until(
        "all records",
        || {
            lines.extend(one.lines.try_iter());
            let before = lines.len();
            lines.extend(two.lines.try_iter());
            of_two += lines.len() - before;
            lines.len()
        },
        |count| *count >= 40,
    );
    assert!(of_two > 0 && of_two < 40, "{of_two}");
    // One leaves, the other takes over, and nothing comes twice.
    let (rest, said) = one.interrupt();
    lines.extend(rest);
    said.failed(130, "interrupted");
    until("taking over", owners, |owners| owners.iter().all(|owner| owner == "two"));
    service.run(&["produce", "t", "--key-delimiter", ":"], input(40).as_bytes()).ok();
    for _ in 0..40 {
        lines.push(two.line());
    }
    lines.sort();
    let mut expected: Vec<String> = (0..80).map(|number| format!("v{number}")).collect();
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn a_member_s_name_belongs_to_one_process() {
    let service = Service::start();
    let run = |arguments: &[&str]| service.run(arguments, b"");
    service.run(&["produce", "t"], b"a\n").ok();
    let member =
        ["consume", "t", "--group", "g", "--member-id", "m", "--session-timeout", "1s", "-o", "start"];
    let first = Running::start(&service, &member);
    assert_eq!(first.line(), "a");
    run(&member).failed(6, "m");
    // Who dies makes room when the session is over.
    drop(first);
    let again = [&member[..], &["--exit-at-end"]].concat();
    run(&again).ok();
}

#[test]
fn topics_by_pattern_and_several_topics() {
    let service = Service::start();
    let run = |arguments: &[&str]| service.run(arguments, b"");
    for topic in ["orders.eu", "orders.us", "other"] {
        service.run(&["produce", topic], format!("{topic}\n").as_bytes()).ok();
    }
    let sorted = |said: Said| {
        let mut lines: Vec<String> = said.ok().text().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let pattern = run(&["consume", "--pattern", r"orders\..*", "--group", "p", "-o", "start", "-e"]);
    assert_eq!(sorted(pattern), ["orders.eu", "orders.us"]);
    let several = run(&["consume", "orders.eu", "other", "--group", "s", "-o", "start", "-e"]);
    assert_eq!(sorted(several), ["orders.eu", "other"]);
    let alone = run(&["consume", "orders.eu", "other", "orders.eu", "-o", "start", "-e"]);
    assert_eq!(sorted(alone), ["orders.eu", "other"]);

    run(&["consume", "nowhere", "--group", "g", "-e"]).failed(3, "nowhere");
    run(&["consume", "--pattern", "(", "--group", "g", "-e"]).failed(2, "regular expression");
    run(&["consume", "other", "--group", "g", "--offset", "7", "-e"]).failed(2, "--offset");
    run(&["consume", "other", "--group", "g", "--session-timeout", "1ms", "-e"]).failed(2, "session_timeout");
    for wrong in [
        vec!["consume"],
        vec!["consume", "--pattern", "o.*"],
        vec!["consume", "t", "--member-id", "m"],
        vec!["consume", "t", "--group", "g", "--partition", "0"],
        vec!["consume", "t", "--group", "g", "--assignor", "own"],
        vec!["consume", "t", "--group", "g", "--member-id", "a b"],
        vec!["consume", "t", "--group", ""],
        vec!["group", "describe", "a\nb"],
        vec!["group", "seek", "g", "--topic", "t", "--to", "begin", "--yes"],
        vec!["group", "seek", "g", "--topic", "t", "--to", "0", "--yes", "--dry-run"],
    ] {
        assert_eq!(run(&wrong).code, Some(2), "{wrong:?}");
    }
}
