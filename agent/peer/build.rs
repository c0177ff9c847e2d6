//! Compiles the protobuf package of the traffic between agents, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo::rerun-if-changed={root}/tidelog/peer");
    let descriptors = protox::compile(["tidelog/peer/v1/peer_service.proto"], [root])?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
