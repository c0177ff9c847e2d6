//! Record batches that are damaged, contradict themselves, or are of a kind that is not supported: refused, and nothing is stored.

use tidelog_proto::v1::produce_partition::Payload;
use tidelog_proto::v1::{
    self, ErrorReason, GetTopicRequest, ProducePartition, ProducerStamp, Record, RecordFormat,
    list_offsets_result,
};
use tidelog_record::{BatchBuilder, Compression, RecordRef, crc32c};
use tidelog_types::TimestampMs;

use crate::bed::{Bed, MIB, assert_error, entry, records, value};

/// Where fields of a batch lie.
const LENGTH_AT: usize = 8;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const PRODUCER_ID_AT: usize = 43;
const COUNT_AT: usize = 57;

/// A batch of records with these values.
pub fn batch(values: &[&[u8]], compression: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression);
    for value in values {
        let record = RecordRef { timestamp: TimestampMs(1), key: None, value: Some(value), headers: &[] };
        builder.append(record).expect("it fits");
    }
    builder.build().expect("it has records").to_vec()
}

/// The batch with other bytes at a place, and a CRC that is right again.
pub fn changed(batch: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// The count of records and the last offset delta, both as told.
fn claiming(batch: &[u8], count: i32) -> Vec<u8> {
    let delta = changed(batch, LAST_OFFSET_DELTA_AT, &(count - 1).to_be_bytes());
    changed(&delta, COUNT_AT, &count.to_be_bytes())
}

#[tokio::test]
async fn what_is_no_batch_is_not_stored() {
    let mut bed = Bed::new().await;
    bed.topic("b", 1, &[]).await;
    let good = batch(&[b"first", b"second"], Compression::None);
    let flipped = |at: usize| {
        let mut batch = good.clone();
        batch[at] ^= 0x10;
        batch
    };
    let length = |length: i32| changed(&good, LENGTH_AT, &length.to_be_bytes());
    let bits = |bits: u16| changed(&good, ATTRIBUTES_AT, &bits.to_be_bytes());
    use ErrorReason::{BatchTooLarge, CorruptBatch, Unsupported};
    let rows: Vec<(&str, Vec<u8>, ErrorReason)> = vec![
        ("a wrong CRC", flipped(CRC_AT), CorruptBatch),
        ("a flipped bit in the attributes", flipped(ATTRIBUTES_AT), CorruptBatch),
        ("a flipped bit in the last record", flipped(good.len() - 1), CorruptBatch),
        ("magic 0", changed(&good, MAGIC_AT, &[0]), Unsupported),
        ("magic 1", changed(&good, MAGIC_AT, &[1]), Unsupported),
        ("magic 3", changed(&good, MAGIC_AT, &[3]), Unsupported),
        ("magic 255", changed(&good, MAGIC_AT, &[255]), Unsupported),
        ("length 0", length(0), CorruptBatch),
        ("length -1", length(-1), CorruptBatch),
        ("length of 2 GiB", length(i32::MAX), CorruptBatch),
        ("length one short", length(i32::try_from(good.len()).expect("small") - 13), CorruptBatch),
        ("a byte after it", [good.as_slice(), b"x"].concat(), CorruptBatch),
        ("two batches", [good.as_slice(), &good].concat(), CorruptBatch),
        ("its last byte missing", good[..good.len() - 1].to_vec(), CorruptBatch),
        ("half a header", good[..30].to_vec(), CorruptBatch),
        ("one byte", vec![0], CorruptBatch),
        ("zeros, which is magic 0", vec![0; 100], Unsupported),
        ("no records", claiming(&good, 0), CorruptBatch),
        ("a negative count", changed(&good, COUNT_AT, &(-1_i32).to_be_bytes()), CorruptBatch),
        (
            "a count that the last offset contradicts",
            changed(&good, COUNT_AT, &3_i32.to_be_bytes()),
            CorruptBatch,
        ),
        (
            "a last offset that the count contradicts",
            changed(&good, LAST_OFFSET_DELTA_AT, &[0; 4]),
            CorruptBatch,
        ),
        ("codec 5", bits(5), Unsupported),
        ("codec 7", bits(7), Unsupported),
        ("a transaction", bits(1 << 4), Unsupported),
        ("a control batch", bits(1 << 5), Unsupported),
        ("a control batch of a transaction", bits(3 << 4), Unsupported),
        ("log append time", bits(1 << 3), Unsupported),
        ("a delete horizon", bits(1 << 6), Unsupported),
        ("undefined bits", bits(1 << 15), Unsupported),
        ("a producer id of -2", changed(&good, PRODUCER_ID_AT, &(-2_i64).to_be_bytes()), CorruptBatch),
        ("a producer with epoch -1", changed(&good, PRODUCER_ID_AT, &1_i64.to_be_bytes()), CorruptBatch),
        ("2 MiB of anything", vec![7; 2 * MIB as usize], BatchTooLarge),
    ];
    for (what, bytes, reason) in rows {
        let error = match bed.produce_batch("b", bytes).await {
            Err(error) => error,
            Ok(ack) => panic!("a batch with {what} was stored: {ack:?}"),
        };
        println!("{what}: {}", error.message);
        assert_error(&error, reason);
    }
    let stamp = Some(ProducerStamp { producer_id: 1, producer_epoch: 0, base_sequence: 0 });
    let both = ProducePartition { stamp, ..entry("b", 0, Payload::Batch(good.clone().into())) };
    assert_error(&bed.produce(both).await.expect_err("two stamps"), ErrorReason::InvalidRequest);

    let topic =
        bed.admin().get_topic(GetTopicRequest { name: "b".into() }).await.expect("there").into_inner();
    assert_eq!(topic.partitions[0].high_watermark, 0, "nothing was stored");
    // The fields outside the CRC are the producer's own; they mean nothing here.
    let mut odd = good.clone();
    odd[..8].copy_from_slice(&(-5_i64).to_be_bytes());
    odd[12..16].copy_from_slice(&i32::MIN.to_be_bytes());
    let ack = bed.produce_batch("b", odd).await.expect("sound");
    assert_eq!((ack.base_offset, ack.end_offset), (0, 2));
    bed.is_well().await;
}

#[tokio::test]
async fn records_that_contradict_their_batch_harm_nobody_else() {
    let mut bed = Bed::new().await;
    bed.topic("b", 1, &[]).await;
    let good = batch(&[b"first", b"second"], Compression::None);
    let ack = bed.produce_batch("b", good.clone()).await.expect("sound");
    assert_eq!(ack.base_offset, 0);
    let zstd = batch(&[&[b'z'; 1000]], Compression::Zstd);
    let mut torn = zstd.clone();
    torn[61] ^= 0xff;
    let rows = [
        ("three where there are two", claiming(&good, 3)),
        ("one where there are two", claiming(&good, 1)),
        ("two billion", claiming(&good, i32::MAX)),
        ("two billion, compressed", claiming(&zstd, i32::MAX)),
        ("no zstd", changed(&good, ATTRIBUTES_AT, &4_u16.to_be_bytes())),
        ("torn zstd", changed(&torn, 0, &[])),
        ("a length of a record of 2 GiB", changed(&good, 61, &[0xfe, 0xff, 0xff, 0xff, 0x0f])),
    ];
    // The agent does not decompress what it stores. It may refuse such a batch; if it stores it, whoever asks for records gets an
    // error, never wrong records, and what comes after it can be read.
    for (what, bytes) in rows {
        let stored = match bed.produce_batch("b", bytes.clone()).await {
            Err(error) => {
                assert_error(&error, ErrorReason::CorruptBatch);
                continue;
            }
            Ok(ack) => ack,
        };
        println!("stored: {what}: {stored:?}");
        let fetched = bed.fetch("b", 0, stored.base_offset, RecordFormat::Records).await;
        assert_error(&fetched.error.expect("no records can be made of it"), ErrorReason::StoredDataCorrupt);
        assert!(fetched.records.is_empty());
        let fetched = bed.fetch("b", 0, stored.base_offset, RecordFormat::Batches).await;
        assert_eq!((fetched.error, &fetched.batches[0].data[..]), (None, bytes.as_slice()), "{what}");
        let after = bed.produce(records("b", vec![value("after")])).await.expect("sound");
        let found = bed.records("b", 0, after.base_offset).await;
        assert_eq!(found[0].value.as_deref(), Some(b"after".as_slice()), "{what}");
        // By time as well: a bounded answer, whichever.
        let at = Some(v1::list_offsets_partition::At::TimestampMs(1));
        let wanted = v1::ListOffsetsPartition { topic: "b".into(), at, ..Default::default() };
        let answer = bed.admin().list_offsets(v1::ListOffsetsRequest { partitions: vec![wanted] }).await;
        let result = answer.expect("sound").into_inner().results.remove(0).result;
        assert!(
            matches!(result, Some(list_offsets_result::Result::Found(_))),
            "the first record is sound: {result:?}"
        );
    }
    bed.is_well().await;
}

#[tokio::test]
async fn a_batch_may_be_exactly_as_large_as_the_topic_says() {
    let mut bed = Bed::new().await;
    for limit in [1024_usize, MIB as usize, 8 * MIB as usize] {
        let topic = format!("max-{limit}");
        bed.topic(&topic, 1, &[("max.message.bytes", &limit.to_string())]).await;
        let sized = |bytes: usize| {
            let overhead = batch(&[&vec![7; limit - 100]], Compression::None).len() - (limit - 100);
            let batch = batch(&[&vec![7; bytes - overhead]], Compression::None);
            assert_eq!(batch.len(), bytes);
            batch
        };
        let error = bed.produce_batch(&topic, sized(limit + 1)).await.expect_err("one byte too large");
        assert_error(&error, ErrorReason::BatchTooLarge);
        let told = (error.metadata["size"].as_str(), error.metadata["limit"].as_str());
        assert_eq!(told, (&*(limit + 1).to_string(), &*limit.to_string()));
        let exact = sized(limit);
        let ack = bed.produce_batch(&topic, exact.clone()).await.expect("exactly as large");
        assert_eq!(ack.base_offset, 0, "the larger one was not stored");
        let fetched = bed.fetch(&topic, 0, 0, RecordFormat::Batches).await;
        assert!(fetched.batches[0].data == exact, "it came back changed");

        // The same from plain records.
        let overhead = batch(&[&vec![7; limit - 100]], Compression::None).len() - (limit - 100);
        let record = |bytes: usize| {
            let value = Some(vec![7; bytes - overhead].into());
            records(&topic, vec![Record { value, timestamp_ms: Some(1), ..Record::default() }])
        };
        let error = bed.produce(record(limit + 1)).await.expect_err("one byte too large");
        assert_error(&error, ErrorReason::BatchTooLarge);
        let ack = bed.produce(record(limit)).await.expect("exactly as large");
        assert_eq!(ack.base_offset, 1);
    }
    bed.is_well().await;
}
