//! What only a process of its own can show: the lock between processes, kill -9, and the end of a process whose disk
//! fails to sync. The processes are this test program again, told by the environment to play a part.

#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use tidelog_metadata_objectstore::{DurableLocal, LocalError, end_process};

const PART: &str = "TIDELOG_TEST_PART";
const SIGABRT: i32 = 6;

fn play(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "a_part_to_play", "--nocapture"]).env(PART, part);
    command
}

/// Does nothing unless the environment asks for a part.
#[tokio::test]
async fn a_part_to_play() {
    let Ok(part) = std::env::var(PART) else { return };
    if part == "fail" {
        end_process("fsync of nothing failed");
    }
    // Holds the directory and writes until it is killed, one line for each key that is durable.
    let store = DurableLocal::open(&part).expect("opens");
    println!("\nholding");
    for n in 0.. {
        let key = Path::from(format!("wal/{n:020}"));
        store.put_opts(&key, vec![7; 10_000].into(), PutMode::Create.into()).await.expect("written");
        println!("durable {key}");
    }
}

#[test]
fn the_end_of_a_process_says_why() {
    let ended = play("fail").output().expect("ran");
    assert_eq!(ended.status.signal(), Some(SIGABRT), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("tidelog: fsync of nothing failed"), "{said}");
}

struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_killed_process_leaves_its_lock_free_and_its_keys_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for round in 1..=5 {
        let child = play(&directory.path().join(round.to_string()).to_string_lossy())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut holder = Holder(child);
        let path = directory.path().join(round.to_string());
        let stdout = holder.0.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines().map(|line| line.expect("text"));
        lines.find(|line| line == "holding").expect("it holds the directory");

        match DurableLocal::open(&path) {
            Err(LocalError::InUse { holder: Some(pid), .. }) => assert_eq!(pid, holder.0.id()),
            other => panic!("expected the holder's pid: {other:?}"),
        }
        let mut durable: Vec<String> = lines.by_ref().take(round * 7).collect();
        holder.0.kill().expect("killed");
        holder.0.wait().expect("ended");
        durable.extend(lines);

        let store = DurableLocal::open(&path).expect("free again");
        assert!(durable.len() >= round * 7);
        for line in durable {
            // The last line may be cut off by the kill.
            let Some(key) = line.strip_prefix("durable ").filter(|key| key.len() == 24) else { continue };
            let bytes = store.get(&Path::from(key)).await.expect(key).bytes().await.expect(key);
            assert_eq!(bytes.len(), 10_000, "{key}");
        }
        let leftovers = std::fs::read_dir(path.join("wal")).expect("listed").filter(|entry| {
            entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains('#'))
        });
        assert_eq!(leftovers.count(), 0);
    }
}
