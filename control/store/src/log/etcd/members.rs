//! etcd's members, and which of them is asked.
//!
//! All is asked of one member as long as it answers; whoever finds that it does not says so, and everyone goes on with the
//! next.

use std::{error::Error as _, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{self, AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::Instant,
};
use tonic::{
    Code, ConnectError, Status,
    transport::{Channel, Endpoint},
};

use super::{
    endpoints::{EndpointError, Endpoints},
    said,
    tls::Tls,
    wire::{kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient},
};

const CONNECT: Duration = Duration::from_secs(2);
/// etcd ends connections that are asked more often than every five seconds whether they live (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(6);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(3);
/// How long one member may take for a read.
const READ: Duration = Duration::from_secs(2);
/// How long who starts waits until it says that it waits.
const SILENT: Duration = Duration::from_secs(3);
/// Between attempts when none can be reached.
const PAUSE: Duration = Duration::from_millis(100);

/// The members. Cloning shares the connections.
#[derive(Clone)]
pub(super) struct Members {
    all: Arc<[Member]>,
    preferred: watch::Sender<usize>,
}

struct Member {
    url: String,
    channel: Channel,
}

/// One that is asked.
pub(super) struct Asked<'a> {
    members: &'a Members,
    index: usize,
}

impl Members {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// When the endpoints or files are none.
    pub fn new(endpoints: &Endpoints) -> Result<Self, EndpointError> {
        if endpoints.urls.is_empty() {
            return Err(EndpointError::None);
        }
        let all = endpoints.urls.iter().map(|url| Member::new(url, endpoints)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { all: all.into(), preferred: watch::Sender::new(0) })
    }

    /// As the operator named them.
    pub fn urls(&self) -> String {
        self.all.iter().map(|member| member.url.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub fn ask(&self) -> Asked<'_> {
        Asked { members: self, index: *self.preferred.borrow() }
    }

    /// Returns when another member than this is asked.
    pub async fn moved_on_from(&self, index: usize) {
        // There is a sender as long as this is.
        let _ = self.preferred.subscribe().wait_for(|preferred| *preferred != index).await;
    }

    /// Asks one after the other, until one answers or the time is over. For what changes nothing.
    ///
    /// # Errors
    /// What the last of them said.
    pub async fn read<T, F>(&self, deadline: Instant, mut ask: impl FnMut(KvClient<Channel>) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut why = Status::deadline_exceeded("no member of etcd has answered in time");
        let mut failed = 0;
        while Instant::now() < deadline {
            let asked = self.ask();
            let until = deadline.min(Instant::now() + READ);
            match tokio::time::timeout_at(until, ask(asked.kv())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if is_final(&status) => return Err(status),
                Ok(Err(status)) => why = status,
                Err(_) => why = Status::deadline_exceeded(format!("{} has not answered in time", asked.url())),
            }
            asked.failed();
            failed += 1;
            if failed % self.all.len() == 0 {
                tokio::time::sleep_until(deadline.min(Instant::now() + PAUSE)).await;
            }
        }
        Err(why)
    }

    /// [`Self::read`] of who starts: it says what it waits for.
    ///
    /// # Errors
    /// What the last of them said.
    pub async fn wait_for<T, F>(
        &self,
        deadline: Instant,
        mut ask: impl FnMut(KvClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        loop {
            match self.read(deadline.min(Instant::now() + SILENT), &mut ask).await {
                Err(why) if Instant::now() < deadline && !is_final(&why) => {
                    tracing::warn!(why = said(&why), urls = self.urls(), "etcd cannot be reached: waiting for it");
                }
                answer => return answer,
            }
        }
    }
}

impl Asked<'_> {
    pub fn index(&self) -> usize {
        self.index
    }

    pub fn url(&self) -> &str {
        &self.members.all[self.index].url
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    pub fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel()).max_decoding_message_size(usize::MAX)
    }

    fn channel(&self) -> Channel {
        self.members.all[self.index].channel.clone()
    }

    /// The next is asked from now on, unless somebody else has seen to that.
    pub fn failed(&self) {
        let next = (self.index + 1) % self.members.all.len();
        self.members.preferred.send_if_modified(|preferred| {
            let first = *preferred == self.index && next != self.index;
            if first {
                *preferred = next;
            }
            first
        });
    }
}

/// Nothing of the request has gone out: it has not been carried out, and never will be.
pub(super) fn not_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// etcd has refused the request: no other member would say otherwise.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented
    )
}

/// etcd has used up its quota. It says so also of the write that did, which it has carried out.
pub(super) fn is_full(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.message().contains("database space exceeded")
}

/// It is larger than etcd takes, or has more operations.
pub(super) fn is_too_much(status: &Status) -> bool {
    let why = status.message();
    match status.code() {
        Code::InvalidArgument => why.contains("request is too large") || why.contains("too many operations"),
        Code::ResourceExhausted => why.contains("received message larger than max"),
        _ => false,
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Member {
    fn new(url: &str, endpoints: &Endpoints) -> Result<Self, EndpointError> {
        let invalid = || EndpointError::Url(url.to_owned());
        let uri: http::Uri = url.parse().map_err(|_| invalid())?;
        let host = uri.host().ok_or_else(invalid)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(2379);
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(Tls::new(url, &host, endpoints)?),
            _ => return Err(invalid()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid());
        }
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| invalid())?;
        let endpoint = endpoint
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER)
            .keep_alive_while_idle(false)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let (host, tls) = (host.clone(), tls.clone());
            async move {
                let connecting = async {
                    let stream = TcpStream::connect((host.as_str(), port)).await?;
                    stream.set_nodelay(true)?;
                    let connection: Box<dyn Connection> = match tls {
                        None => Box::new(stream),
                        Some(tls) => Box::new(tls.connect(stream).await?),
                    };
                    Ok::<_, io::Error>(connection)
                };
                tokio::time::timeout(CONNECT, connecting).await?.map(TokioIo::new)
            }
        }));
        Ok(Self { url: url.to_owned(), channel })
    }
}
