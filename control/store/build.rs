fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .build_server(false)
        // What is written is shared with whoever writes it.
        .bytes(".etcdserverpb.PutRequest.value")
        .compile_protos(&["proto/etcd.proto"], &["proto"])
}
