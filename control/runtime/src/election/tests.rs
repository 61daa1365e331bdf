use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use hypernetes_api::AllTenants;
use hypernetes_client::{AnyBody, Transport, shared::Wanted};
use hypernetes_testing::{fake_api::FakeApi, server::InProcess};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tower::{BoxError, Service, util::BoxCloneSyncService};

use super::*;
use crate::{Informers, Key};

const LEASE: &str = "of-a-test";
const OPEN: u8 = 0;
/// Nothing gets to the server, and nothing comes back.
const HANGS: u8 = 1;
const FAILS: u8 = 2;
/// What is asked is done, and the answer does not come.
const MUTE: u8 = 3;

/// The network between one candidate and the API server.
#[derive(Clone, Default)]
struct Network(Arc<AtomicU8>);

impl Network {
    fn set(&self, state: u8) {
        self.0.store(state, Ordering::SeqCst);
    }

    fn clients(&self, clients: &Clients) -> Clients {
        let network = self.clone();
        clients.layered(move |inner| BoxCloneSyncService::new(Wire { network: network.clone(), inner }))
    }
}

#[derive(Clone)]
struct Wire {
    network: Network,
    inner: Transport,
}

impl Service<Request<Body>> for Wire {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<AnyBody>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.network.0.load(Ordering::SeqCst) {
            HANGS => Box::pin(std::future::pending()),
            FAILS => Box::pin(async { Err("the connection is refused".into()) }),
            MUTE => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    drop(answer.await);
                    std::future::pending().await
                })
            }
            _ => self.inner.call(request),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Begins,
    Ends,
}

/// What happened, by whom and when.
type Story = mpsc::UnboundedReceiver<(&'static str, Said, Instant)>;

struct Ends(&'static str, mpsc::UnboundedSender<(&'static str, Said, Instant)>);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.1.send((self.0, Said::Ends, Instant::now()));
    }
}

struct Stage {
    clients: Clients,
    timing: Timing,
    sender: mpsc::UnboundedSender<(&'static str, Said, Instant)>,
    story: Story,
}

/// One candidate. Dropped, its process is killed.
struct Process {
    network: Network,
    stop: CancellationToken,
    terms: Arc<Mutex<Vec<Term>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stage {
    fn new(clients: Clients) -> Self {
        let (sender, story) = mpsc::unbounded_channel();
        Self { clients, timing: Timing::default(), sender, story }
    }

    fn process(&self, name: &'static str, takeover: Takeover) -> Process {
        let (network, stop) = (Network::default(), CancellationToken::new());
        self.process_on(name, takeover, network, stop)
    }

    fn process_on(&self, name: &'static str, takeover: Takeover, network: Network, stop: CancellationToken) -> Process {
        let terms = Arc::<Mutex<Vec<Term>>>::default();
        let election = Election::new(&network.clients(&self.clients), name.into(), takeover).with_timing(self.timing);
        let (sender, ending, had) = (self.sender.clone(), stop.clone(), terms.clone());
        let work = move |term: Term| {
            let sender = sender.clone();
            had.lock().push(term.clone());
            async move {
                sender.send((name, Said::Begins, Instant::now())).unwrap();
                let _ends = Ends(name, sender);
                term.stop().cancelled().await;
            }
        };
        let task = tokio::spawn(async move { election.run(LEASE, &ending, work).await });
        Process { network, stop, terms, task }
    }

    /// The next that happens is this.
    async fn expect(&mut self, who: &str, what: Said) -> Instant {
        let (whose, said, when) = self.story.recv().await.unwrap();
        assert_eq!((whose, said), (who, what));
        when
    }

    async fn lease(&self) -> Lease {
        let api: Api<Lease> = Api::namespaced(self.clients.tenant(&TenantId::system()), NAMESPACE);
        api.get(LEASE).await.unwrap()
    }

    async fn holder(&self) -> (String, i32) {
        let spec = self.lease().await.spec.unwrap();
        (spec.holder_identity.unwrap(), spec.lease_transitions.unwrap())
    }
}

/// Half a minute in which nothing happens.
async fn quiet(stage: &mut Stage) {
    let said = timeout(Duration::from_secs(30), stage.story.recv()).await;
    assert!(said.is_err(), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_has_stopped_before_another_begins() {
    for how in [HANGS, FAILS, MUTE] {
        let mut stage = Stage::new(FakeApi::new().clients());
        let a = stage.process("a", Takeover::AfterLease);
        stage.expect("a", Said::Begins).await;
        let b = stage.process("b", Takeover::AfterLease);
        quiet(&mut stage).await;
        let cut = Instant::now();
        a.network.set(how);
        let ended = stage.expect("a", Said::Ends).await;
        assert!(ended - cut <= stage.timing.renew, "{how}");
        let began = stage.expect("b", Said::Begins).await;
        // One write of it may have arrived yet.
        let most = stage.timing.lease + stage.timing.retry * 4;
        assert!(began - ended >= stage.timing.lease - stage.timing.renew, "{how}: {:?}", began - ended);
        assert!(began - cut <= most + stage.timing.renew, "{how}: {:?}", began - cut);
        assert_eq!(stage.holder().await, ("b".into(), 1));
        // It comes back, and waits.
        a.network.set(OPEN);
        quiet(&mut stage).await;
        b.network.set(how);
        stage.expect("b", Said::Ends).await;
        stage.expect("a", Said::Begins).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_stops_lets_the_next_one_begin() {
    let mut stage = Stage::new(FakeApi::new().clients());
    let a = stage.process("a", Takeover::AfterLease);
    stage.expect("a", Said::Begins).await;
    let _b = stage.process("b", Takeover::AfterLease);
    quiet(&mut stage).await;
    a.stop.cancel();
    let ended = stage.expect("a", Said::Ends).await;
    let began = stage.expect("b", Said::Begins).await;
    // The clock stands still while anybody has something to do.
    assert!(began - ended < Duration::from_millis(500), "{:?}", began - ended);
    assert_eq!(stage.holder().await, ("b".into(), 1));
}

#[tokio::test(start_paused = true)]
async fn who_vanishes_is_replaced_after_the_leases_time() {
    let mut stage = Stage::new(FakeApi::new().clients());
    let a = stage.process("a", Takeover::AfterLease);
    stage.expect("a", Said::Begins).await;
    let _b = stage.process("b", Takeover::AfterLease);
    quiet(&mut stage).await;
    let killed = Instant::now();
    drop(a);
    stage.expect("a", Said::Ends).await;
    let began = stage.expect("b", Said::Begins).await;
    let waited = began - killed;
    let least = stage.timing.lease - stage.timing.retry;
    assert!(waited >= least && waited <= stage.timing.lease, "{waited:?}");
}

/// It is another term that is made of a lease which was deleted: whose term it was does not go on in it.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_ends_the_term() {
    let mut stage = Stage::new(FakeApi::new().clients());
    let a = stage.process("a", Takeover::AfterLease);
    stage.expect("a", Said::Begins).await;
    let api: Api<Lease> = Api::namespaced(stage.clients.tenant(&TenantId::system()), NAMESPACE);
    let deleted = Instant::now();
    api.delete(LEASE, &Default::default()).await.unwrap();
    assert!(stage.expect("a", Said::Ends).await - deleted <= stage.timing.retry);
    stage.expect("a", Said::Begins).await;
    assert!(!a.terms.lock()[0].lasts() && a.terms.lock()[1].lasts());
}

#[tokio::test(start_paused = true)]
async fn short_errors_change_nothing() {
    let mut stage = Stage::new(FakeApi::new().clients());
    let a = stage.process("a", Takeover::AfterLease);
    stage.expect("a", Said::Begins).await;
    let _b = stage.process("b", Takeover::AfterLease);
    for (how, seconds) in [(FAILS, 7), (HANGS, 4), (FAILS, 1), (MUTE, 4), (FAILS, 7)] {
        a.network.set(how);
        sleep(Duration::from_secs(seconds)).await;
        a.network.set(OPEN);
        quiet(&mut stage).await;
    }
    assert_eq!(stage.holder().await, ("a".into(), 0));
}

/// A second process over the same file is there only because the first one is not.
#[tokio::test(start_paused = true)]
async fn who_is_alone_waits_for_nobody() {
    let mut stage = Stage::new(FakeApi::new().clients());
    let a = stage.process("a", Takeover::AtOnce);
    stage.expect("a", Said::Begins).await;
    quiet(&mut stage).await;
    assert_eq!(stage.holder().await, ("a".into(), 0));
    drop(a);
    stage.expect("a", Said::Ends).await;
    let (network, asked) = (Network::default(), Instant::now());
    // Not even for the API.
    network.set(FAILS);
    let b = stage.process_on("b", Takeover::AtOnce, network.clone(), CancellationToken::new());
    assert_eq!(stage.expect("b", Said::Begins).await, asked);
    quiet(&mut stage).await;
    network.set(OPEN);
    quiet(&mut stage).await;
    assert_eq!(stage.holder().await, ("b".into(), 1));
    b.stop.cancel();
    stage.expect("b", Said::Ends).await;
    while stage.holder().await.0 == "b" {
        tokio::task::yield_now().await;
    }
}

/// What was asked during a term is not answered after it, and nothing is asked any more: also where the process was
/// stopped meanwhile, and nobody has said that the term is over.
#[tokio::test(start_paused = true)]
async fn clients_are_good_for_a_term() {
    let mut stage = Stage::new(FakeApi::new().clients());
    let a = stage.process("a", Takeover::AfterLease);
    stage.expect("a", Said::Begins).await;
    let term = a.terms.lock()[0].clone();
    let network = Network::default();
    let maps =
        |clients: &Clients| -> Api<ConfigMap> { Api::namespaced(clients.tenant(&TenantId::system()), "default") };
    let during = maps(&term.clients(&network.clients(&stage.clients)));
    let map = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name}})).unwrap();
    during.create(&PostParams::default(), &map("good")).await.unwrap();
    network.set(MUTE);
    a.network.set(HANGS);
    let (late, posting) = (map("late"), PostParams::default());
    let asked = during.create(&posting, &late);
    let (answered, ended) = tokio::join!(asked, stage.expect("a", Said::Ends));
    assert!(answered.unwrap_err().to_string().contains("lease"), "it was done, and nobody is told");
    assert!(Instant::now() - ended < Duration::from_secs(1));
    network.set(OPEN);
    during.create(&PostParams::default(), &map("after")).await.unwrap_err();
    let all = maps(&stage.clients).list(&Default::default()).await.unwrap();
    let names: Vec<String> = all.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["good", "late"]);

    let (until, watched) = watch::channel(Some(Instant::now() + Duration::from_secs(10)));
    let asleep = Term::new(CancellationToken::new(), watched, None);
    let during = maps(&asleep.clients(&stage.clients));
    during.create(&PostParams::default(), &map("in-time")).await.unwrap();
    tokio::time::advance(Duration::from_secs(11)).await;
    during.create(&PostParams::default(), &map("too-late")).await.unwrap_err();
    drop(until);
}

/// What was sent during a term and arrives after it does nothing, neither while nobody holds the lease nor when another does.
#[tokio::test]
async fn what_arrives_after_the_term_is_not_done() {
    let api = InProcess::start();
    for namespace in [NAMESPACE, "default"] {
        api.make::<Namespace>(TenantId::SYSTEM, json!({"metadata": {"name": namespace}})).await;
    }
    let mut stage = Stage::new(api.clients.clone());
    stage.timing.retry = Duration::from_millis(20);
    let a = stage.process("a", Takeover::AfterLease);
    stage.expect("a", Said::Begins).await;
    let term = a.terms.lock()[0].clone();
    // On its way it is nobody's any more who gave it up.
    let (sender, mut sent) = mpsc::unbounded_channel();
    let slow = stage.clients.layered(move |inner| {
        let sender = sender.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let _ = sender.send(inner.clone().call(request));
            std::future::pending::<Result<Response<AnyBody>, BoxError>>()
        }))
    });
    let maps =
        |clients: &Clients| -> Api<ConfigMap> { Api::namespaced(clients.tenant(&TenantId::system()), "default") };
    let map = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name}})).unwrap();
    let (prompt, late) = (maps(&term.clients(&stage.clients)), maps(&term.clients(&slow)));
    let posting = PostParams::default();
    prompt.create(&posting, &map("there")).await.unwrap();
    let first = stage.lease().await;
    while stage.lease().await == first {
        sleep(Duration::from_millis(1)).await;
    }
    prompt.create(&posting, &map("renewed")).await.unwrap();
    let mut begun = Vec::new();
    for name in ["in-time", "free", "anothers"] {
        let (late, map, posting) = (late.clone(), map(name), posting.clone());
        let asking = tokio::spawn(async move { late.create(&posting, &map).await });
        begun.push(sent.recv().await.unwrap());
        asking.abort();
    }
    let mut begun = begun.into_iter();
    let mut arrives = || begun.next().unwrap();
    assert_eq!(arrives().await.unwrap().status(), 201);
    a.stop.cancel();
    stage.expect("a", Said::Ends).await;
    while !stage.holder().await.0.is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(arrives().await.unwrap().status(), 409);
    let b = stage.process("b", Takeover::AfterLease);
    stage.expect("b", Said::Begins).await;
    assert_eq!(arrives().await.unwrap().status(), 409);
    let next = maps(&b.terms.lock()[0].clients(&stage.clients));
    next.create(&posting, &map("next")).await.unwrap();
    let all = maps(&stage.clients).list(&Default::default()).await.unwrap();
    let names: Vec<String> = all.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["in-time", "next", "renewed", "there"]);
}

/// Whose caches were behind when another acted begins with what that one has done.
#[tokio::test]
async fn who_begins_has_all_that_was_done_before() {
    let api = InProcess::start();
    for namespace in [NAMESPACE, "default"] {
        api.make::<Namespace>(TenantId::SYSTEM, json!({"metadata": {"name": namespace}})).await;
    }
    let mut stage = Stage::new(api.clients.clone());
    stage.timing.retry = Duration::from_millis(20);
    let maps: Api<ConfigMap> = Api::namespaced(api.client(TenantId::SYSTEM), "default");
    let a = stage.process("a", Takeover::AfterLease);
    stage.expect("a", Said::Begins).await;
    // A network that nothing comes through which was not asked for.
    let clients = stage.clients.layered(|inner| {
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
            let here = request.extensions().get::<Wanted>().is_none();
            let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let mut inner = inner.clone();
            async move {
                match (here, watches) {
                    (false, _) => Err("objects are not handed over".into()),
                    (_, true) => std::future::pending().await,
                    _ => inner.call(request).await,
                }
            }
        }))
    });
    let informers = Informers::new(clients, AllTenants::grant(), CancellationToken::new());
    let standby = informers.of::<ConfigMap>();
    informers.synced().await;
    let map = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name}})).unwrap();
    maps.create(&PostParams::default(), &map("last")).await.unwrap();
    a.stop.cancel();
    stage.expect("a", Said::Ends).await;
    let b = stage.process("b", Takeover::AfterLease);
    stage.expect("b", Said::Begins).await;
    let term = b.terms.lock()[0].clone();
    let begun = informers.during(&term);
    let cache = begun.of::<ConfigMap>();
    begun.synced().await;
    let key = Key::new(&TenantId::system(), "default", "last");
    assert!(cache.get(&key).is_some() && standby.get(&key).is_none());
}

/// Over the real API server, which checks what is written.
#[tokio::test]
async fn the_api_server_takes_the_leases() {
    let api = InProcess::start();
    api.make::<Namespace>(TenantId::SYSTEM, json!({"metadata": {"name": NAMESPACE}})).await;
    let mut stage = Stage::new(api.clients.clone());
    stage.timing.retry = Duration::from_millis(20);
    let a = stage.process("a", Takeover::AfterLease);
    stage.expect("a", Said::Begins).await;
    let b = stage.process("b", Takeover::AfterLease);
    let first = stage.lease().await;
    while stage.lease().await == first {
        sleep(Duration::from_millis(1)).await;
    }
    a.stop.cancel();
    stage.expect("a", Said::Ends).await;
    stage.expect("b", Said::Begins).await;
    assert_eq!(stage.holder().await, ("b".into(), 1));
    b.stop.cancel();
    stage.expect("b", Said::Ends).await;
    while !stage.holder().await.0.is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
}
