//! Compiles the protobuf definitions without `protoc`.
use prost::Message as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=rpc");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let wire = protox::compile(["wire.proto"], ["rpc"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(wire)?;

    if std::env::var_os("CARGO_FEATURE_RPC").is_some() {
        let files = ["business.proto", "push.proto", "control.proto", "node.proto"];
        let rpc = protox::compile(files, ["rpc"])?;
        // gRPC reflection serves the public definitions from this set.
        std::fs::write(out.join("descriptors.bin"), rpc.encode_to_vec())?;
        tonic_prost_build::configure().bytes(".").compile_fds(rpc)?;
    }
    Ok(())
}
