//! The contract keeps its own rules: it is complete for reflection, every part of it is explained, and the limits that code repeats agree.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tidelog_proto::FILE_DESCRIPTOR_SET;
use tidelog_proto::v1::ErrorReason;

const FILES: [&str; 8] = [
    "admin_service",
    "consumer_service",
    "error",
    "group_service",
    "producer_service",
    "record",
    "stream",
    "topic",
];

#[test]
fn reflection_knows_every_service_and_method() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let services = set.file.iter().flat_map(|file| &file.service);
    let methods: Vec<String> = services
        .flat_map(|service| service.method.iter().map(|m| format!("{}.{}", service.name(), m.name())))
        .collect();
    assert_eq!(
        methods.join(" "),
        "AdminService.CreateTopic AdminService.GetTopic AdminService.ListTopics AdminService.UpdateTopic \
         AdminService.DeleteTopic AdminService.AddPartitions AdminService.ListOffsets AdminService.DeleteRecords \
         AdminService.GetServerInfo AdminService.DescribeCluster ConsumerService.Fetch ConsumerService.Subscribe \
         GroupService.Session \
         GroupService.JoinGroup GroupService.Heartbeat GroupService.LeaveGroup GroupService.AssignPartitions \
         GroupService.CommitOffsets GroupService.FetchOffsets GroupService.ListGroups GroupService.GetGroup \
         GroupService.DeleteGroup ProducerService.Produce ProducerService.ProduceStream ProducerService.InitProducer"
            .replace("  ", "")
    );
}

/// Reflection shows the contract, not the Rust code's view of it.
#[test]
fn reflection_shows_records_as_messages() {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let mut messages = set.file.iter().flat_map(|file| &file.message_type);
    let partition = messages.find(|message| message.name() == "ProducePartition").expect("it exists");
    let records = partition.field.iter().find(|field| field.name() == "records").expect("it exists");
    assert_eq!(records.type_name(), ".tidelog.v1.RecordSet");
}

#[test]
fn no_file_of_the_contract_is_left_out() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tidelog/v1");
    let entries = std::fs::read_dir(folder).expect("the folder exists");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"));
    let found: BTreeSet<String> = names.filter_map(|n| n.strip_suffix(".proto").map(str::to_owned)).collect();
    assert_eq!(found, FILES.map(str::to_owned).into());
}

#[test]
fn every_service_method_message_field_and_value_is_explained() {
    let mut compiler =
        protox::Compiler::new([concat!(env!("CARGO_MANIFEST_DIR"), "/..")]).expect("the folder");
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(FILES.map(|file| format!("tidelog/v1/{file}.proto"))).expect("it compiles");
    let mut parts = 0;
    for file in compiler.file_descriptor_set().file {
        let explained = explained_paths(&file);
        for (path, name) in parts_of(&file) {
            assert!(explained.contains(&path), "{} has no comment on {name}", file.name());
            parts += 1;
        }
    }
    assert!(parts > 200, "only {parts} parts were found");
}

/// Each reason is documented with its code first; the code here is the same.
#[test]
fn reasons_have_the_code_that_their_comment_names() {
    let text = include_str!("../../tidelog/v1/error.proto");
    let body =
        text.split("enum ErrorReason {").nth(1).expect("the enum").split("\n}").next().expect("its end");
    let mut comment = String::new();
    let mut reasons = 0;
    for line in body.lines().map(str::trim) {
        if let Some(part) = line.strip_prefix("// ") {
            comment.push_str(part);
        } else if let Some((name, _)) = line.split_once(" = ") {
            let reason = ErrorReason::from_str_name(name).expect("the enum has it");
            let named: String = comment.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            let code = format!("{:?}", reason.code()).to_uppercase();
            if reason != ErrorReason::Unspecified {
                assert_eq!(named.replace('_', ""), code, "{name}");
            }
            assert!(name.len() <= 63, "google.rpc.ErrorInfo takes at most 63 characters");
            comment.clear();
            reasons += 1;
        }
    }
    assert_eq!(reasons, 34);
}

/// Paths as `SourceCodeInfo` gives them: the numbers of the fields in `FileDescriptorProto` and below, with positions in lists.
fn explained_paths(file: &FileDescriptorProto) -> BTreeSet<Vec<i32>> {
    let locations = &file.source_code_info.as_ref().expect("it was asked for").location;
    let explained = locations.iter().filter(|location| !location.leading_comments().trim().is_empty());
    explained.map(|location| location.path.clone()).collect()
}

const MESSAGE: i32 = 4;
const ENUM: i32 = 5;
const SERVICE: i32 = 6;

fn parts_of(file: &FileDescriptorProto) -> Vec<(Vec<i32>, String)> {
    let mut parts = Vec::new();
    for (i, message) in (0..).zip(&file.message_type) {
        parts.push((vec![MESSAGE, i], message.name().to_owned()));
        parts_of_message(&[MESSAGE, i], message, &mut parts);
    }
    for (i, kind) in (0..).zip(&file.enum_type) {
        parts.push((vec![ENUM, i], kind.name().to_owned()));
        parts.extend((0..).zip(&kind.value).map(|(j, value)| (vec![ENUM, i, 2, j], value.name().to_owned())));
    }
    for (i, service) in (0..).zip(&file.service) {
        parts.push((vec![SERVICE, i], service.name().to_owned()));
        parts.extend((0..).zip(&service.method).map(|(j, m)| (vec![SERVICE, i, 2, j], m.name().to_owned())));
    }
    parts
}

fn parts_of_message(path: &[i32], message: &DescriptorProto, parts: &mut Vec<(Vec<i32>, String)>) {
    assert!(message.nested_type.iter().all(|nested| nested.options.as_ref().is_some_and(|o| o.map_entry())));
    for (i, field) in (0..).zip(&message.field) {
        parts.push(([path, &[2, i]].concat(), format!("{}.{}", message.name(), field.name())));
    }
    for (i, oneof) in (0..).zip(&message.oneof_decl).filter(|(_, oneof)| !oneof.name().starts_with('_')) {
        parts.push(([path, &[8, i]].concat(), format!("{}.{}", message.name(), oneof.name())));
    }
}
