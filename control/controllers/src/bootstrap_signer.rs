//! Keeps `cluster-info` of the operator's cluster, and signs it with each bootstrap token that is for that (upstream's bootstrapsigner):
//! [`cluster_info`]. A token whose time is over is cleared away (`token_cleaner`), and with it its signature.

use std::{collections::BTreeMap, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
use hypernetes_api::TenantId;
use hypernetes_certificates::{
    bootstrap_token::{self, PREFIX},
    cluster_info::{self, KUBECONFIG, NAME, NAMESPACE, SIGNATURE},
};
use hypernetes_client::Api;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{ResourceExt, runtime::watcher};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::{
    Wiring,
    runtime::{Context, Error, Key, Queue, Reconciler, Recorder, Subject},
    token_cleaner::TOKENS,
};

/// Secrets by the tokens' ids. None: they have not been read yet.
type Tokens = Arc<Mutex<Option<BTreeMap<String, String>>>>;

pub fn start(wiring: &Wiring<'_>, authority: &str, server: SocketAddr) {
    let informers = wiring.informers;
    let (queue, tokens) = (wiring.queue(), Tokens::default());
    let place = Key::new(&TenantId::system(), NAMESPACE, NAME);
    let its = place.clone();
    informers
        .named::<ConfigMap>(NAME)
        .feed(&queue, move |key, _| if *key == its { vec![its.clone()] } else { Vec::new() });
    queue.add(place.clone());
    wiring.spawn(follow(informers.clients().tenant(&TenantId::system()), tokens.clone(), queue.clone(), place));
    let context = Context::new(informers, "bootstrap-signer");
    wiring.drive(BootstrapSigner { context, tokens, kubeconfig: kubeconfig(authority, server) }, queue);
}

/// As kubeadm writes it: nobody's in particular.
fn kubeconfig(authority: &str, server: SocketAddr) -> String {
    let authority = STANDARD.encode(authority);
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: https://{server}\n  \
         name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n"
    )
}

async fn follow(client: kube::Client, tokens: Tokens, queue: Queue<Key>, place: Key) {
    let which = watcher::Config::default().fields(TOKENS);
    let mut stream = pin!(hypernetes_client::readable(hypernetes_client::watch_with::<Secret>(client, &(), which)));
    let mut all = BTreeMap::new();
    while let Some(event) = stream.next().await {
        // While they are listed, what was known before is.
        let mut whole = true;
        match event {
            Ok(watcher::Event::Init) => {
                all.clear();
                whole = false;
            }
            Ok(watcher::Event::InitApply(secret)) => {
                all.extend(signing(&secret));
                whole = false;
            }
            Ok(watcher::Event::Apply(secret)) => {
                all.remove(id_of(&secret.name_any()));
                all.extend(signing(&secret));
            }
            Ok(watcher::Event::Delete(secret)) => drop(all.remove(id_of(&secret.name_any()))),
            Ok(watcher::Event::InitDone) => {}
            Err(error) => {
                tracing::debug!(%error, "watching bootstrap tokens");
                whole = false;
            }
        }
        if whole {
            *tokens.lock() = Some(all.clone());
            queue.add(place.clone());
        }
    }
}

fn id_of(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Id and secret of a token that is for signing, and is one.
fn signing(secret: &Secret) -> Option<(String, String)> {
    let entry = |name: &str| String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok();
    let (id, text) = (entry("token-id")?, entry("token-secret")?);
    let named = secret.name_any() == format!("{PREFIX}{id}") && bootstrap_token::is_one(&id, &text);
    let meant = entry("usage-bootstrap-signing")? == "true" && secret.metadata.deletion_timestamp.is_none();
    (named && meant && secret.namespace().as_deref() == Some(bootstrap_token::NAMESPACE)).then_some((id, text))
}

struct BootstrapSigner {
    context: Context,
    tokens: Tokens,
    kubeconfig: String,
}

#[async_trait]
impl Reconciler for BootstrapSigner {
    const NAME: &'static str = "bootstrap-signer";
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let api: Api<ConfigMap> = self.context.namespaced(&key.tenant, NAMESPACE);
        // What is signed by them is left as it is until they are known.
        let Some(tokens) = self.tokens.lock().clone() else { return Ok(None) };
        let mut wanted = BTreeMap::from([(KUBECONFIG.to_owned(), self.kubeconfig.clone())]);
        for (id, secret) in &tokens {
            wanted.insert(format!("{SIGNATURE}{id}"), cluster_info::sign(&self.kubeconfig, id, secret));
        }
        let maps = self.context.informers.named::<ConfigMap>(NAME);
        let Some(map) = maps.get(key) else {
            let map = json!({"metadata": {"name": NAME}, "data": wanted});
            self.context.ensure(&maps, &key.tenant, &api, "making cluster-info", map).await?;
            return Ok(None);
        };
        let have = map.data.clone().unwrap_or_default();
        let gone = have.keys().filter(|name| name.starts_with(SIGNATURE) && !wanted.contains_key(*name));
        let changed = wanted.iter().filter(|(name, text)| have.get(*name) != Some(text));
        let data: Map<String, Value> = gone
            .map(|name| (name.clone(), Value::Null))
            .chain(changed.map(|(name, text)| (name.clone(), text.clone().into())))
            .collect();
        if !data.is_empty() {
            self.context.merge(&api, NAME, "signing cluster-info", json!({"data": data})).await?;
        }
        Ok(None)
    }

    fn told(&self, key: &Key) -> Option<(&Recorder, Subject)> {
        self.context.told::<ConfigMap>(key)
    }
}
