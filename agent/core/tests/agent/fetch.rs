//! Reading: what it costs, when it waits, and what damage does.

use std::time::Duration;

use tidelog_agent::{
    FetchError, FetchLimits, FetchRequest, OffsetQuery, Settings, StartAt, SubscribePartition, TopicRef,
};
use tidelog_types::TimestampMs;
use tokio::time::Instant;

use crate::faults::GetFault;
use crate::harness::{Running, Stores, at, base, batch, encoded, name, offset, partition, values_of};

fn fast() -> Settings {
    Settings { flush_interval: Duration::from_millis(10), ..Settings::default() }
}

/// An agent that has written `segments` segments, each with a batch in each of `partitions` partitions, was restarted
/// since, and so has nothing in memory.
async fn written(stores: &Stores, segments: usize, partitions: i32, settings: Settings) -> Running {
    let running = stores.start_with_topic(fast(), u32::try_from(partitions).expect("positive")).await;
    for n in 0..segments {
        let sent = (0..partitions).map(|p| batch(p, &[&format!("{n} in {p}"), "more"])).collect();
        for result in running.send(sent).await.await {
            assert_eq!(base(&result), i64::try_from(n).expect("small") * 2);
        }
    }
    running.crash().await;
    let again = stores.start(settings);
    again.agent.admin().topics(None, 1).await.expect("ready");
    again
}

#[tokio::test(start_paused = true)]
async fn a_fetch_spans_segments_and_reads_each_once() {
    let stores = Stores::new().await;
    let running = written(&stores, 20, 3, fast()).await;
    let read = running.fetch_with((0..3).map(|p| at(p, 0)).collect(), Duration::ZERO).await;
    assert_eq!(running.gets(), 20, "the slices of one object are one read");
    for (p, read) in read.into_iter().enumerate() {
        let read = read.expect("readable");
        assert_eq!((read.high_watermark.get(), read.next_offset.get()), (40, 40));
        let values = values_of(&read);
        assert_eq!(values.len(), 40);
        assert_eq!(values[38], (38, format!("19 in {p}")));
    }
    running.values(1).await;
    assert_eq!(running.gets(), 20, "and once only");
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn readers_of_the_same_slice_share_one_read() {
    let stores = Stores::new().await;
    let running = written(&stores, 1, 1, fast()).await;
    *stores.segments.all_gets.lock() = Some(GetFault::Slow(Duration::from_secs(1)));
    let reads = futures::future::join_all((0..50).map(|_| running.fetch(0, 0))).await;
    assert!(reads.iter().all(|read| read.as_ref().is_ok_and(|read| read.next_offset == offset(2))));
    assert_eq!(running.gets(), 1);
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_comes_whole_and_limits_hold_after_it() {
    let stores = Stores::new().await;
    let running = written(&stores, 5, 2, fast()).await;
    let request = |max_bytes, partition_max| {
        let mut partitions = vec![at(0, 0), at(1, 0)];
        partitions.iter_mut().for_each(|wanted| wanted.max_bytes = partition_max);
        FetchRequest { partitions, min_bytes: 1, max_bytes, max_wait: Duration::ZERO }
    };
    let counts = |response: Vec<Result<tidelog_agent::FetchedPartition, FetchError>>| {
        response.into_iter().map(|read| read.expect("readable").batches.len()).collect::<Vec<_>>()
    };
    assert_eq!(counts(running.agent.fetch(request(1, usize::MAX)).await), [1, 0]);
    assert_eq!(counts(running.agent.fetch(request(usize::MAX, 1)).await), [1, 0]);
    assert_eq!(counts(running.agent.fetch(request(usize::MAX, 170)).await), [2, 2]);
    assert_eq!(counts(running.agent.fetch(request(usize::MAX, usize::MAX)).await), [5, 5]);
    // In the middle of a batch: the batch comes whole.
    let read = running.fetch(0, 3).await.expect("readable");
    assert_eq!(read.batches[0].base_offset, offset(2));
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_with_the_commit() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 2).await;
    let agent = running.agent.clone();
    let since = Instant::now();
    let polling = tokio::spawn(async move {
        let partitions = vec![at(0, 0), at(1, 0)];
        let max_wait = Duration::from_secs(20);
        (
            agent.fetch(FetchRequest { partitions, min_bytes: 1, max_bytes: 1 << 20, max_wait }).await,
            Instant::now(),
        )
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    running.produce(batch(1, &["a"])).await.expect("acknowledged");
    let acknowledged = Instant::now();
    let (response, answered) = polling.await.expect("no panic");
    assert_eq!(values_of(response[1].as_ref().expect("readable")), [(0, "a".to_owned())]);
    assert!(response[0].as_ref().expect("readable").batches.is_empty());
    assert!(answered <= acknowledged + Duration::from_millis(1), "{:?}", answered - since);
    assert_eq!(running.gets(), 0, "it was written through");
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_with_its_time_and_with_the_agent() {
    let stores = Stores::new().await;
    let running = stores.start_with_topic(fast(), 1).await;
    let since = Instant::now();
    let response = running.fetch_with(vec![at(0, 0)], Duration::from_secs(3)).await;
    assert!(response[0].as_ref().expect("readable").batches.is_empty());
    assert_eq!(since.elapsed().as_secs(), 3);
    // Whatever is asked for, the wait is bounded.
    let since = Instant::now();
    running.fetch_with(vec![at(0, 0)], Duration::MAX).await;
    assert_eq!(since.elapsed(), FetchLimits::default().wait_max);
    let agent = running.agent.clone();
    let polling = tokio::spawn(async move {
        let request = FetchRequest {
            partitions: vec![at(0, 0)],
            min_bytes: usize::MAX,
            max_bytes: usize::MAX,
            max_wait: Duration::from_secs(20),
        };
        agent.fetch(request).await
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let since = Instant::now();
    running.stop().await.expect("a clean stop");
    polling.await.expect("no panic");
    assert!(since.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn too_many_partitions_are_cut_off() {
    let stores = Stores::new().await;
    let settings = Settings { fetch: FetchLimits { partitions_max: 3, ..FetchLimits::default() }, ..fast() };
    let running = stores.start_with_topic(settings, 1).await;
    let response = running.fetch_with((0..1000).map(|_| at(0, 0)).collect(), Duration::ZERO).await;
    assert_eq!(response.len(), 1000);
    assert!(response[2].is_ok());
    assert!(matches!(response[999], Err(FetchError::TooManyPartitions { max: 3 })));
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn offsets_outside_the_partition_name_its_ends() {
    let stores = Stores::new().await;
    let running = written(&stores, 3, 1, fast()).await;
    let topic = TopicRef { name: name("t"), id: None };
    let start =
        running.agent.admin().delete_records(&topic, partition(0), Some(offset(3))).await.expect("deleted");
    assert_eq!(start, offset(3));
    let out = |earliest, latest| FetchError::OffsetOutOfRange {
        earliest: offset(earliest),
        latest: offset(latest),
    };
    assert_eq!(running.fetch(0, 2).await.err(), Some(out(3, 6)));
    assert_eq!(running.fetch(0, 7).await.err(), Some(out(3, 6)));
    assert_eq!(running.fetch(0, i64::MAX).await.err(), Some(out(3, 6)));
    assert!(running.fetch(0, 6).await.expect("the end can be waited at").batches.is_empty());
    assert_eq!(values_of(&running.fetch(0, 3).await.expect("readable")).len(), 4, "the batch comes whole");
    assert!(matches!(running.fetch(1, 0).await, Err(FetchError::UnknownPartition { partitions: 1, .. })));
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn damage_in_the_store_is_an_error_for_that_partition_only() {
    let stores = Stores::new().await;
    let running = written(&stores, 1, 2, Settings { cache_memory: 0, ..fast() }).await;
    let segment = stores.segments.segments().await.remove(0);
    let slice = running.metadata.read(|state| {
        let topic = state.topic_by_name(&name("t")).expect("exists");
        *topic.partition(partition(1)).expect("exists").slices().first().expect("written")
    });
    let range = slice.position as usize..(slice.position + slice.length) as usize;
    for position in range {
        stores.segments.damage(&segment, |bytes| bytes[position] ^= 0x10).await;
        let read = running.fetch_with(vec![at(0, 0), at(1, 0)], Duration::ZERO).await;
        assert_eq!(values_of(read[0].as_ref().expect("unharmed")).len(), 2);
        match &read[1] {
            Err(FetchError::Corrupt { object, .. }) => assert_eq!(*object, segment.to_string()),
            // Base offset and leader epoch lie outside the CRC and mean nothing: the records are as they were.
            Ok(read) => {
                assert!(position < slice.position as usize + 16, "byte {position}");
                assert_eq!(values_of(read), [(0, "0 in 1".to_owned()), (1, "more".to_owned())]);
            }
            other => panic!("byte {position}: {other:?}"),
        }
        stores.segments.damage(&segment, |bytes| bytes[position] ^= 0x10).await;
    }
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn another_batch_in_the_place_of_one_is_damage() {
    let stores = Stores::new().await;
    let running = written(&stores, 1, 1, fast()).await;
    let other = encoded(&["one of 17 letters"], None);
    assert_eq!(other.len(), encoded(&["0 in 0", "more"], None).len());
    let segment = stores.segments.segments().await.remove(0);
    stores.segments.damage(&segment, |bytes| bytes[8..8 + other.len()].copy_from_slice(&other)).await;
    let read = running.fetch(0, 0).await;
    assert!(
        matches!(&read, Err(FetchError::Corrupt { object, .. }) if *object == segment.to_string()),
        "{read:?}"
    );
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn damage_in_transfer_is_read_again() {
    for fault in [GetFault::FlipInTransfer(70), GetFault::Truncate] {
        let stores = Stores::new().await;
        let running = written(&stores, 1, 1, fast()).await;
        stores.segments.on_gets([fault.clone()]);
        assert_eq!(running.values(0).await.len(), 2, "{fault:?}");
        assert_eq!(running.gets(), 2, "{fault:?}");
        running.stop().await.expect("a clean stop");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_object_is_loud_and_a_missed_one_is_not() {
    let stores = Stores::new().await;
    let running = written(&stores, 2, 1, fast()).await;
    let segments = stores.segments.segments().await;
    stores.segments.on_gets([GetFault::NotFound]);
    assert_eq!(
        running.fetch(0, 0).await.map(|read| read.next_offset),
        Ok(offset(4)),
        "read again after a confirm"
    );
    running.crash().await;
    let running = stores.start(fast());
    running.agent.admin().topics(None, 1).await.expect("ready");
    stores.segments.remove(&segments[1]).await;
    let read = running.fetch(0, 0).await.expect("what is there is served");
    assert_eq!(read.next_offset, offset(2));
    let lost = running.fetch(0, 2).await;
    assert!(
        matches!(&lost, Err(FetchError::Corrupt { object, .. }) if *object == segments[1].to_string()),
        "{lost:?}"
    );
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_an_error_within_the_deadline() {
    let stores = Stores::new().await;
    let running = written(&stores, 1, 1, fast()).await;
    for fault in [GetFault::Error, GetFault::Slow(Duration::from_secs(3600))] {
        *stores.segments.all_gets.lock() = Some(fault);
        let since = Instant::now();
        assert!(matches!(running.fetch(0, 0).await, Err(FetchError::StorageUnavailable { .. })));
        assert!(since.elapsed() <= Duration::from_secs(21));
    }
    *stores.segments.all_gets.lock() = None;
    assert_eq!(running.values(0).await.len(), 2, "an error is not kept");
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn old_reads_do_not_hold_up_new_ones() {
    let stores = Stores::new().await;
    let limits = FetchLimits { cold_reads: 1, tail_reads: 1, ..FetchLimits::default() };
    let running = written(&stores, 3, 2, Settings { fetch: limits, cache_memory: 0, ..fast() }).await;
    stores.pass(Duration::from_secs(120)).await;
    running.produce(batch(1, &["new"])).await.expect("acknowledged");
    *stores.segments.all_gets.lock() = Some(GetFault::Slow(Duration::from_secs(1)));
    let since = Instant::now();
    let (old, new) = tokio::join!(
        async {
            running.fetch(0, 0).await.expect("readable");
            since.elapsed().as_secs()
        },
        async {
            running.fetch(1, 6).await.expect("readable");
            since.elapsed().as_secs()
        }
    );
    assert_eq!((old, new), (3, 1), "seconds, one read at a time in each pool");
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn offsets_are_found_by_time() {
    let stores = Stores::new().await;
    // Each batch has the timestamps 1000 and 1001.
    let running = written(&stores, 3, 1, fast()).await;
    let topic = name("t");
    let find = |query| running.agent.find_offset(&topic, None, partition(0), query);
    let found = |result: Result<tidelog_agent::FoundOffset, FetchError>| {
        let found = result.expect("found");
        (found.offset.get(), found.timestamp.map(|timestamp| timestamp.0))
    };
    assert_eq!(found(find(OffsetQuery::Earliest).await), (0, None));
    assert_eq!(found(find(OffsetQuery::Latest).await), (6, None));
    assert_eq!(found(find(OffsetQuery::AtTime(TimestampMs(i64::MIN))).await), (0, Some(1000)));
    assert_eq!(found(find(OffsetQuery::AtTime(TimestampMs(1001))).await), (1, Some(1001)));
    assert_eq!(found(find(OffsetQuery::AtTime(TimestampMs(1002))).await), (6, None));
    let reference = TopicRef { name: topic.clone(), id: None };
    running.agent.admin().delete_records(&reference, partition(0), Some(offset(2))).await.expect("deleted");
    assert_eq!(found(find(OffsetQuery::AtTime(TimestampMs(0))).await), (2, Some(1000)));
    running.agent.admin().delete_records(&reference, partition(0), Some(offset(3))).await.expect("deleted");
    assert_eq!(found(find(OffsetQuery::AtTime(TimestampMs(0))).await), (3, Some(1001)));
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_delivers_everything_once_and_in_order() {
    let stores = Stores::new().await;
    let running = written(&stores, 10, 2, fast()).await;
    let wanted = |index, start| SubscribePartition {
        topic: name("t"),
        topic_id: None,
        partition: partition(index),
        start,
    };
    let partitions = vec![
        wanted(0, StartAt::Found(OffsetQuery::Earliest)),
        wanted(1, StartAt::Offset(offset(5))),
        wanted(9, StartAt::Found(OffsetQuery::Latest)),
    ];
    let mut subscription = running.agent.subscribe(partitions, 200).await;
    let failed = subscription.next(Duration::ZERO).await;
    assert!(matches!(failed[0].result, Err(FetchError::UnknownPartition { .. })));
    let mut next = [0, 5];
    while next != [20, 20] {
        for delivery in subscription.next(Duration::from_secs(1)).await {
            let index = delivery.partition.position();
            for (offset, _) in values_of(&delivery.result.expect("readable")) {
                // The first batch of partition 1 begins before what was asked for.
                if offset >= next[index] {
                    assert_eq!(offset, next[index], "INV-20");
                    next[index] += 1;
                }
            }
        }
    }
    assert!(subscription.next(Duration::from_secs(1)).await.is_empty(), "time for a heartbeat");
    let progress = subscription.progress();
    assert!(progress.iter().all(|progress| progress.next_offset == progress.high_watermark));
    running.produce(batch(0, &["new"])).await.expect("acknowledged");
    assert_eq!(subscription.next(Duration::from_secs(1)).await.len(), 1);
    let topic = TopicRef { name: name("t"), id: None };
    running.agent.admin().delete_topic(&topic).await.expect("deleted");
    let ended = subscription.next(Duration::from_secs(1)).await;
    assert_eq!(ended.len(), 2);
    assert!(subscription.is_finished());
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_cache_of_nothing_serves_all_the_same() {
    let stores = Stores::new().await;
    let running = written(&stores, 5, 2, Settings { cache_memory: 0, ..fast() }).await;
    assert_eq!(running.values(0).await.len(), 10);
    running.produce(batch(0, &["x"])).await.expect("acknowledged");
    assert_eq!(running.values(0).await.len(), 11);
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_reads_again_what_could_not_be_passed_on() {
    let stores = Stores::new().await;
    let running = written(&stores, 3, 2, fast()).await;
    let partitions = (0..2).map(|index| SubscribePartition {
        topic: name("t"),
        topic_id: None,
        partition: partition(index),
        start: StartAt::Offset(offset(0)),
    });
    let mut subscription = running.agent.subscribe(partitions.collect(), usize::MAX).await;
    assert_eq!(subscription.next(Duration::ZERO).await.len(), 2);
    subscription.read_on(&name("t"), partition(0), Some(offset(2)));
    let again = subscription.next(Duration::ZERO).await;
    let offsets: Vec<i64> =
        values_of(again[0].result.as_ref().expect("readable")).iter().map(|v| v.0).collect();
    assert_eq!((again.len(), again[0].partition, offsets), (1, partition(0), vec![2, 3, 4, 5]));
    subscription.read_on(&name("t"), partition(0), None);
    subscription.read_on(&name("t"), partition(1), None);
    assert!(subscription.is_finished());
    running.stop().await.expect("a clean stop");
}

#[tokio::test(start_paused = true)]
async fn what_another_agent_created_a_moment_ago_is_no_unknown_topic() {
    let stores = Stores::new().await;
    let running = stores.start(fast());
    running.agent.admin().create_topic(&name("other"), 1, Vec::new()).await.expect("created");
    // It takes over, and the first one does not know yet.
    let another = stores.start(fast());
    another.agent.admin().create_topic(&name("t"), 1, Vec::new()).await.expect("created");
    assert!(running.metadata.read(|state| state.topic_by_name(&name("t")).is_none()));
    assert_eq!(running.fetch(0, 0).await.expect("known").high_watermark, offset(0));
    another.crash().await;
    running.crash().await;

    let (running, another) = (stores.start(fast()), stores.start(fast()));
    another.agent.admin().create_topic(&name("u"), 1, Vec::new()).await.expect("created");
    assert!(running.metadata.read(|state| state.topic_by_name(&name("u")).is_none()));
    let at = SubscribePartition {
        topic: name("u"),
        topic_id: None,
        partition: partition(0),
        start: StartAt::Offset(offset(0)),
    };
    let subscription = running.agent.subscribe(vec![at], usize::MAX).await;
    assert_eq!(subscription.progress().len(), 1);
    another.crash().await;
    running.crash().await;
}
