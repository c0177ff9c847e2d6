//! Compiles the protobuf package of the segment index, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "..";
    println!("cargo::rerun-if-changed={root}/tidelog/segment");
    let descriptors = protox::compile(["tidelog/segment/v1/index.proto"], [root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
