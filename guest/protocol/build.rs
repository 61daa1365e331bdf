fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        // Kept until it is answered, and sent: shared, not copied.
        .bytes("HostPathWrite.data")
        .bytes("HostPathReply.data")
        .compile_protos(&["proto/agent.proto"], &["proto"])
}
