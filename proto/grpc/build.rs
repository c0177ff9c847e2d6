//! Compiles the public protobuf package, without `protoc`.

use std::path::PathBuf;

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const ROOT: &str = "..";

const FILES: [&str; 8] = [
    "tidelog/v1/admin_service.proto",
    "tidelog/v1/consumer_service.proto",
    "tidelog/v1/error.proto",
    "tidelog/v1/group_service.proto",
    "tidelog/v1/producer_service.proto",
    "tidelog/v1/record.proto",
    "tidelog/v1/stream.proto",
    "tidelog/v1/topic.proto",
];

/// Message fields that the Rust code sees as undecoded bytes, as (message, field). A length-delimited message and `bytes` are the same on the
/// wire; whoever handles records by the million goes through those bytes once, without a struct per record.
const RAW_FIELDS: [(&str, &str); 2] = [("ProducePartition", "records"), ("FetchedPartition", "records")];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={ROOT}/tidelog/v1");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).open_files(FILES)?;

    // What reflection tells is the contract as written, without the comments, which would double its size.
    let mut contract = compiler.file_descriptor_set();
    for file in &mut contract.file {
        file.source_code_info = None;
    }
    std::fs::write(out.join("tidelog.v1.bin"), contract.encode_to_vec())?;

    compiler.include_source_info(true);
    let mut code = compiler.file_descriptor_set();
    for (message, field) in RAW_FIELDS {
        let found = field_of(&mut code, message, field).ok_or(format!("no field {message}.{field}"))?;
        found.set_type(Type::Bytes);
        found.type_name = None;
    }

    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds(code)?;
    Ok(())
}

fn field_of<'a>(
    set: &'a mut FileDescriptorSet,
    message: &str,
    field: &str,
) -> Option<&'a mut FieldDescriptorProto> {
    let messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    let mut named = messages.filter(|candidate: &&mut DescriptorProto| candidate.name() == message);
    named.next()?.field.iter_mut().find(|candidate| candidate.name() == field)
}
