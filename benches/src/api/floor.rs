//! The least that the same answers cost on this machine: a server that knows nothing, over the same TLS and HTTP/2 libraries.
//!
//! What a server takes beyond it is its own work, and no server built on these libraries takes less.

use std::{
    convert::Infallible,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, future::try_join_all, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpListener, time::interval};
use tokio_rustls::TlsAcceptor;

use crate::{
    load::{self, Requests, Sample},
    objects::Template,
    processes::Meter,
    report::{self, Row},
    target::Target,
    wire::{Connection, Prepared},
    workload::{Kind, Workload},
};

const NAME: &str = "localhost";
const WATCH: &str = "/watch";

/// What the libraries alone cost: the same requests, answered by a server that knows nothing
#[derive(clap::Args)]
pub struct Floor {
    /// NAME@SIZE of each: create, get and watch.
    #[arg(long, value_delimiter = ',', default_value = "create@8,create@64,get@8,get@64,watch@100")]
    workloads: Vec<Workload>,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1000)]
    object_bytes: usize,
    /// Be the server: it says on standard output where it is, and ends with its standard input.
    #[arg(long, hide = true)]
    serve: bool,
}

impl Floor {
    pub async fn run(self) -> Result<()> {
        let object = Template::new(self.object_bytes).object("floor", 0);
        if self.serve {
            // Threads as a server has them.
            return std::thread::spawn(move || tokio::runtime::Runtime::new()?.block_on(serve(object)))
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the server has panicked")));
        }
        let server = Server::start(self.object_bytes)?;
        report::print_head();
        let lasts = Duration::from_secs_f64(self.seconds);
        for workload in &self.workloads {
            let (target, size) = (&server.target, workload.size);
            let asked = |prepared| load::run(target, size, lasts, Same(prepared));
            let sample = match workload.kind {
                Kind::Get => asked(Prepared::get(target.uri("/")?)).await?,
                Kind::Create => asked(Prepared::post(target.uri("/")?, object.clone())).await?,
                Kind::Watch => watch(target, size, lasts).await?,
                _ => anyhow::bail!("{workload} has no floor"),
            };
            report::print(&[Row::new(*workload, "floor", vec![sample])], *workload, None);
        }
        Ok(())
    }
}

struct Same(Prepared);

impl Requests for Same {
    fn next(&mut self, _: usize, _: &[u8]) -> Result<Option<Prepared>> {
        Ok(Some(self.0.clone()))
    }
}

/// Five events a second to each of so many: what one delivery costs.
async fn watch(target: &Target, watchers: usize, lasts: Duration) -> Result<Sample> {
    let mut opened = Vec::new();
    for _ in 0..watchers {
        let mut connection = Connection::open(target).await?;
        let body = connection.send(&Prepared::get(target.uri(WATCH)?)).await?;
        opened.push((connection, body));
    }
    let meter = Meter::start(&target.pids)?;
    let until = tokio::time::Instant::now() + lasts;
    let counts = try_join_all(opened.iter_mut().map(|(_, body)| async move {
        let (mut events, mut bytes) = (0, 0);
        while let Ok(Some(frame)) = tokio::time::timeout_at(until, body.frame()).await {
            bytes += frame?.into_data().map_or(0, |data| data.len() as u64);
            events += 1;
        }
        anyhow::Ok((events, bytes))
    }))
    .await?;
    let used = meter.stop()?;
    let (events, bytes) = counts.into_iter().fold((0, 0), |(events, bytes), (e, b)| (events + e, bytes + b));
    Ok(Sample::of(target, used, vec![Duration::ZERO; events], bytes))
}

/// Another process, which ends with this one.
struct Server {
    target: Target,
    child: Child,
}

impl Server {
    fn start(object_bytes: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["floor", "--serve", "--object-bytes", &object_bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (mut address, mut certificate) = (None, String::new());
        for line in BufReader::new(child.stdout.take().context("it says nothing")?).lines() {
            let line = line?;
            if address.is_none() {
                address = Some(line);
                continue;
            }
            certificate.extend([&*line, "\n"]);
            if line.contains("END CERTIFICATE") {
                break;
            }
        }
        let address = address.context("it has not said where it is")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
        let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let target = Target::bare("floor", child.id() as i32, address, ServerName::try_from(NAME)?, Arc::new(tls));
        Ok(Self { target, child })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn serve(object: Bytes) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    {
        // In one piece: who has read it does not wait for more.
        let said = format!("{}\n{}", listener.local_addr()?, made.cert.pem());
        let mut out = std::io::stdout().lock();
        out.write_all(said.as_bytes())?;
        out.flush()?;
    }
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes())?;
    let mut tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.into()], key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, object) = (acceptor.clone(), object.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let service = service_fn(move |request| answer(request, object.clone()));
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await?;
            anyhow::Ok(())
        });
    }
}

type Events = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

async fn answer(
    request: Request<Incoming>,
    object: Bytes,
) -> Result<Response<Either<Full<Bytes>, StreamBody<Events>>>, hyper::Error> {
    if request.uri().path() == WATCH {
        let events: Events = stream::unfold(interval(Duration::from_millis(200)), |mut every| async {
            every.tick().await;
            Some(((), every))
        })
        .map(move |()| Ok(Frame::data(object.clone())))
        .boxed();
        return Ok(Response::new(Either::Right(StreamBody::new(events))));
    }
    let made = request.method() == Method::POST;
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::new(Either::Left(Full::new(if made { body } else { object })));
    if made {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}
