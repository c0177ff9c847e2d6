//! Compiles the protobuf package of rows at rest, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    let files = ["tidelog/meta/v1/entry.proto", "tidelog/meta/v1/snapshot.proto"];
    println!("cargo::rerun-if-changed={root}/tidelog/meta");
    let descriptors = protox::compile(files, [root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
