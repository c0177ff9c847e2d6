//! Damaged items of a metadata table: the error names the item, and nothing is made worse.

use std::collections::BTreeMap;

use tidelog_integration::{Server, free_port, tidelog};
use tidelog_test_services::{Kind, require};

use crate::stand_in::StandIn;
use crate::stored::ended;

/// What can happen to an item: from its bytes in base64 to the attribute that takes their place.
type ItemDamage = fn(&str) -> String;

#[tokio::test]
async fn a_damaged_item_stops_the_agent_and_is_named() {
    let Some(dynamodb) = require(Kind::DynamoDbLocal).await else { return };
    let (store, own) = (StandIn::start().await, tempfile::tempdir().expect("a directory"));
    let table = dynamodb.table("damaged");
    let (storage, metadata) = (store.storage_url(), dynamodb.metadata_url(&table));
    let stores = ["--storage", storage.as_str(), "--metadata", &metadata];
    tidelog(None, &[["init"].as_slice(), &stores].concat(), Vec::new()).await.ok();
    let mut server = Server::start("agent", &stores, own.path()).await;
    server.run(&["topic", "create", "kept"], "").await.ok();
    server.run(&["produce", "kept"], "one\n").await.ok();
    assert_eq!(server.terminate().await, Some(0), "{}", server.log());

    let ask = async |operation: &str, json: String| {
        let answer = dynamodb.dynamodb(operation, &json).await.expect("it answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    };
    let scanned = ask("Scan", format!("{{\"TableName\":\"{table}\"}}")).await;
    let text = |item: &str, before: &str| {
        let after = item.split_once(before).expect("an item has it").1;
        after.split('"').next().expect("its end").to_owned()
    };
    // Place, and the entry in base64.
    let items: BTreeMap<String, String> =
        scanned.split("}},{").map(|item| (text(item, "\"S\":\""), text(item, "\"B\":\""))).collect();
    let first = items.keys().next().expect("entries");
    let last = items.keys().last().expect("entries");
    let damages: [(&str, ItemDamage); 2] = [
        ("bits flipped", |entry| {
            let (head, tail) = entry.split_at(entry.len() / 2);
            let other = if tail.starts_with('A') { "B" } else { "A" };
            format!("{{\"B\":\"{head}{other}{}\"}}", &tail[1..])
        }),
        ("cut", |entry| format!("{{\"B\":\"{}\"}}", &entry[..entry.len() / 8 * 4])),
    ];
    // What nobody can have written as an entry.
    let others: [(&str, ItemDamage); 4] = [
        ("emptied", |_| "{\"B\":\"\"}".to_owned()),
        ("of another type", |entry| format!("{{\"S\":\"{entry}\"}}")),
        ("of another kind", |_| "{\"NULL\":true}".to_owned()),
        ("far too long", |_| format!("{{\"B\":\"{}\"}}", "A".repeat(90_000))),
    ];
    let places = [first.as_str(), "0/0000000001/0000000000", "0/0000000001/0000000002", last];
    let rows = places.into_iter().flat_map(|place| damages.map(|damage| (place, damage, false)));
    // An agent that boots waits for somebody to mend the store; the beginning of a cluster is looked at before.
    let more = [(first.as_str(), false), (last, true)];
    let more = more.into_iter().flat_map(|(place, waits)| others.map(|damage| (place, damage, waits)));
    for (place, (what, damage), may_wait) in rows.chain(more) {
        let put = |entry: &str| {
            let place = format!("\"place\":{{\"S\":\"{place}\"}}");
            ask("PutItem", format!("{{\"TableName\":\"{table}\",\"Item\":{{{place},\"entry\":{entry}}}}}"))
        };
        put(&damage(&items[place])).await;
        let said = ended(Server::spawn(free_port(), "agent", &stores, own.path()), may_wait).await;
        put(&format!("{{\"B\":\"{}\"}}", items[place])).await;
        println!("{place} {what}: {said}");
        let numbers: Vec<u64> =
            place.split('/').skip(1).map(|number| number.parse().expect("a number")).collect();
        let at = format!("metadata entry at ({}, {})", numbers[0], numbers[1]);
        let is_named = said.contains(&at)
            || said.contains(&table) && (said.contains(place) || said.contains("first metadata entry"));
        assert!(is_named, "{place} {what}: {said}");
    }
    let server = Server::start("agent", &stores, own.path()).await;
    let kept = server.run(&["consume", "kept", "--offset", "start", "--exit-at-end"], "").await.ok();
    assert_eq!(kept.text(), "one\n", "nothing was made worse by trying");
}
