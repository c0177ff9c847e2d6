//! A real data set goes in through `tidelog produce` and comes back byte-identical and in order per partition through
//! `tidelog consume`, on each set-up of stores.

use tidelog_integration::{Server, Stores, StoresKind, dataset};

async fn round_trip(kind: StoresKind) {
    let Some(stores) = Stores::new(kind, "round-trip").await else { return };
    let mut server = Server::on(&stores).await;
    let flights = dataset::lines("flights-200k.jsonl");
    let github = dataset::lines("github.csv");
    let file = stores.directory().join("flights.jsonl");
    std::fs::write(&file, &flights).expect("the test's own directory");

    // One partition: the whole file, in order.
    server.run(&["topic", "create", "flights"], "").await.ok();
    let path = file.to_string_lossy().into_owned();
    let produced = server.run(&["produce", "flights", &path], "").await.ok();
    assert!(produced.err.contains("200000"), "says how many were acknowledged: {}", produced.err);
    let consumed = server.run(&["consume", "flights", "--offset", "start", "--exit-at-end"], "").await.ok();
    assert_eq!(consumed.out.len(), flights.len());
    assert!(consumed.out == flights, "flights came back changed");

    // Several partitions, keyed: every partition in the order of the input, nothing twice, nothing missing.
    server.run(&["topic", "create", "github", "--partitions", "4"], "").await.ok();
    server
        .run(&["produce", "github", "--key-delimiter", ",", "--compression", "zstd"], github.clone())
        .await
        .ok();
    let mut rows = 0;
    let input: Vec<&[u8]> = github.split_inclusive(|byte| *byte == b'\n').collect();
    for partition in ["0", "1", "2", "3"] {
        let arguments = [
            "consume",
            "github",
            "--offset",
            "start",
            "--exit-at-end",
            "--partition",
            partition,
            "--format",
            "%k,%v\n",
        ];
        let out = server.run(&arguments, "").await.ok().out;
        let mut rest = input.iter();
        for row in out.split_inclusive(|byte| *byte == b'\n') {
            assert!(rest.any(|line| *line == row), "{:?} is out of order", String::from_utf8_lossy(row));
            rows += 1;
        }
    }
    assert_eq!(rows, input.len());

    // What an agent acknowledged, its successor serves.
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());
    let server = Server::on(&stores).await;
    let consumed = server.run(&["consume", "flights", "--offset", "start", "--exit-at-end"], "").await.ok();
    assert!(consumed.out == flights, "flights came back changed after a restart");

    // JSON output is JSON input: the copy equals the original, offsets apart.
    server.run(&["topic", "create", "copy"], "").await.ok();
    let json =
        ["consume", "github", "--offset", "start", "--exit-at-end", "--partition", "1", "--format", "json"];
    let exported = server.run(&json, "").await.ok().out;
    server.run(&["produce", "copy", "--input", "json", "--partition", "0"], exported.clone()).await.ok();
    let copied = ["consume", "copy", "--offset", "start", "--exit-at-end", "--format", "json"];
    let copied = server.run(&copied, "").await.ok().text();
    let expected = String::from_utf8_lossy(&exported)
        .replace("\"topic\":\"github\"", "\"topic\":\"copy\"")
        .replace("\"partition\":1", "\"partition\":0");
    assert_eq!(copied, expected);
}

#[tokio::test]
async fn embedded() {
    round_trip(StoresKind::Embedded).await;
}

#[tokio::test]
async fn minio_and_dynamodb_local() {
    round_trip(StoresKind::MinioDynamoDb).await;
}

#[tokio::test]
async fn seaweedfs_with_metadata_in_the_bucket() {
    round_trip(StoresKind::SeaweedFs).await;
}

#[tokio::test]
async fn localstack() {
    round_trip(StoresKind::LocalStack).await;
}
