//! The guest's agent behind the vsock: it greets, and can nothing else.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    os::unix::net::UnixListener,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use hypernetes_guest_protocol::{VSOCK_PORT, session, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Request, Response, Status, server::UnaryService};

struct Hello;

impl UnaryService<v1::HelloRequest> for Hello {
    type Response = v1::HelloResponse;
    type Future = Ready<Result<Response<v1::HelloResponse>, Status>>;

    fn call(&mut self, request: Request<v1::HelloRequest>) -> Self::Future {
        let version = request.get_ref().max_version;
        ready(Ok(Response::new(v1::HelloResponse { version, agent_version: "fake".into(), ..Default::default() })))
    }
}

pub fn serve(listener: UnixListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(stream));
        }
    });
}

async fn converse(mut stream: tokio::net::UnixStream) -> std::io::Result<()> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.push(stream.read_u8().await?);
    }
    if line != format!("CONNECT {VSOCK_PORT}\n").as_bytes() {
        // Nobody listens there.
        return Ok(());
    }
    stream.write_all(b"OK 1073741824\n").await?;
    let (near, mut far) = tokio::io::duplex(64 << 10);
    far.write_all(&session::accept(&mut stream).await?).await?;
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut far).await });
    let service = tower::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
        let mut grpc =
            tonic::server::Grpc::new(tonic_prost::ProstCodec::<v1::HelloResponse, v1::HelloRequest>::default());
        Ok::<_, Infallible>(if request.uri().path().ends_with(".Agent/Hello") {
            grpc.unary(Hello, request).await
        } else {
            Status::unimplemented("it can only greet").into_http()
        })
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(near), TowerToHyperService::new(service));
    connection.await.map_err(std::io::Error::other)
}
