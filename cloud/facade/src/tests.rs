//! What the services have of this crate, over one made up here.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Body as AnyBody,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{StatusCode, request::Parts};
use hypernetes_api::{
    TenantId,
    auth::{TokenAuthority, TokenInfo, TokenScope},
    types::volume::{Volume, VolumeSpec},
};
use hypernetes_client::Api;
use hypernetes_testing::{
    fake_api::FakeApi,
    http::{Answer, send, send_with},
    server::{ACME, id},
    tokens::Tokens,
};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;

#[derive(Clone)]
struct Made(Arc<Tokens>);

#[derive(Debug, PartialEq)]
struct Error(Fault);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self(error.into())
    }
}

impl ServiceError for Error {
    fn status(&self) -> StatusCode {
        match self.0 {
            Fault::Unauthorized => StatusCode::UNAUTHORIZED,
            Fault::Forbidden(_) => StatusCode::FORBIDDEN,
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::NoSuchPath => StatusCode::NOT_FOUND,
            Fault::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    fn body(&self) -> Value {
        json!({"made": self.to_string()})
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond(&self)
    }
}

impl Facade for Made {
    type Error = Error;
    const MAX_BODY_BYTES: usize = 20;
}

impl Guarded for Made {
    type Scope = TenantId;

    fn authority(&self) -> &dyn TokenAuthority {
        &*self.0
    }

    async fn scope(&self, token: &TokenInfo, _: &mut Parts) -> Result<TenantId, Error> {
        match &token.scope {
            TokenScope::Project { id, .. } => Ok(id.clone()),
            _ => Err(Fault::Forbidden("scope".into()).into()),
        }
    }
}

fn router() -> Router {
    let write = |Body(numbers): Body<Vec<u8>>| async move { Json(numbers) };
    let change = |caller: Caller<TenantId>| async move {
        caller.member("change").map(|()| caller.tenant().to_string()).map_err(Error::from)
    };
    let router = Router::new().route("/write", post(write)).route("/change", get(change));
    with_fallbacks(router).with_state(Made(Arc::new(Tokens)))
}

async fn write(body: impl Into<AnyBody>) -> Answer {
    send(router(), "", "POST", "/write", body).await
}

#[tokio::test]
async fn bodies_have_a_form_and_an_end() {
    assert_eq!(write("[1, 2]").await.ok(), json!([1, 2]));
    for malformed in ["", "[", "{}", "[-1]", "[1] x"] {
        assert_eq!(write(malformed).await.status, 400, "{malformed}");
    }
    let long = format!("[{}]", " ".repeat(19));
    assert_eq!(write(long.clone()).await.status, 413);
    assert_eq!(write(long[..19].to_owned() + "]").await.status, 200);
    // Whatever it says of its length.
    let parts = |parts: Vec<Result<bytes::Bytes, std::io::Error>>| AnyBody::from_stream(futures::stream::iter(parts));
    assert_eq!(write(parts(vec![Ok(long.into())])).await.status, 413);
    let broken = write(parts(vec![Ok("[1".into()), Err(std::io::Error::other("gone"))])).await;
    assert_eq!((broken.status.as_u16(), &broken.body), (400, &json!({"made": "the body could not be read"})));
    let said = send_with(router(), &[("content-length", "21")], "POST", "/write", "[1]").await;
    assert_eq!(said.status, 413, "it is not read at all");
}

#[tokio::test]
async fn who_asks_needs_a_token_of_a_scope_and_a_role() {
    let change = async |token: &str| send(router(), token, "GET", "/change", "").await;
    for token in ["", "nonsense", "member"] {
        let answer = change(token).await;
        assert_eq!(answer.status, 401, "{token}");
        assert_eq!(answer.headers["www-authenticate"], "Keystone uri=\"/identity\"");
        assert_eq!(answer.body["error"]["title"], "Unauthorized");
    }
    for token in ["member@", "admin@system", &format!("reader@{ACME}")] {
        let answer = change(token).await;
        assert_eq!((answer.status.as_u16(), answer.body.get("made").is_some()), (403, true), "{token}");
    }
    for role in ["member", "admin"] {
        assert_eq!(change(&format!("{role}@{ACME}")).await.status, 200, "{role}");
    }
}

#[tokio::test]
async fn what_has_no_route_is_answered_in_the_services_form() {
    let nowhere = send(router(), "", "GET", "/nowhere", "").await;
    assert_eq!((nowhere.status.as_u16(), nowhere.body.get("made").is_some()), (404, true));
    let read = send(router(), "", "GET", "/write", "").await;
    assert_eq!((read.status.as_u16(), read.body.get("made").is_some()), (405, true));
}

async fn parameters(query: &str) -> Parameters {
    use axum::extract::FromRequestParts;
    let (mut parts, ()) = http::Request::get(format!("/?{query}")).body(()).unwrap().into_parts();
    Parameters::from_request_parts(&mut parts, &Made(Arc::new(Tokens))).await.unwrap()
}

#[tokio::test]
async fn parameters_may_come_several_times_or_without_a_value() {
    let given = parameters("a=1&b&a=2&off=False&%ff=x").await;
    assert_eq!(given.all("a").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!((given.get("a"), given.get("b"), given.get("c")), (Some("2"), Some(""), None));
    assert_eq!((given.flag("b"), given.flag("off"), given.flag("c")), (Some(true), Some(false), None));
    assert!(given.passes("c", "any") && given.passes("a", "2") && !given.passes("a", "1"));
}

#[tokio::test]
async fn pages_follow_their_marker() {
    let list = ["a", "b", "c"];
    let start = async |query: &str| {
        let given = parameters(query).await;
        let page = Page::wanted(&given)?;
        Ok((page.limit, page.start(&list, |item, id| *item == id)?))
    };
    assert_eq!(start("").await, Ok((None, 0)));
    assert_eq!(start("limit=2&marker=a").await, Ok((Some(2), 1)));
    assert_eq!(start("marker=c").await, Ok((None, 3)));
    assert_eq!(start("marker=d").await, Err(PageError::NoSuchMarker("d".into())));
    for bad in ["limit=-1", "limit=x", "limit="] {
        assert_eq!(start(bad).await, Err(PageError::NotANumber("limit")), "{bad}");
    }
}

fn volumes(fake: &FakeApi) -> Api<Volume> {
    Api::all(fake.clients().tenant(&id(ACME)))
}

fn named(name: &str, display: &str) -> Result<Volume, Error> {
    Ok(Volume::new(name, VolumeSpec { display_name: display.into(), ..VolumeSpec::default() }))
}

#[tokio::test]
async fn a_clients_name_is_the_objects_if_it_can_be() {
    let api = volumes(&FakeApi::new());
    let made = async |usable, generated: &str| {
        let made = create(&api, "data", usable, generated, named).await;
        made.map(|volume| (volume.name_any(), volume.spec.display_name))
    };
    assert_eq!(made(false, "v-1").await, Ok(("v-1".into(), "data".into())));
    assert_eq!(made(true, "v-2").await, Ok(("data".into(), String::new())));
    assert_eq!(made(true, "v-2").await, Ok(("v-2".into(), "data".into())), "it is taken");
    assert!(matches!(made(true, "v-2").await, Err(Error(Fault::Conflict(_)))));
}

#[tokio::test]
async fn an_update_is_done_over_the_newest_version_or_not_at_all() {
    let api = volumes(&FakeApi::new());
    let first = create(&api, "v", true, "", named).await.unwrap();
    let uid = first.uid();
    let same = |volume: &Volume| volume.uid() == uid;
    let grow = |volume: &mut Volume| -> Result<(), Error> {
        volume.spec.size_bytes += 1;
        Ok(())
    };
    // From the first version on each time: every one but the first comes too late, and begins again.
    for size in 1..4 {
        let grown = update(&api, first.clone(), same, grow).await.unwrap();
        assert_eq!(grown.spec.size_bytes, size);
    }
    let tries = AtomicUsize::new(0);
    let stale = |volume: &mut Volume| -> Result<(), Error> {
        tries.fetch_add(1, Ordering::Relaxed);
        volume.metadata.resource_version = Some("0".into());
        Ok(())
    };
    assert!(matches!(update(&api, first.clone(), same, stale).await, Err(NotUpdated::Contended)));
    assert_eq!(tries.into_inner(), 5);
    let refuse = |_: &mut Volume| Err(Error(Fault::NoRoom));
    assert!(matches!(update(&api, first.clone(), same, refuse).await, Err(NotUpdated::Refused(Error(Fault::NoRoom)))));
    api.delete("v", &Default::default()).await.unwrap();
    let answered = update(&api, first.clone(), same, grow).await;
    assert!(matches!(answered, Err(NotUpdated::Api(kube::Error::Api(status))) if status.code == 404));
    create(&api, "v", true, "", named).await.unwrap();
    assert!(matches!(update(&api, first, same, grow).await, Err(NotUpdated::Gone)), "another of the name");
}
