#!/usr/bin/env python3
"""A client that was not written with Tidelog: stock grpcio, stubs generated from proto/, nothing else.

    client.py --endpoint 127.0.0.1:7070

Produces and consumes in each way that the contract offers and checks what comes back, value by value. Ends with the line
'N passed, N failed' and exits non-zero if anything is not as the contract says."""

import argparse
import importlib
import json
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

import grpc
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"


def generate_stubs():
    """Compiles proto/tidelog/v1 into a temporary package and imports it."""
    out = tempfile.mkdtemp(prefix="tidelog-stubs-")
    files = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "tidelog" / "v1").glob("*.proto"))
    if protoc.main(["protoc", f"-I{PROTO}", f"--python_out={out}", f"--grpc_python_out={out}", *files]) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, out)
    names = ["producer_service", "consumer_service", "admin_service", "group_service", "record", "error"]
    modules = [importlib.import_module(f"tidelog.v1.{name}_pb2") for name in names]
    stubs = [importlib.import_module(f"tidelog.v1.{name}_pb2_grpc") for name in names[:4]]
    return modules, stubs


modules, stubs = generate_stubs()
producer_pb, consumer_pb, admin_pb, group_pb, record_pb, error_pb = modules
producer_grpc, consumer_grpc, admin_grpc, group_grpc = stubs

RECORDS = [
    record_pb.Record(key=b"k", value=b"v", timestamp_ms=1_700_000_000_000),
    record_pb.Record(value=b""),
    record_pb.Record(key=b"", timestamp_ms=0),
    record_pb.Record(key=b"tombstone"),
    record_pb.Record(
        value=bytes(range(256)),
        headers=[record_pb.Header(key="h", value=b"1"), record_pb.Header(key="h"), record_pb.Header(key="", value=b"")],
        timestamp_ms=-1,
    ),
    record_pb.Record(value="žluťoučký kůň".encode(), timestamp_ms=253_402_300_799_999),
]


class Client:
    def __init__(self, endpoint, tidelog):
        self.channel = grpc.insecure_channel(endpoint, options=[("grpc.max_receive_message_length", 64 << 20)])
        grpc.channel_ready_future(self.channel).result(timeout=20)
        self.producer = producer_grpc.ProducerServiceStub(self.channel)
        self.consumer = consumer_grpc.ConsumerServiceStub(self.channel)
        self.admin = admin_grpc.AdminServiceStub(self.channel)
        self.groups = group_grpc.GroupServiceStub(self.channel)
        self.endpoint, self.tidelog = endpoint, tidelog

    def topic(self, partitions=1, **config):
        name = f"python-{uuid.uuid4().hex[:12]}"
        created = self.admin.CreateTopic(
            admin_pb.CreateTopicRequest(name=name, partition_count=partitions, config=config), timeout=30
        )
        assert created.topic.name == name and created.topic.partition_count == partitions, created
        return name

    def produce(self, topic, records, partition=0, **fields):
        entry = producer_pb.ProducePartition(
            topic=topic, partition=partition, records=record_pb.RecordSet(records=records), **fields
        )
        response = self.producer.Produce(producer_pb.ProduceRequest(partitions=[entry]), timeout=30)
        (result,) = response.results
        return result

    def fetch(self, topic, offset, partition=0, max_wait_ms=0, **fields):
        request = consumer_pb.FetchRequest(
            partitions=[consumer_pb.FetchPartition(topic=topic, partition=partition, offset=offset)],
            max_wait_ms=max_wait_ms,
            **fields,
        )
        (fetched,) = self.consumer.Fetch(request, timeout=60).partitions
        return fetched

    def fetch_all(self, topic, count, partition=0):
        records, offset = [], 0
        while len(records) < count:
            fetched = self.fetch(topic, offset, partition, max_wait_ms=5000)
            assert not fetched.HasField("error"), fetched.error
            assert fetched.records.records, f"{len(records)} of {count} records came"
            records += fetched.records.records
            offset = fetched.next_offset
        return records


def same(sent, got):
    """Whether a fetched record is the one that was sent: null and empty apart, headers in order."""
    for field in ("key", "value"):
        if sent.HasField(field) != got.HasField(field) or getattr(sent, field) != getattr(got, field):
            return False
    if sent.HasField("timestamp_ms") and sent.timestamp_ms != got.timestamp_ms:
        return False
    return list(sent.headers) == list(got.headers)


def check_same(sent, got, first_offset=0):
    assert len(sent) == len(got), f"{len(sent)} sent, {len(got)} came"
    for position, (a, b) in enumerate(zip(sent, got)):
        assert b.offset == first_offset + position, f"offset {b.offset} at position {position}"
        assert same(a, b), f"sent {a}, got {b}"


def refused(call, code):
    try:
        answer = call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        return error
    raise AssertionError(f"no error, but {answer}")


def test_records_come_back_as_they_were_sent(client):
    topic = client.topic()
    before = int(time.time() * 1000) - 60_000
    result = client.produce(topic, RECORDS)
    assert (result.ack.base_offset, result.ack.end_offset) == (0, len(RECORDS)), result
    got = client.fetch_all(topic, len(RECORDS))
    check_same(RECORDS, got)
    assert got[1].timestamp_ms >= before, "a record without timestamp gets the time of its arrival"


def test_partitions_succeed_or_fail_alone(client):
    topic = client.topic(partitions=2)
    records = record_pb.RecordSet(records=[record_pb.Record(value=b"x")])
    entries = [
        producer_pb.ProducePartition(topic=topic, partition=0, records=records),
        producer_pb.ProducePartition(topic=topic, partition=7, records=records),
        producer_pb.ProducePartition(topic=topic, partition=1, records=records),
    ]
    results = client.producer.Produce(producer_pb.ProduceRequest(partitions=entries), timeout=30).results
    assert results[0].HasField("ack") and results[2].HasField("ack"), results
    assert results[1].error.reason == error_pb.ERROR_REASON_UNKNOWN_PARTITION, results[1]
    assert results[1].error.code == grpc.StatusCode.NOT_FOUND.value[0], results[1]


def test_an_idempotent_repeat_gets_the_first_answer(client):
    topic = client.topic()
    identity = client.producer.InitProducer(producer_pb.InitProducerRequest(), timeout=30).producer

    def stamp(sequence, epoch=identity.producer_epoch):
        return producer_pb.ProducerStamp(
            producer_id=identity.producer_id, producer_epoch=epoch, base_sequence=sequence
        )

    first = client.produce(topic, RECORDS[:2], stamp=stamp(0)).ack
    again = client.produce(topic, RECORDS[:2], stamp=stamp(0)).ack
    assert (first.base_offset, again.base_offset, again.duplicate) == (0, 0, True), (first, again)
    gap = client.produce(topic, RECORDS[:1], stamp=stamp(9)).error
    assert gap.reason == error_pb.ERROR_REASON_OUT_OF_ORDER_SEQUENCE and gap.metadata["expected_sequence"] == "2", gap
    raised = client.producer.InitProducer(producer_pb.InitProducerRequest(existing=identity), timeout=30).producer
    assert raised.producer_id == identity.producer_id and raised.producer_epoch == identity.producer_epoch + 1
    fenced = client.produce(topic, RECORDS[:1], stamp=stamp(2)).error
    assert fenced.reason == error_pb.ERROR_REASON_PRODUCER_FENCED, fenced
    assert client.fetch(topic, 0).high_watermark == 2


def test_a_stream_of_appends_keeps_their_order(client):
    topic = client.topic(partitions=2)
    count = 200

    def requests():
        yield producer_pb.ProduceStreamRequest(config=producer_pb.ProduceStreamConfig(client_id="python"))
        for number in range(count):
            records = record_pb.RecordSet(records=[record_pb.Record(value=str(number).encode())])
            entry = producer_pb.ProducePartition(topic=topic, partition=number % 2, records=records)
            append = producer_pb.ProduceStreamAppend(client_sequence=number, partitions=[entry])
            yield producer_pb.ProduceStreamRequest(append=append)

    offsets = {}
    for response in client.producer.ProduceStream(requests(), timeout=60):
        if response.HasField("result"):
            (result,) = response.result.results
            assert result.HasField("ack"), result
            offsets[response.result.client_sequence] = result.ack.base_offset
    assert offsets == {number: number // 2 for number in range(count)}, offsets
    values = [int(record.value) for record in client.fetch_all(topic, count // 2, partition=1)]
    assert values == list(range(1, count, 2)), values


def test_a_long_poll_wakes_when_records_come(client):
    topic = client.topic()
    answers = queue.Queue()
    waiter = threading.Thread(
        target=lambda: answers.put((client.fetch(topic, 0, max_wait_ms=30_000), time.monotonic()))
    )
    waiter.start()
    time.sleep(0.5)
    client.produce(topic, RECORDS[:1])
    fetched, _ = answers.get(timeout=20)
    waiter.join()
    check_same(RECORDS[:1], fetched.records.records)
    assert not client.fetch(topic, 1, max_wait_ms=100).records.records


def test_a_subscription_goes_on_behind_the_end(client):
    topic = client.topic()
    client.produce(topic, RECORDS[:3])
    start = consumer_pb.SubscribePartition(topic=topic, partition=0, position=record_pb.OFFSET_POSITION_EARLIEST)
    stream = client.consumer.Subscribe(consumer_pb.SubscribeRequest(partitions=[start]), timeout=60)
    first = next(stream)
    assert first.HasField("heartbeat") and first.heartbeat.partitions[0].high_watermark == 3, first
    got = []
    for response in stream:
        for fetched in response.records.partitions:
            got += fetched.records.records
        if len(got) == 3:
            client.produce(topic, RECORDS[3:])
        if len(got) == len(RECORDS):
            break
    stream.cancel()
    check_same(RECORDS, got)


def test_offsets_by_position_and_time(client):
    topic = client.topic()
    client.produce(topic, [record_pb.Record(value=b"x", timestamp_ms=ms) for ms in (1000, 2000, 3000)])
    client.produce(topic, [record_pb.Record(value=b"x", timestamp_ms=ms) for ms in (4000, 5000)])
    asked = [
        admin_pb.ListOffsetsPartition(topic=topic, position=record_pb.OFFSET_POSITION_EARLIEST),
        admin_pb.ListOffsetsPartition(topic=topic, position=record_pb.OFFSET_POSITION_LATEST),
        admin_pb.ListOffsetsPartition(topic=topic, timestamp_ms=2500),
        admin_pb.ListOffsetsPartition(topic=topic, timestamp_ms=9999),
    ]
    results = client.admin.ListOffsets(admin_pb.ListOffsetsRequest(partitions=asked), timeout=30).results
    assert [result.found.offset for result in results] == [0, 5, 2, 5], results
    assert results[2].found.timestamp_ms == 3000 and not results[3].found.HasField("timestamp_ms"), results
    deleted = client.admin.DeleteRecords(
        admin_pb.DeleteRecordsRequest(partitions=[admin_pb.DeleteRecordsPartition(topic=topic, offset=2)]), timeout=30
    ).results[0]
    assert deleted.log_start_offset == 2, deleted
    below = client.fetch(topic, 1)
    assert below.error.reason == error_pb.ERROR_REASON_OFFSET_OUT_OF_RANGE, below
    assert (below.error.metadata["earliest"], below.error.metadata["latest"]) == ("2", "5"), below
    assert [record.offset for record in client.fetch(topic, 2).records.records] == [2, 3, 4]


def test_errors_say_what_was_wrong(client):
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    error = refused(
        lambda: client.admin.GetTopic(admin_pb.GetTopicRequest(name="no-such-topic"), timeout=30),
        grpc.StatusCode.NOT_FOUND,
    )
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in rpc_status.from_call(error).details), error
    assert (info.domain, info.reason) == ("tidelog", "ERROR_REASON_UNKNOWN_TOPIC"), info
    for name in ("", ".", "..", "a/b", "a\0b", "x" * 10_240, "caf\u00e9", "a\u202eb"):
        refused(
            lambda: client.admin.CreateTopic(admin_pb.CreateTopicRequest(name=name), timeout=30),
            grpc.StatusCode.INVALID_ARGUMENT,
        )
    topic = client.topic()
    refused(
        lambda: client.admin.CreateTopic(admin_pb.CreateTopicRequest(name=topic), timeout=30),
        grpc.StatusCode.ALREADY_EXISTS,
    )
    negative = client.produce(topic, RECORDS[:1], partition=-1).error
    assert negative.reason == error_pb.ERROR_REASON_INVALID_REQUEST and "0 to 2147483647" in negative.message, negative
    negative = client.fetch(topic, -1).error
    assert negative.reason == error_pb.ERROR_REASON_INVALID_REQUEST, negative
    refused(lambda: client.producer.Produce(producer_pb.ProduceRequest(), timeout=30), grpc.StatusCode.INVALID_ARGUMENT)
    beyond = client.fetch(topic, (1 << 63) - 1)
    assert beyond.error.reason == error_pb.ERROR_REASON_OFFSET_OUT_OF_RANGE, beyond
    large = client.produce(topic, [record_pb.Record(value=b"x" * (2 << 20))]).error
    assert large.reason == error_pb.ERROR_REASON_BATCH_TOO_LARGE and large.metadata["limit"] == "1048576", large


def test_topics_are_managed(client):
    topic = client.topic(partitions=2, **{"max.message.bytes": "2048"})
    listed, token = [], ""
    while True:
        page = client.admin.ListTopics(admin_pb.ListTopicsRequest(page_size=2, page_token=token), timeout=30)
        listed += [found.name for found in page.topics]
        token = page.next_page_token
        if not token:
            break
    assert topic in listed and listed == sorted(listed) and len(set(listed)) == len(listed), listed
    grown = client.admin.AddPartitions(admin_pb.AddPartitionsRequest(name=topic, partition_count=5), timeout=30)
    assert grown.topic.partition_count == 5, grown
    updated = client.admin.UpdateTopic(admin_pb.UpdateTopicRequest(name=topic, unset=["max.message.bytes"]), timeout=30)
    assert not updated.topic.config, updated
    refused(
        lambda: client.admin.UpdateTopic(
            admin_pb.UpdateTopicRequest(name=topic, set={"cleanup.policy": "compact"}), timeout=30
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    client.admin.DeleteTopic(admin_pb.DeleteTopicRequest(name=topic), timeout=30)
    assert client.produce(topic, RECORDS[:1], topic_id=grown.topic.id).error.code in (
        grpc.StatusCode.NOT_FOUND.value[0],
    )


def test_the_server_describes_itself(client):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    info = client.admin.GetServerInfo(admin_pb.GetServerInfoRequest(), timeout=30)
    assert info.version and uuid.UUID(info.cluster_id) and info.limits.request_bytes_max == 16 << 20, info
    health = health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert health.status == health_pb2.HealthCheckResponse.SERVING, health
    services = ProtoReflectionDescriptorDatabase(client.channel).get_services()
    for service in ("ProducerService", "ConsumerService", "AdminService"):
        assert f"tidelog.v1.{service}" in services, services


class Member:
    """A member of a group, by single calls. It owns what it was told, until it says otherwise."""

    def __init__(self, client, group, topic):
        self.groups, self.group, self.topic = client.groups, group, topic
        self.identity = group_pb.MemberIdentity(group=group, member_id="python", incarnation=uuid.uuid4().bytes)
        options = group_pb.MemberOptions(topics=[topic], session_timeout_ms=20_000, client_id="grpcio")
        joined = self.groups.JoinGroup(group_pb.JoinGroupRequest(member=self.identity, options=options), timeout=30)
        assert joined.session_timeout_ms == 20_000 and joined.heartbeat_interval_ms > 0, joined
        self.take(joined.assignment)

    def take(self, assignment):
        self.generation = assignment.generation
        self.owned = {number for part in assignment.partitions for number in part.partitions}

    def heartbeat(self, wait_ms=0):
        owned = [group_pb.TopicPartitions(topic=self.topic, partitions=sorted(self.owned))] if self.owned else []
        request = group_pb.HeartbeatRequest(
            member=self.identity, owned=owned, known_generation=self.generation, max_wait_ms=wait_ms
        )
        self.take(self.groups.Heartbeat(request, timeout=30).assignment)

    def until_owned(self, count):
        end = time.monotonic() + 60
        while len(self.owned) != count:
            assert time.monotonic() < end, f"owns {self.owned}, not {count}"
            self.heartbeat(wait_ms=1_000)
        # What it released it has to have said, so that it goes to others.
        self.heartbeat()


def test_a_group_is_shared_with_a_member_written_in_rust(client):
    topic, group = client.topic(partitions=4), f"mixed-{uuid.uuid4().hex[:8]}"
    for partition in range(4):
        client.produce(topic, [record_pb.Record(value=b"%d" % partition)], partition=partition)
    member = Member(client, group, topic)
    member.until_owned(4)
    # Half of them go to the newcomer, which begins where this one has committed: partitions 0 and 1 at the end.
    command = [client.tidelog, "consume", topic, "--group", group, "--offset", "start", "--format", "json"]
    command += ["--endpoint", f"http://{client.endpoint}", "--session-timeout", "20s"]
    commits = [group_pb.OffsetCommit(topic=topic, partition=partition, offset=1, metadata="by hand") for partition in (0, 1)]
    commit = group_pb.CommitOffsetsRequest(
        group=group, member=member.identity, number=1, generation=member.generation, offsets=commits
    )
    results = client.groups.CommitOffsets(commit, timeout=30).results
    assert [result.HasField("error") for result in results] == [False, False], results
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        try:
            member.until_owned(2)
            kept = set(member.owned)
            end = time.monotonic() + 60
            while True:
                described = client.groups.GetGroup(group_pb.GetGroupRequest(group=group), timeout=30).group
                shares = {
                    found.member_id: {number for part in found.owned for number in part.partitions}
                    for found in described.members
                }
                if described.state == group_pb.GROUP_STATE_STABLE and len(shares) == 2:
                    break
                assert time.monotonic() < end, described
                member.heartbeat(wait_ms=200)
            assert shares.pop("python") == kept, described
            assert set.union(kept, *shares.values()) == {0, 1, 2, 3} and not kept & set.union(*shares.values()), described
            # A commit for what it no longer owns is refused, whatever it was before.
            (lost, *_) = {0, 1, 2, 3} - kept
            commit.number = 2
            del commit.offsets[:]
            commit.offsets.add(topic=topic, partition=lost, offset=0)
            (result,) = client.groups.CommitOffsets(commit, timeout=30).results
            assert result.error.reason == error_pb.ERROR_REASON_STALE_GENERATION, result
            # When it leaves, the other one gets everything, and reads what nobody has committed: 2 and 3.
            client.groups.LeaveGroup(group_pb.LeaveGroupRequest(member=member.identity), timeout=30)
            read = {json.loads(other.stdout.readline())["partition"] for _ in range(2)}
            assert read == {2, 3}, read
        finally:
            other.terminate()
            said = other.communicate(timeout=30)
    offsets = client.groups.FetchOffsets(group_pb.FetchOffsetsRequest(group=group), timeout=30).offsets
    assert {(found.partition, found.offset) for found in offsets} == {(n, 1) for n in range(4)}, (offsets, said)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", default="127.0.0.1:7070")
    parser.add_argument("--tidelog", default="tidelog", help="the binary, for a member of a group that Python shares with it")
    args = parser.parse_args()
    client = Client(args.endpoint, args.tidelog)
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    failed = 0
    for name, test in tests.items():
        try:
            test(client)
            print(f"ok      {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
