//! Damaged bytes at rest: the error names the object, other partitions are served, and nobody ever gets wrong data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidelog_integration::{Server, free_port};
use tidelog_proto::v1::{ErrorReason, InitProducerRequest, RecordFormat};
use tidelog_record::Compression;

use crate::batches::batch;
use crate::bed::{Bed, assert_calm, assert_error, files, records, value};

/// How long a server may take to see that it cannot start, before a test fails.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// How long one is watched that may wait.
const WAITS_FOR: Duration = Duration::from_secs(3);

/// What can happen to a file.
type Damage = fn(&mut Vec<u8>);

/// The same, where it depends on a number.
type BoxedDamage = Box<dyn Fn(&mut Vec<u8>)>;

/// The files below a folder of the data directory, by name.
fn stored(bed: &Bed, folder: &str) -> Vec<PathBuf> {
    files(&bed.data().join(folder))
}

/// Starts the server anew on the same directory.
async fn restart(bed: &mut Bed, directory: &Path) {
    let data = bed.data();
    let arguments = ["--data-dir", data.to_str().expect("a test's path")];
    bed.server = Server::start("dev", &arguments, directory).await;
}

#[tokio::test]
async fn a_damaged_segment_is_named_and_harms_nobody_else() {
    const BATCH_BYTES: usize = 400;
    let mut bed = Bed::new().await;
    let logs = tempfile::tempdir().expect("a directory");
    bed.topic("damaged", 1, &[]).await;
    bed.topic("sound", 1, &[]).await;
    bed.produce(records("sound", vec![value("before")])).await.expect("sound");
    let before = stored(&bed, "wal").len();

    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 0x41;
    let end = |at: usize| {
        move |bytes: &mut Vec<u8>| {
            let at = bytes.len() - at;
            bytes[at] ^= 0x41;
        }
    };
    let mut damages: Vec<(String, BoxedDamage)> = Vec::new();
    // All of the header, all fields of the batch, then every few bytes; the index and the footer from the end.
    for at in (0..80).chain((80..BATCH_BYTES).step_by(13)) {
        damages.push((format!("byte {at} flipped"), Box::new(flip(at))));
    }
    for at in (1..90).step_by(4) {
        damages.push((format!("byte {at} from the end flipped"), Box::new(end(at))));
    }
    let others: [(&str, Damage); 5] = [
        ("emptied", |bytes| bytes.clear()),
        ("cut in the batch", |bytes| bytes.truncate(200)),
        ("its footer cut off", |bytes| bytes.truncate(bytes.len() - 10)),
        ("zeros", |bytes| bytes.fill(0)),
        ("bytes behind it", |bytes| bytes.extend_from_slice(b"tail")),
    ];
    damages.extend(others.map(|(what, damage)| (what.to_owned(), Box::new(damage) as BoxedDamage)));
    damages.push(("removed".into(), Box::new(|_| {})));

    // A segment for each damage: one batch alone, so that the offset tells which.
    let mut sent = Vec::new();
    for number in 0..damages.len() {
        let value: Vec<u8> = (0..BATCH_BYTES).map(|at| (at * 7 + number) as u8).collect();
        let bytes = batch(&[&value], Compression::None);
        let ack = bed.produce_batch("damaged", bytes.clone()).await.expect("sound");
        assert_eq!(ack.base_offset, i64::try_from(number).expect("few"));
        sent.push((bytes, value));
    }
    bed.produce(records("sound", vec![value("after")])).await.expect("sound");
    assert_eq!(bed.server.terminate().await, Some(0), "{}", bed.server.log());

    // Names rise with the log, so the files are in the order of the offsets.
    let segments = stored(&bed, "wal");
    let segments = &segments[before..before + damages.len()];
    for ((what, damage), path) in damages.iter().zip(segments) {
        if what == "removed" {
            std::fs::remove_file(path).expect("there");
            continue;
        }
        let mut bytes = std::fs::read(path).expect("there");
        damage(&mut bytes);
        std::fs::write(path, bytes).expect("the test's own");
    }
    restart(&mut bed, logs.path()).await;
    let mut reported = 0;
    for (number, ((what, _), path)) in damages.iter().zip(segments).enumerate() {
        let offset = i64::try_from(number).expect("few");
        let object = format!("wal/{}", path.file_name().and_then(|name| name.to_str()).expect("ASCII"));
        for format in [RecordFormat::Batches, RecordFormat::Records] {
            let fetched = bed.fetch("damaged", 0, offset, format).await;
            if let Some(error) = fetched.error {
                assert_error(&error, ErrorReason::StoredDataCorrupt);
                assert_eq!(error.metadata["object"], object, "{what}");
                assert!(error.message.contains(&object), "{what}: {error:?}");
                assert!(fetched.batches.is_empty() && fetched.records.is_empty(), "{what}");
                reported += 1;
            } else if format == RecordFormat::Batches {
                let batch = &fetched.batches[0];
                assert_eq!(batch.base_offset, offset);
                // The base offset and the leader epoch in the bytes lie outside the checksum and mean nothing.
                let (found, sent) = (&batch.data, &sent[number].0);
                assert!(
                    found[8..12] == sent[8..12] && found[16..] == sent[16..],
                    "{what}: other bytes were served"
                );
            } else {
                let record = &bed.records("damaged", 0, offset).await[0];
                assert_eq!(
                    (record.offset, record.value.as_deref()),
                    (offset, Some(sent[number].1.as_slice())),
                    "{what}"
                );
            }
        }
    }
    println!("{reported} of {} reads reported damage", 2 * damages.len());
    assert!(reported > damages.len(), "{reported} of {}", 2 * damages.len());
    let sound: Vec<_> =
        bed.records("sound", 0, 0).await.into_iter().filter_map(|record| record.value).collect();
    assert_eq!(sound, [b"before".as_slice(), b"after"]);
    // Where the next record goes is in the metadata: writing goes on.
    let ack = bed.produce(records("damaged", vec![value("more")])).await.expect("sound");
    assert_eq!(ack.base_offset, i64::try_from(damages.len()).expect("few"));
    bed.is_well().await;
}

/// Whether it says that clients may come. While it boots it says nothing.
async fn is_ready(server: &Server) -> bool {
    let asked = tokio::time::timeout(Duration::from_secs(1), server.http("/readyz")).await;
    matches!(asked, Ok(Some((200, _))))
}

/// Starts a server that should not start, and returns what it said.
async fn refused(bed: &Bed, logs: &Path) -> String {
    refused_or_waiting(bed, logs, false).await
}

/// The same, where a store that may yet recover is waited for: then what it says while it waits, never being ready.
async fn refused_or_waiting(bed: &Bed, logs: &Path, may_wait: bool) -> String {
    let data = bed.data();
    let arguments = ["--data-dir", data.to_str().expect("a test's path")];
    ended(Server::spawn(free_port(), "dev", &arguments, logs), may_wait).await
}

/// Waits until a server that should not start has ended, and returns what it said last; or, if it may wait, what it says while it waits.
pub async fn ended(mut server: Server, may_wait: bool) -> String {
    let status = server.exited(if may_wait { WAITS_FOR } else { ENDS_WITHIN }).await;
    if status.is_none() && may_wait {
        assert!(!is_ready(&server).await);
        assert_calm(&server);
        assert!(server.log().len() < 64 * 1024, "it floods its log: {} bytes", server.log().len());
        server.kill().await;
        return server.log();
    }
    let status = status.unwrap_or_else(|| panic!("it did not end: {}", server.log()));
    assert!(matches!(status.code(), Some(1..=10)), "{status}: {}", server.log());
    assert_calm(&server);
    let last = server.log().lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("tidelog: "), "{}", server.log());
    last
}

#[tokio::test]
async fn a_damaged_metadata_entry_stops_the_agent_and_is_named() {
    let mut bed = Bed::new().await;
    let logs = tempfile::tempdir().expect("a directory");
    for text in ["one", "two", "three"] {
        bed.produce(records("kept", vec![value(text)])).await.expect("sound");
    }
    assert_eq!(bed.server.terminate().await, Some(0), "{}", bed.server.log());
    // (epoch, sequence) of each entry.
    let entries: BTreeMap<(u64, u64), PathBuf> = stored(&bed, "meta/log")
        .into_iter()
        .map(|path| {
            let number = |part: Option<&std::ffi::OsStr>| {
                part.and_then(|part| part.to_str()?.parse().ok()).expect("a number")
            };
            let epoch = path.parent().and_then(Path::file_name);
            ((number(epoch), number(path.file_name())), path.clone())
        })
        .collect();
    let newest = entries.keys().map(|(epoch, _)| *epoch).max().expect("entries");
    let last = entries.keys().max().copied().expect("entries");
    let damages: [(&str, Damage); 6] = [
        ("a bit flipped", |bytes| bytes[20] ^= 1),
        ("its last bit flipped", |bytes| *bytes.last_mut().expect("bytes") ^= 1),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("emptied", |bytes| bytes.clear()),
        ("zeros", |bytes| bytes.fill(0)),
        ("bytes behind it", |bytes| bytes.extend_from_slice(b"tail")),
    ];
    for place in [(0, 0), (newest, 0), (newest, 2), last] {
        let path = &entries[&place];
        let sound = std::fs::read(path).expect("there");
        for (what, damage) in damages {
            let mut bytes = sound.clone();
            damage(&mut bytes);
            std::fs::write(path, &bytes).expect("the test's own");
            // An entry without a byte is nothing that anybody wrote: the store may yet have another answer.
            let said = refused_or_waiting(&bed, logs.path(), what == "emptied").await;
            println!("{place:?} {what}: {said}");
            assert!(said.contains("metadata entry") || said.contains("meta/log"), "{place:?} {what}: {said}");
            let named = said.contains(&format!("{}", place.0)) && said.contains(&format!("{}", place.1));
            assert!(named || said.contains("first metadata entry"), "{place:?} {what}: {said}");
            assert_eq!(
                std::fs::read(path).expect("there"),
                bytes,
                "what is damaged is evidence, not overwritten"
            );
        }
        std::fs::write(path, sound).expect("the test's own");
    }
    // Nothing was made worse by trying.
    restart(&mut bed, logs.path()).await;
    let found: Vec<_> =
        bed.records("kept", 0, 0).await.into_iter().filter_map(|record| record.value).collect();
    assert_eq!(found, [b"one".as_slice(), b"two", b"three"]);
    bed.is_well().await;
}

#[tokio::test]
async fn a_damaged_cluster_id_stops_the_agent() {
    let mut bed = Bed::new().await;
    let logs = tempfile::tempdir().expect("a directory");
    assert_eq!(bed.server.terminate().await, Some(0), "{}", bed.server.log());
    let path = bed.data().join("meta/cluster");
    let sound = std::fs::read(&path).expect("there");
    let mut other = sound.clone();
    other[0] = if other[0] == b'a' { b'b' } else { b'a' };
    for (what, bytes) in [
        ("another", other),
        ("garbage", vec![0xff; 36]),
        ("emptied", Vec::new()),
        ("cut", sound[..20].to_vec()),
    ] {
        std::fs::write(&path, &bytes).expect("the test's own");
        let said = refused(&bed, logs.path()).await;
        println!("{what}: {said}");
        assert!(said.contains("cluster"), "{what}: {said}");
    }
    std::fs::remove_file(&path).expect("there");
    let said = refused(&bed, logs.path()).await;
    assert!(said.contains("cluster"), "removed: {said}");
    assert!(!path.exists(), "no new cluster was made");
    std::fs::write(&path, sound).expect("the test's own");
    restart(&mut bed, logs.path()).await;
    bed.is_well().await;
}

#[tokio::test]
async fn a_damaged_snapshot_stops_the_agent_and_is_named() {
    let mut bed = Bed::new().await;
    let logs = tempfile::tempdir().expect("a directory");
    bed.produce(records("kept", vec![value("one")])).await.expect("sound");
    // A snapshot is written after 5,000 entries, and each of these is one.
    let mut producer = bed.producer();
    let mut entries = 0;
    while !bed.data().join("meta/snapshots").exists() || stored(&bed, "meta/snapshots").is_empty() {
        for _ in 0..100 {
            producer.init_producer(InitProducerRequest::default()).await.expect("sound");
        }
        entries += 100;
        assert!(entries < 8_000, "no snapshot after {entries} entries");
    }
    // The next epoch names it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(bed.server.terminate().await, Some(0), "{}", bed.server.log());
    let snapshots = stored(&bed, "meta/snapshots");
    let path = snapshots.last().expect("one");
    let name = path.file_name().and_then(|name| name.to_str()).expect("ASCII");
    let sound = std::fs::read(path).expect("there");
    let damages: [(&str, Damage); 5] = [
        ("a bit flipped", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("its first bit flipped", |bytes| bytes[0] ^= 1),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("emptied", |bytes| bytes.clear()),
        ("bytes behind it", |bytes| bytes.extend_from_slice(b"tail")),
    ];
    for (what, damage) in damages {
        let mut bytes = sound.clone();
        damage(&mut bytes);
        std::fs::write(path, &bytes).expect("the test's own");
        let said = refused(&bed, logs.path()).await;
        println!("{what}: {said}");
        assert!(said.contains("snapshot") && said.contains(name), "{what}: {said}");
    }
    // Without it there is no beginning: the agent says so and does not make one up.
    std::fs::remove_file(path).expect("there");
    let data = bed.data();
    let arguments = ["--data-dir", data.to_str().expect("a test's path")];
    let mut server = Server::spawn(free_port(), "dev", &arguments, logs.path());
    let ended = server.exited(Duration::from_secs(5)).await;
    println!("removed: {ended:?}: {}", server.log());
    assert!(server.log().contains(name), "it does not say what is missing: {}", server.log());
    assert!(server.log().len() < 64 * 1024, "it floods its log: {} bytes", server.log().len());
    assert!(ended.is_none_or(|status| !status.success()));
    if ended.is_none() {
        assert!(!is_ready(&server).await);
        server.kill().await;
    }
    assert_calm(&server);
    std::fs::write(path, sound).expect("the test's own");
    restart(&mut bed, logs.path()).await;
    assert_eq!(bed.records("kept", 0, 0).await.len(), 1);
    bed.is_well().await;
}
