//! Exec, port forwarding and dialing.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn exec_sync_has_output_codes_and_limits() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container_id = node.create_and_start(&sandbox, shell("one", "sleep 1000")).await;
    let exec = async |script: &str, timeout| {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = cri::ExecSyncRequest { container_id: container_id.clone(), cmd, timeout };
        Ok::<_, tonic::Status>(node.runtime().await.exec_sync(request).await?.into_inner())
    };
    let answer = exec("echo o; echo e >&2; exit 9", 10).await.unwrap();
    assert_eq!((answer.exit_code, answer.stdout, answer.stderr), (9, b"o\n".to_vec(), b"e\n".to_vec()));
    // A child that is left behind holds the output open.
    let answer = exec("sleep 100 & echo started", 10).await.unwrap();
    assert_eq!((answer.exit_code, answer.stdout), (0, b"started\n".to_vec()));
    assert_eq!(exec("sleep 100", 1).await.unwrap_err().code(), Code::DeadlineExceeded);
    let answer = node
        .runtime()
        .await
        .max_decoding_message_size(64 << 20)
        .exec_sync(cri::ExecSyncRequest {
            container_id: container_id.clone(),
            cmd: ["head", "-c", "20000000", "/dev/zero"].map(str::to_owned).to_vec(),
            timeout: 60,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.stdout.len(), 16 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_websocket() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container_id = node.create_and_start(&sandbox, shell("one", "sleep 1000")).await;
    let request = cri::ExecRequest {
        container_id,
        cmd: ["/bin/sh", "-c", "read x; echo got $x; cat; echo bye >&2; exit 4"].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let url = node.runtime().await.exec(request).await.unwrap().into_inner().url;
    let connect = async || {
        let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
        tokio_tungstenite::connect_async(request).await
    };
    let (mut socket, response) = connect().await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    assert!(connect().await.is_err(), "a token works once");
    for message in [&b"\0hello\n"[..], b"\0more", b"\xff\0"] {
        socket.send(Message::Binary(message.to_vec().into())).await.unwrap();
    }
    let mut channels = [const { Vec::new() }; 5];
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            Message::Binary(bytes) => channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]),
            Message::Close(_) => break,
            _ => {}
        }
    }
    assert_eq!(channels[1], b"got hello\nmore");
    assert_eq!(channels[2], b"bye\n");
    let status: serde_json::Value = serde_json::from_slice(&channels[3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_spdy() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let container_id = node.create_and_start(&sandbox, shell("one", "sleep 1000")).await;
    let exec = async |script: &str, protocol| {
        let request = cri::ExecRequest {
            container_id: container_id.clone(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let url = node.runtime().await.exec(request).await.unwrap().into_inner().url;
        spdy(url, protocol).await.unwrap()
    };
    let script = "read x; echo got $x; wc -c; echo bye >&2; exit 4";
    for (protocols, protocol) in
        [("v4.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io"), ("channel.k8s.io", "channel.k8s.io")]
    {
        let (chosen, mut client) = exec(script, protocols).await;
        assert_eq!(chosen, protocol);
        let errors = client.open(&[("streamtype", "error")]).await;
        let unasked = client.open(&[("streamtype", "resize")]).await;
        client.until(|c| c.heard(unasked).reset.is_some()).await;
        let stdin = client.open(&[("streamtype", "stdin")]).await;
        client.data(stdin, b"hello\n", false).await;
        let stdout = client.open(&[("streamtype", "stdout")]).await;
        let stderr = client.open(&[("streamtype", "stderr")]).await;
        for _ in 0..40 {
            client.data(stdin, &[b'x'; 10_000], false).await;
        }
        client.data(stdin, b"", true).await;
        client.until(|c| c.ended).await;
        for id in [errors, stdout, stderr] {
            assert!(client.heard(id).finished);
        }
        assert_eq!(client.heard(stdout).data, b"got hello\n400000\n");
        assert_eq!(client.heard(stderr).data, b"bye\n");
        assert_eq!(client.goodbye, Some(0));
        let told = String::from_utf8(client.heard(errors).data).unwrap();
        if protocol == "v4.channel.k8s.io" {
            let status: serde_json::Value = serde_json::from_str(&told).unwrap();
            assert_eq!(status["details"]["causes"][0]["message"], "4");
        } else {
            assert_eq!(told, "command terminated with non-zero exit code: exit status 4");
        }
    }
    // A process whose client goes away is killed.
    let pid = node.path("pid");
    let (_, mut client) =
        exec(&format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pid.display()), "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        client.open(&[("streamtype", kind)]).await;
    }
    wait_until("the process to start", || pid.exists()).await;
    let process = format!("/proc/{}", std::fs::read_to_string(pid).unwrap().trim());
    assert!(Path::new(&process).exists());
    drop(client);
    wait_until("the process to be killed", || !Path::new(&process).exists()).await;
}

/// A server that gives back what it gets.
async fn echo_server() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    port
}

/// A port at which nothing listens.
async fn closed_port() -> u16 {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// What kubectl does with a forwarded port: several connections in one session, large data, one that fails.
async fn forward_ports<I, O>(client: &mut Client<I, O>)
where
    I: futures::Stream<Item = Bytes> + Unpin,
    O: futures::Sink<Bytes> + Unpin,
{
    let (open, closed) = (echo_server().await.to_string(), closed_port().await.to_string());
    let mut connections = Vec::new();
    for (request, port) in [("0", &open), ("1", &closed), ("2", &open)] {
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request)];
        let errors = client.open(&headers("error")).await;
        client.data(errors, b"", true).await;
        let data = client.open(&headers("data")).await;
        client.until(|c| c.heard(data).replied).await;
        connections.push((errors, data));
    }
    let [first, failing, second] = connections[..] else { panic!() };
    client.until(|c| c.heard(failing.0).finished && c.heard(failing.1).finished).await;
    let message = String::from_utf8(client.heard(failing.0).data).unwrap();
    assert!(message.starts_with(&format!("error forwarding port {closed} to pod ")), "{message}");
    assert!(message.contains("refused"), "{message}");

    client.data(first.1, b"ping", false).await;
    client.until(|c| c.heard(first.1).data == b"ping").await;
    for _ in 0..8 {
        client.data(second.1, &[3; 50_000], false).await;
    }
    client.data(second.1, b"end", true).await;
    client.until(|c| c.heard(second.0).finished && c.heard(second.1).finished).await;
    assert_eq!(client.heard(second.1).data.len(), 400_003);
    assert!(client.heard(second.0).data.is_empty());
    // The other connection is still there.
    client.data(first.1, b"pong", true).await;
    client.until(|c| c.heard(first.0).finished && c.heard(first.1).finished).await;
    assert_eq!(client.heard(first.1).data, b"pingpong");

    let nonsense = client.open(&[("streamtype", "data"), ("port", "0"), ("requestid", "3")]).await;
    client.until(|c| c.heard(nonsense).reset.is_some()).await;
    let reset = client.open(&[("streamtype", "error"), ("port", &open), ("requestid", "4")]).await;
    client.reset(reset).await;
    client.ping(1).await;
    client.until(|c| c.pongs == [1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_ports_in_a_tunnel() {
    let node = Node::start().await;
    let pod_sandbox_id = node.run_sandbox().await;
    let request = cri::PortForwardRequest { pod_sandbox_id, port: vec![] };
    let url = node.runtime().await.port_forward(request).await.unwrap().into_inner().url;
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io".parse().unwrap());
    let (socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
    let (to_server, from_server) = socket.split();
    let incoming = from_server.filter_map(async |message| match message {
        Ok(Message::Binary(bytes)) => Some(bytes),
        _ => None,
    });
    let outgoing = to_server.with(async |bytes| Ok::<_, tokio_tungstenite::tungstenite::Error>(Message::Binary(bytes)));
    let mut client = Client::new(Box::pin(incoming), Box::pin(outgoing));
    forward_ports(&mut client).await;
    // Version 7 of the protocol.
    client.raw(&b"\x80\x07\0\x06\0\0\0\x04\0\0\0\x01"[..]).await;
    client.until(|c| c.ended).await;
    assert_eq!(client.goodbye, Some(1));
}

/// `POST`, an upgrade to SPDY, and a session.
async fn spdy(
    url: String,
    protocols: &'static str,
) -> Result<
    (String, Client<impl futures::Stream<Item = Bytes> + Unpin, impl futures::Sink<Bytes> + Unpin>),
    http::StatusCode,
> {
    let address = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = http::Request::post(url)
        .header("host", &address)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", protocols)
        .body(http_body_util::Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(response.status());
    }
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    assert_eq!(response.headers()["connection"], "Upgrade");
    let protocol = response.headers()["x-stream-protocol-version"].to_str().unwrap().to_owned();
    let (read, write) = tokio::io::split(TokioIo::new(hyper::upgrade::on(response).await.unwrap()));
    let incoming = tokio_util::io::ReaderStream::new(read).filter_map(async |bytes| bytes.ok());
    let outgoing = tokio_util::codec::FramedWrite::new(write, tokio_util::codec::BytesCodec::new());
    Ok((protocol, Client::new(Box::pin(incoming), outgoing)))
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_ports_over_spdy() {
    let node = Node::start().await;
    let pod_sandbox_id = node.run_sandbox().await;
    let url = async || {
        let request = cri::PortForwardRequest { pod_sandbox_id: pod_sandbox_id.clone(), port: vec![] };
        node.runtime().await.port_forward(request).await.unwrap().into_inner().url
    };
    let (protocol, mut client) = spdy(url().await, "portforward.k8s.io").await.unwrap();
    assert_eq!(protocol, "portforward.k8s.io");
    forward_ports(&mut client).await;
    assert_eq!(spdy(url().await, "something.else").await.err(), Some(http::StatusCode::FORBIDDEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn dialing_into_a_pod() {
    let node = Node::start().await;
    let sandbox = node.run_sandbox().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let mut client = HyperdClient::new(node.channel().await);
    let first =
        DialChunk { pod_sandbox_id: sandbox.clone(), port: port.into(), data: b"ping".into(), ..Default::default() };
    let last = DialChunk { close_write: true, ..Default::default() };
    let mut answers = client.dial(futures::stream::iter([first, last])).await.unwrap().into_inner();
    let mut data = Vec::new();
    while let Some(chunk) = answers.message().await.unwrap() {
        data.extend_from_slice(&chunk.data);
    }
    assert_eq!(data, b"ping");
    let wrong = DialChunk { pod_sandbox_id: sandbox, port: 70_000, ..Default::default() };
    let error = client.dial(futures::stream::iter([wrong])).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}
