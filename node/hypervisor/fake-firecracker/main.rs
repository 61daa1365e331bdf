//! The tests' double of Firecracker where there is no KVM: it takes what the real one takes and refuses what that refuses, and
//! opens what that opens, as the user that it is. There is no guest in it but a small agent behind the vsock.
//!
//! A VM's id says how it misbehaves: see [`Misdeed`].
#![forbid(unsafe_code)]

mod agent;
mod machine;

use std::{convert::Infallible, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use machine::Machine;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Misdeed {
    /// It ends before it has an API.
    DiesAtOnce,
    /// It has no API.
    NoApi,
    /// It takes requests, and says nothing to one.
    Silent,
    /// It answers one with what is no answer.
    Nonsense,
    /// It refuses to start.
    Refuses,
    /// It ends when it is to start.
    DiesAtStart,
}

impl Misdeed {
    fn of(id: &str) -> Option<Self> {
        Some(match id {
            "dies-at-once" => Self::DiesAtOnce,
            "no-api" => Self::NoApi,
            "silent" => Self::Silent,
            "nonsense" => Self::Nonsense,
            "refuses" => Self::Refuses,
            "dies-at-start" => Self::DiesAtStart,
            _ => return None,
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut words = std::env::args().skip(1);
    let (mut socket, mut id) = (None, String::from("anonymous-instance"));
    while let Some(word) = words.next() {
        match word.as_str() {
            "--version" => {
                println!("Firecracker v1.16.1\n");
                return;
            }
            "--api-sock" => socket = words.next(),
            "--id" => id = words.next().unwrap_or_default(),
            "--level" => assert!(words.next().is_some()),
            other => panic!("Found argument '{other}' which wasn't expected"),
        }
    }
    let misdeed = Misdeed::of(&id);
    match misdeed {
        Some(Misdeed::DiesAtOnce) => {
            eprintln!("Error: it was told to");
            std::process::exit(1);
        }
        Some(Misdeed::NoApi) => tokio::time::sleep(Duration::from_secs(600)).await,
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(socket.expect("--api-sock")).unwrap();
    let mut machine = Machine::default();
    // One request after another, as in the real one.
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = tokio::sync::Mutex::new(&mut machine);
        let service = service_fn(|request| async {
            Ok::<_, Infallible>(serve(&mut **state.lock().await, misdeed, request).await)
        });
        // Who hangs up has heard enough.
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

async fn serve(machine: &mut Machine, misdeed: Option<Misdeed>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let is_start = path == "/actions";
    match misdeed {
        Some(Misdeed::Silent) if is_start => std::future::pending().await,
        Some(Misdeed::Nonsense) if is_start => return answer(StatusCode::BAD_REQUEST, "{\"fault_mess"),
        Some(Misdeed::Refuses) if is_start => return fault("Internal error while starting microVM: it was told to"),
        Some(Misdeed::DiesAtStart) if is_start => {
            eprintln!("Error: KVM has gone");
            std::process::exit(148);
        }
        _ => {}
    }
    let done = match method {
        Method::PUT => machine.put(&path, &body),
        Method::PATCH => machine.patch(&path, &body),
        _ => Err(format!("Invalid request method and/or path: {method} {path}.")),
    };
    match done {
        Ok(()) => answer(StatusCode::NO_CONTENT, ""),
        Err(message) => fault(&message),
    }
}

fn fault(message: &str) -> Response<Full<Bytes>> {
    answer(StatusCode::BAD_REQUEST, &serde_json::json!({"fault_message": message}).to_string())
}

fn answer(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(Bytes::from(text.to_owned()))).unwrap()
}
