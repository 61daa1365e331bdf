//! The HTTP API over an API server in memory.

mod openstack;

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode};
use hypernetes_api::{
    auth::{Source, Spent, TokenAuthority, TokenError, TokenScope},
    types::identity::{TokenRevocation, TokenRevocationSpec},
};
use hypernetes_testing::{fake_api::FakeApi, http::send_with};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    Identity, IdentityConfig, PasswordCost,
    ids::admin_project_id,
    login::{Login, LoginError},
    roles::role_id,
};

const PASSWORD: &str = "correct horse";

struct Keystone {
    api: FakeApi,
    identity: Arc<Identity>,
    router: Router,
}

struct Answer {
    status: StatusCode,
    token: Option<String>,
    body: Value,
}

fn config() -> IdentityConfig {
    let cost = PasswordCost { memory_kib: 64, passes: 1, parallel: 2 };
    IdentityConfig { password_cost: cost, ..IdentityConfig::new("https://cloud.example:6443/") }
}

async fn keystone_with(config: IdentityConfig) -> Keystone {
    let api = FakeApi::new();
    let identity = Identity::start(&api.clients(), config);
    identity.bootstrap(PASSWORD).await.unwrap();
    let router = Router::new().nest("/identity", identity.router());
    Keystone { api, identity, router }
}

async fn keystone() -> Keystone {
    keystone_with(config()).await
}

fn password_auth(user: &str, password: &str, scope: Value) -> Value {
    let user = json!({"name": user, "domain": {"id": "default"}, "password": password});
    json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}})
}

fn in_project(name: &str) -> Value {
    json!({"project": {"name": name, "domain": {"name": "Default"}}})
}

impl Keystone {
    async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let uri = format!("/identity{path}");
        let answer = send_with(self.router.clone(), headers, method.as_str(), &uri, body).await;
        let token = answer.headers.get("x-subject-token").map(|token| token.to_str().unwrap().to_owned());
        Answer { status: answer.status, token, body: answer.body }
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> Answer {
        let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        self.request(method.parse().unwrap(), path, &[("x-auth-token", token)], body).await
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, token, Value::Null).await
    }

    async fn login(&self, user: &str, password: &str, scope: Value) -> Answer {
        let body = password_auth(user, password, scope).to_string().into_bytes();
        self.request(Method::POST, "/v3/auth/tokens", &[], body).await
    }

    async fn admin(&self) -> String {
        let answer = self.login("admin", PASSWORD, in_project("admin")).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.token.unwrap()
    }

    /// A project, and a user with a role in it.
    async fn tenant(&self, admin: &str, name: &str, role: &str) -> (String, String) {
        let project = self.call("POST", "/v3/projects", admin, json!({"project": {"name": name}})).await;
        assert_eq!(project.status, StatusCode::CREATED, "{}", project.body);
        let user = json!({"user": {"name": name, "password": PASSWORD}});
        let user = self.call("POST", "/v3/users", admin, user).await;
        assert_eq!(user.status, StatusCode::CREATED, "{}", user.body);
        let (project, user) = (id(&project.body["project"]), id(&user.body["user"]));
        let path = format!("/v3/projects/{project}/users/{user}/roles/{}", role_id(role));
        assert_eq!(self.call("PUT", &path, admin, Value::Null).await.status, StatusCode::NO_CONTENT);
        (project, user)
    }
}

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|value| value["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn versions_are_told_with_and_without_slash() {
    let k = keystone().await;
    assert_eq!(k.get("", "").await.status, StatusCode::MULTIPLE_CHOICES);
    for path in ["/v3", "/v3/"] {
        let answer = k.get(path, "").await;
        assert_eq!((answer.status, answer.body["version"]["id"].as_str()), (StatusCode::OK, Some("v3.14")));
        assert_eq!(answer.body["version"]["links"][0]["href"], "https://cloud.example:6443/identity/v3/");
    }
}

#[tokio::test]
async fn bootstrap_again_changes_nothing() {
    let k = keystone().await;
    k.identity.bootstrap("another password").await.unwrap();
    k.admin().await;
    // Another server of the same installation knows the tokens of the first.
    let other = Identity::start(&k.api.clients(), config());
    other.bootstrap("a third one").await.unwrap();
    let info = other.validate(&k.admin().await).await.unwrap();
    assert_eq!((info.user_name.as_str(), info.roles.len()), ("admin", 3));
}

#[tokio::test]
async fn a_password_gives_a_token_in_each_scope() {
    let k = keystone().await;
    let project = k.login("admin", PASSWORD, in_project("admin")).await;
    let token = &project.body["token"];
    assert_eq!(token["project"]["name"], "admin");
    assert_eq!(token["project"]["domain"]["id"], "default");
    assert_eq!(token["methods"], json!(["password"]));
    let mut roles = names(&token["roles"]);
    roles.sort_unstable();
    assert_eq!(roles, ["admin", "member", "reader"]);
    let types: Vec<&str> = token["catalog"].as_array().unwrap().iter().map(|s| s["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["identity", "network", "volumev3", "block-storage", "kubernetes"]);
    let url = token["catalog"][2]["endpoints"][0]["url"].as_str().unwrap();
    assert_eq!(url, format!("https://cloud.example:6443/volume/v3/{}", admin_project_id()));

    let system = k.login("admin", PASSWORD, json!({"system": {"all": true}})).await;
    assert_eq!(system.body["token"]["system"]["all"], true);
    let domain = k.login("admin", PASSWORD, json!({"domain": {"id": "default"}})).await;
    assert_eq!(domain.body["token"]["domain"]["id"], "default");
    for unscoped in [json!("unscoped"), json!({"unscoped": {}})] {
        let token = k.login("admin", PASSWORD, unscoped).await.body["token"].clone();
        assert!(token["project"].is_null() && token["roles"].is_null() && token["catalog"].is_null(), "{token}");
    }
    // Without a word about the scope it is the default project.
    let default = k.login("admin", PASSWORD, Value::Null).await;
    assert_eq!(default.body["token"]["project"]["id"], admin_project_id());

    let TokenScope::Project { id, .. } = k.identity.validate(&project.token.unwrap()).await.unwrap().scope else {
        panic!("not a project's token");
    };
    assert_eq!(id.as_str(), admin_project_id());
}

#[tokio::test]
async fn wrong_credentials_are_all_refused_alike() {
    let k = keystone().await;
    let admin = k.admin().await;
    let (_, user) = k.tenant(&admin, "off", "member").await;
    k.call("PATCH", &format!("/v3/users/{user}"), &admin, json!({"user": {"enabled": false}})).await;
    let mut bodies = Vec::new();
    for (user, password, scope) in [
        ("admin", "wrong", in_project("admin")),
        ("nobody", PASSWORD, in_project("admin")),
        ("off", PASSWORD, in_project("off")),
        ("admin", PASSWORD, in_project("no-such-project")),
        ("admin", PASSWORD, in_project("off")),
        ("admin", &"x".repeat(5000), Value::Null),
    ] {
        let answer = k.login(user, password, scope).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{user}");
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "what was wrong is not told");
    assert_eq!(bodies[0]["error"]["title"], "Unauthorized");
}

#[tokio::test]
async fn who_guesses_waits_and_nobody_else_does() {
    let k = keystone().await;
    let login = async |last: u8, password: &str| {
        let body = password_auth("admin", password, in_project("admin")).to_string();
        let mut request = Request::post("/identity/v3/auth/tokens").body(Body::from(body)).unwrap();
        request.extensions_mut().insert(Source::from(std::net::IpAddr::from([127, 0, 0, last])));
        let response = k.router.clone().oneshot(request).await.unwrap();
        // Whoever has a password checked pays for what it costs, and so does the tenant that it was for; who has to wait has not.
        let spent = response.extensions().get::<Spent>();
        let checked = response.status() != StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(spent.is_some_and(|spent| !spent.cost.is_zero()), checked);
        let tenant = spent.and_then(|spent| spent.tenant.as_ref());
        assert_eq!(tenant.is_some(), response.status() == StatusCode::CREATED);
        (response.status().as_u16(), response.headers().get("retry-after").is_some())
    };
    for _ in 0..5 {
        assert_eq!(login(2, "wrong").await, (401, false));
    }
    // A slow machine may be slower than the wait: each failure makes it longer.
    let mut rounds = 0;
    // Not even the right password is looked at.
    while login(2, PASSWORD).await != (429, true) {
        rounds += 1;
        assert!(rounds < 20, "it never has to wait");
        for _ in 0..8 {
            login(2, "wrong").await;
        }
    }
    assert_eq!(login(3, PASSWORD).await, (201, false));
}

#[tokio::test]
async fn malformed_requests_get_the_proper_error_and_never_500() {
    let k = keystone().await;
    let admin = k.admin().await;
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"{\"auth\": 3}",
        b"{\"auth\": {\"identity\": {\"methods\": []}}}",
        b"{\"auth\": {\"identity\": {\"methods\": [\"password\"]}}}",
        b"{\"auth\": {\"identity\": {\"methods\": [\"password\"], \"password\": {\"user\": {\"password\": \"x\"}}}}}",
        b"{\"auth\": {\"identity\": {\"methods\": [\"token\"]}}}",
        b"\xff\xfe",
    ] {
        let answer = k.request(Method::POST, "/v3/auth/tokens", &[], body.to_vec()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{:?}", String::from_utf8_lossy(body));
        assert_eq!(answer.body["error"]["code"], 400);
    }
    let large = vec![b' '; 200_000];
    assert_eq!(k.request(Method::POST, "/v3/auth/tokens", &[], large).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let totp = json!({"auth": {"identity": {"methods": ["totp"]}}}).to_string().into_bytes();
    assert_eq!(k.request(Method::POST, "/v3/auth/tokens", &[], totp).await.status, StatusCode::UNAUTHORIZED);
    for project in [
        json!({"name": 3}),
        json!({"name": ""}),
        json!({"name": "  "}),
        json!({"name": "x".repeat(65)}),
        json!({}),
        json!({"name": "a", "enabled": "yes"}),
        json!({"name": "a", "domain_id": "none"}),
    ] {
        let answer = k.call("POST", "/v3/projects", &admin, json!({"project": project})).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{project}");
    }
    assert_eq!(
        k.call("POST", "/v3/projects", &admin, json!({"project": {"name": "system"}})).await.status,
        StatusCode::CONFLICT
    );
    assert_eq!(k.get("/v3/nothing", &admin).await.status, StatusCode::NOT_FOUND);
    assert_eq!(k.get("/v3/nothing", &admin).await.body["error"]["code"], 404);
    assert_eq!(k.call("PUT", "/v3/projects", &admin, Value::Null).await.status, StatusCode::METHOD_NOT_ALLOWED);
    for bad in ["/v3/projects/%ff", "/v3/projects/..%2f..%2fx", "/v3/users/%00", "/v3/users?enabled=%ff&x"] {
        let status = k.get(bad, &admin).await.status;
        assert!(status.is_client_error() || status.is_success(), "{bad}: {status}");
    }
    for token in ["", "x", "AAAA", &"A".repeat(300), &"A".repeat(10_000), "é"] {
        let bytes = http::HeaderValue::from_bytes(token.as_bytes()).unwrap();
        let request = Request::get("/identity/v3/users").header("x-auth-token", bytes).body(Body::empty()).unwrap();
        let response = k.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn no_byte_of_a_token_can_be_changed() {
    let k = keystone().await;
    let token = k.admin().await;
    for position in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(k.identity.validate(&changed).await, Err(TokenError::Invalid), "byte {position}");
    }
    assert!(k.identity.validate(&token).await.is_ok());
}

#[tokio::test]
async fn tokens_end() {
    let short = IdentityConfig { token_lifetime: Duration::from_secs(3), ..config() };
    let k = keystone_with(short).await;
    let token = k.admin().await;
    assert!(k.identity.validate(&token).await.is_ok());
    let ended = async {
        while k.identity.validate(&token).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it ends");
    assert_eq!(k.identity.validate(&token).await, Err(TokenError::Invalid));
}

#[tokio::test]
async fn tokens_are_shown_and_revoked_by_their_owner_and_the_admin() {
    let k = keystone().await;
    let admin = k.admin().await;
    k.tenant(&admin, "acme", "admin").await;
    k.tenant(&admin, "globex", "admin").await;
    let acme = k.login("acme", PASSWORD, in_project("acme")).await.token.unwrap();
    let globex = k.login("globex", PASSWORD, in_project("globex")).await.token.unwrap();
    let about = |method: Method, by: String, subject: String| {
        let k = &k;
        async move {
            let headers = [("x-auth-token", by.as_str()), ("x-subject-token", subject.as_str())];
            k.request(method, "/v3/auth/tokens", &headers, vec![]).await
        }
    };
    let shown = about(Method::GET, acme.clone(), acme.clone()).await;
    assert_eq!((shown.status, shown.token.as_deref()), (StatusCode::OK, Some(acme.as_str())));
    assert_eq!(about(Method::HEAD, admin.clone(), acme.clone()).await.status, StatusCode::OK);
    assert_eq!(about(Method::GET, globex.clone(), acme.clone()).await.status, StatusCode::FORBIDDEN);
    assert_eq!(about(Method::DELETE, globex.clone(), acme.clone()).await.status, StatusCode::FORBIDDEN);
    assert_eq!(about(Method::GET, admin.clone(), "nonsense".into()).await.status, StatusCode::NOT_FOUND);
    let again = k.login("acme", PASSWORD, in_project("acme")).await.token.unwrap();
    assert_eq!(about(Method::DELETE, acme.clone(), acme.clone()).await.status, StatusCode::NO_CONTENT);
    assert_eq!(k.identity.validate(&acme).await, Err(TokenError::Invalid));
    assert!(k.identity.validate(&again).await.is_ok(), "another token of the same user");
    assert_eq!(about(Method::GET, admin, acme).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_projects_revocations_have_an_end() {
    let k = keystone().await;
    let admin = k.admin().await;
    k.tenant(&admin, "acme", "admin").await;
    k.tenant(&admin, "globex", "admin").await;
    let revoke = async |name: &str| {
        let token = k.login(name, PASSWORD, in_project(name)).await.token.unwrap();
        let headers = [("x-auth-token", token.as_str()), ("x-subject-token", token.as_str())];
        k.request(Method::DELETE, "/v3/auth/tokens", &headers, vec![]).await.status
    };
    assert_eq!(revoke("acme").await, StatusCode::NO_CONTENT);
    // As if acme's members had done so a thousand times.
    let revocations = &k.identity.directory.revocations;
    let own = revocations.all().into_iter().find(|revocation| revocation.spec.charged_to.is_some()).unwrap();
    for number in 1..crate::revocation::MAX_REVOCATIONS {
        let mut copy = TokenRevocation::clone(&own);
        copy.metadata.name = Some(format!("copy-{number}"));
        revocations.apply(copy);
    }
    assert_eq!(revoke("acme").await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(revoke("globex").await, StatusCode::NO_CONTENT);
    // All of a user's are revoked by one record, however often.
    let id = own.spec.charged_to.clone().unwrap();
    let before = revocations.all().len();
    for _ in 0..3 {
        k.identity.revoke_project(&id).await.unwrap();
    }
    assert_eq!(revocations.all().len(), before + 1);
}

/// Another server writes down anew that all of a user's tokens end, at the moment at which what was written before is forgotten.
#[tokio::test]
async fn a_revocation_that_says_more_meanwhile_is_not_forgotten() {
    let k = keystone().await;
    let past = "2020-01-01T00:00:00Z";
    for user in ["again", "ended"] {
        let spec = TokenRevocationSpec {
            user: Some(user.into()),
            issued_before: past.into(),
            expires_at: past.into(),
            ..TokenRevocationSpec::default()
        };
        k.identity.directory.create(&TokenRevocation::new(user, spec)).await.unwrap();
    }
    let system = hypernetes_api::TenantId::system();
    let records: Api<TokenRevocation> = Api::all(k.api.clients().tenant(&system));
    let others = records.clone();
    let clients = k.api.clients().layered(move |inner| {
        let others = others.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<kube::client::Body>| {
            let (mut inner, others) = (inner.clone(), others.clone());
            async move {
                if request.method() == Method::DELETE && request.uri().path().ends_with("/again") {
                    let later = json!({"spec": {"expiresAt": "2999-01-01T00:00:00Z"}});
                    others.patch("again", &PatchParams::default(), &Patch::Merge(later)).await?;
                }
                inner.call(request).await
            }
        }))
    });
    k.identity.forget_revocations(&clients.tenant(&system)).await.unwrap();
    assert!(records.get_opt("again").await.unwrap().is_some());
    assert!(records.get_opt("ended").await.unwrap().is_none());
}

#[tokio::test]
async fn a_token_gives_a_token_for_another_scope_that_lives_no_longer() {
    let k = keystone().await;
    let unscoped = k.login("admin", PASSWORD, json!("unscoped")).await;
    let rescope = |token: String, scope: Value| json!({"auth": {"identity": {"methods": ["token"], "token": {"id": token}}, "scope": scope}});
    let body = rescope(unscoped.token.clone().unwrap(), in_project("admin")).to_string().into_bytes();
    let scoped = k.request(Method::POST, "/v3/auth/tokens", &[], body).await;
    assert_eq!(scoped.status, StatusCode::CREATED, "{}", scoped.body);
    assert_eq!(scoped.body["token"]["expires_at"], unscoped.body["token"]["expires_at"]);
    assert_eq!(scoped.body["token"]["methods"], json!(["token", "password"]));
    assert_eq!(scoped.body["token"]["audit_ids"][1], unscoped.body["token"]["audit_ids"][0]);
    let body = rescope("nonsense".into(), in_project("admin")).to_string().into_bytes();
    assert_eq!(k.request(Method::POST, "/v3/auth/tokens", &[], body).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_ends_with_each_of_those_that_it_was_made_from() {
    let k = keystone().await;
    for revoked in 0..3 {
        let mut tokens = vec![k.login("admin", PASSWORD, json!("unscoped")).await.token.unwrap()];
        for scope in [in_project("admin"), json!("unscoped"), in_project("admin")] {
            let identity = json!({"methods": ["token"], "token": {"id": tokens.last()}});
            let body = json!({"auth": {"identity": identity, "scope": scope}}).to_string().into_bytes();
            tokens.push(k.request(Method::POST, "/v3/auth/tokens", &[], body).await.token.unwrap());
        }
        let admin = k.admin().await;
        let headers = [("x-auth-token", admin.as_str()), ("x-subject-token", tokens[revoked].as_str())];
        let gone = k.request(Method::DELETE, "/v3/auth/tokens", &headers, vec![]).await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.body);
        for (index, token) in tokens.iter().enumerate() {
            assert_eq!(k.identity.validate(token).await.is_ok(), index < revoked, "{index} after {revoked} is revoked");
        }
    }
    // A chain has an end: a token that could not name all before it would outlive one of them.
    let mut token = k.login("admin", PASSWORD, json!("unscoped")).await.token.unwrap();
    let mut made = 1;
    loop {
        let identity = json!({"methods": ["token"], "token": {"id": token}});
        let body = json!({"auth": {"identity": identity, "scope": "unscoped"}}).to_string().into_bytes();
        let answer = k.request(Method::POST, "/v3/auth/tokens", &[], body).await;
        if answer.status == StatusCode::UNAUTHORIZED {
            break;
        }
        (token, made) = (answer.token.unwrap(), made + 1);
        assert!(made < 100);
    }
    assert_eq!(made, 16);
}

#[tokio::test]
async fn what_ends_a_token_before_its_time() {
    let k = keystone().await;
    let admin = k.admin().await;
    let (project, user) = k.tenant(&admin, "acme", "member").await;
    let fresh = || async { k.login("acme", PASSWORD, in_project("acme")).await.token.unwrap() };
    let (user_path, project_path) = (format!("/v3/users/{user}"), format!("/v3/projects/{project}"));
    let role_path = format!("{project_path}/users/{user}/roles/{}", role_id("member"));
    let changes = [
        ("PATCH", &project_path, json!({"project": {"enabled": false}}), json!({"project": {"enabled": true}})),
        ("PATCH", &user_path, json!({"user": {"enabled": false}}), json!({"user": {"enabled": true}})),
        ("PATCH", &user_path, json!({"user": {"password": PASSWORD}}), json!({"user": {}})),
    ];
    for (method, path, end, back) in changes {
        let token = fresh().await;
        assert!(k.identity.validate(&token).await.is_ok());
        assert_eq!(k.call(method, path, &admin, end.clone()).await.status, StatusCode::OK);
        assert_eq!(k.identity.validate(&token).await, Err(TokenError::Invalid), "{end}");
        k.call(method, path, &admin, back).await;
        assert_eq!(k.identity.validate(&token).await, Err(TokenError::Invalid), "and for ever after {end}");
    }
    let token = fresh().await;
    k.call("DELETE", &role_path, &admin, Value::Null).await;
    assert_eq!(k.identity.validate(&token).await, Err(TokenError::Invalid), "a taken role");
    k.call("PUT", &role_path, &admin, Value::Null).await;
    let token = fresh().await;
    assert_eq!(k.call("DELETE", &user_path, &admin, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(k.identity.validate(&token).await, Err(TokenError::Invalid), "a deleted user");
}

#[tokio::test]
async fn keys_rotate_and_older_tokens_stay_good() {
    let k = keystone_with(IdentityConfig { token_lifetime: Duration::from_secs(60), ..config() }).await;
    let old = k.admin().await;
    // Keys are named by seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    k.identity.rotate_token_key().await.unwrap();
    let new = k.admin().await;
    assert_ne!(old[..12], new[..12], "under another key");
    assert!(k.identity.validate(&new).await.is_ok());
    assert!(k.identity.validate(&old).await.is_ok());
}

#[tokio::test]
async fn a_projects_admin_has_no_right_over_others() {
    let k = keystone().await;
    let admin = k.admin().await;
    let (project, user) = k.tenant(&admin, "acme", "admin").await;
    let (other, _) = k.tenant(&admin, "globex", "admin").await;
    let acme = k.login("acme", PASSWORD, in_project("acme")).await.token.unwrap();
    for path in ["/v3/users", "/v3/projects", "/v3/domains", "/v3/groups", "/v3/roles", "/v3/role_assignments"] {
        let answer = k.get(path, &acme).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(answer.body["error"]["title"], "Forbidden");
    }
    let own = format!("/v3/projects/{other}/users/{user}/roles/{}", role_id("admin"));
    assert_eq!(k.call("PUT", &own, &acme, Value::Null).await.status, StatusCode::FORBIDDEN);
    let own = format!("/v3/system/users/{user}/roles/{}", role_id("admin"));
    assert_eq!(k.call("PUT", &own, &acme, Value::Null).await.status, StatusCode::FORBIDDEN);
    for path in [format!("/v3/users/{user}"), format!("/v3/projects/{project}"), format!("/v3/users/{user}/projects")] {
        assert_eq!(k.get(&path, &acme).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(k.get(&format!("/v3/projects/{other}"), &acme).await.status, StatusCode::FORBIDDEN);
    let mine = k.get("/v3/auth/projects", &acme).await;
    assert_eq!(names(&mine.body["projects"]), ["acme"]);
    assert_eq!(k.get("/v3/users", "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn projects_are_made_found_changed_and_deleted() {
    let k = keystone().await;
    let admin = k.admin().await;
    let (project, user) = k.tenant(&admin, "acme", "member").await;
    assert!(project.len() == 32 && project.bytes().all(|b| b.is_ascii_hexdigit()));
    let twice = k.call("POST", "/v3/projects", &admin, json!({"project": {"name": "acme"}})).await;
    assert_eq!(twice.status, StatusCode::CONFLICT);
    let message = twice.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("Duplicate entry found with name acme at domain ID default"), "{message}");
    let path = format!("/v3/projects/{project}");
    let changed = k.call("PATCH", &path, &admin, json!({"project": {"description": "d", "name": "acme-2"}})).await;
    assert_eq!(changed.body["project"]["description"], "d");
    let taken = k.call("PATCH", &path, &admin, json!({"project": {"name": "admin"}})).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    let found = k.get("/v3/projects?name=acme-2&enabled&domain_id=default", &admin).await;
    assert_eq!(names(&found.body["projects"]), ["acme-2"]);
    assert_eq!(k.get("/v3/projects?name=acme", &admin).await.body["projects"], json!([]));
    assert_eq!(k.call("DELETE", &path, &admin, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(k.get(&path, &admin).await.status, StatusCode::NOT_FOUND);
    let left = k.get(&format!("/v3/role_assignments?user.id={user}"), &admin).await;
    assert_eq!(left.body["role_assignments"], json!([]), "its assignments go with it");
    let own = format!("/v3/projects/{}", admin_project_id());
    assert_eq!(k.call("DELETE", &own, &admin, Value::Null).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn one_of_many_who_want_a_name_gets_it() {
    let k = keystone().await;
    let admin = k.admin().await;
    let make = || k.call("POST", "/v3/users", &admin, json!({"user": {"name": "same"}}));
    let answers = futures::future::join_all((0..8).map(|_| make())).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    let refused = answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count();
    assert_eq!((made, refused), (1, 7));
}

#[tokio::test]
async fn users_change_their_own_password() {
    let k = keystone().await;
    let admin = k.admin().await;
    let (_, user) = k.tenant(&admin, "acme", "member").await;
    let path = format!("/v3/users/{user}/password");
    let change = |from: &str, to: &str| json!({"user": {"original_password": from, "password": to}});
    assert_eq!(k.call("POST", &path, "", change("wrong", "new")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(k.call("POST", &path, "", change(PASSWORD, "")).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(k.call("POST", &path, "", change(PASSWORD, "new")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(k.login("acme", PASSWORD, Value::Null).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(k.login("acme", "new", Value::Null).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn roles_come_by_groups_domains_and_implication() {
    let k = keystone().await;
    let admin = k.admin().await;
    let (project, user) = k.tenant(&admin, "acme", "reader").await;
    let group = k.call("POST", "/v3/groups", &admin, json!({"group": {"name": "g"}})).await;
    let group = id(&group.body["group"]);
    let membership = format!("/v3/groups/{group}/users/{user}");
    assert_eq!(k.get(&membership, &admin).await.status, StatusCode::NOT_FOUND);
    assert_eq!(k.call("PUT", &membership, &admin, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(k.call("HEAD", &membership, &admin, Value::Null).await.status, StatusCode::NO_CONTENT);
    let roles = || async {
        let token = k.login("acme", PASSWORD, in_project("acme")).await;
        let mut roles: Vec<String> = names(&token.body["token"]["roles"]).iter().map(|n| (*n).to_owned()).collect();
        roles.sort_unstable();
        roles
    };
    assert_eq!(roles().await, ["reader"]);
    let by_group = format!("/v3/projects/{project}/groups/{group}/roles/{}", role_id("member"));
    assert_eq!(k.call("PUT", &by_group, &admin, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(roles().await, ["member", "reader"]);
    let inherited =
        format!("/v3/OS-INHERIT/domains/default/users/{user}/roles/{}/inherited_to_projects", role_id("admin"));
    assert_eq!(k.call("PUT", &inherited, &admin, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(roles().await, ["admin", "member", "reader"]);
    let effective = format!("/v3/role_assignments?effective&include_names&user.id={user}&scope.project.id={project}");
    let answer = k.get(&effective, &admin).await;
    let list = answer.body["role_assignments"].as_array().unwrap();
    let mut shown: Vec<&str> = list.iter().map(|a| a["role"]["name"].as_str().unwrap()).collect();
    shown.sort_unstable();
    shown.dedup();
    assert_eq!(shown, ["admin", "member", "reader"]);
    assert_eq!(list[0]["scope"]["project"]["domain"]["name"], "Default");
    let implied = k.get(&format!("/v3/roles/{}/implies", role_id("admin")), &admin).await;
    assert_eq!(names(&implied.body["role_inference"]["implies"]), ["member", "reader"]);
}

#[tokio::test]
async fn roles_and_domains_keep_their_rules() {
    let k = keystone().await;
    let admin = k.admin().await;
    let fixed = format!("/v3/roles/{}", role_id("admin"));
    assert_eq!(k.call("DELETE", &fixed, &admin, Value::Null).await.status, StatusCode::FORBIDDEN);
    assert_eq!(k.call("PATCH", &fixed, &admin, json!({"role": {"name": "x"}})).await.status, StatusCode::FORBIDDEN);
    let domain = k.call("POST", "/v3/domains", &admin, json!({"domain": {"name": "d"}})).await;
    let domain = format!("/v3/domains/{}", id(&domain.body["domain"]));
    let project = json!({"project": {"name": "admin", "domain_id": domain.rsplit('/').next()}});
    let project = k.call("POST", "/v3/projects", &admin, project).await;
    assert_eq!(project.status, StatusCode::CREATED, "the same name in another domain");
    assert_eq!(k.call("DELETE", &domain, &admin, Value::Null).await.status, StatusCode::FORBIDDEN);
    k.call("PATCH", &domain, &admin, json!({"domain": {"enabled": false}})).await;
    assert_eq!(k.call("DELETE", &domain, &admin, Value::Null).await.status, StatusCode::NO_CONTENT);
    let project = format!("/v3/projects/{}", id(&project.body["project"]));
    assert_eq!(k.get(&project, &admin).await.status, StatusCode::NOT_FOUND);
    let off = json!({"domain": {"enabled": false}});
    assert_eq!(k.call("PATCH", "/v3/domains/default", &admin, off).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_admin_project_of_another_domain_is_a_project_like_others() {
    let k = keystone().await;
    let admin = k.admin().await;
    let domain = k.call("POST", "/v3/domains", &admin, json!({"domain": {"name": "d"}})).await;
    let domain = id(&domain.body["domain"]);
    let project = json!({"project": {"name": "admin", "domain_id": domain}});
    let project = id(&k.call("POST", "/v3/projects", &admin, project).await.body["project"]);
    let (_, user) = k.tenant(&admin, "mallory", "member").await;
    let path = format!("/v3/projects/{project}/users/{user}/roles/{}", role_id("admin"));
    k.call("PUT", &path, &admin, Value::Null).await;
    let token = k.login("mallory", PASSWORD, json!({"project": {"id": project}})).await.token.unwrap();
    assert_eq!(k.get("/v3/users", &token).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn logging_in_for_kubectl_keeps_the_token_until_it_is_revoked() {
    let k = keystone().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/identity/v3", listener.local_addr().unwrap());
    let server = tokio::spawn(axum::serve(listener, k.router.clone()).into_future());
    let home = tempfile::tempdir().unwrap();
    let password = home.path().join("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let environment = |name: &str| match name {
        "OS_AUTH_URL" => Some(url.clone()),
        "OS_USERNAME" | "OS_PROJECT_NAME" => Some("admin".into()),
        "OS_PASSWORD_FILE" => Some(password.display().to_string()),
        "HOME" => Some(home.path().display().to_string()),
        _ => None,
    };
    let login = Login::from_environment(environment).unwrap();
    let token = |text: String| serde_json::from_str::<Value>(&text).unwrap()["status"]["token"].clone();
    let first = token(login.exec_credential().await.unwrap());
    assert!(k.identity.validate(first.as_str().unwrap()).await.is_ok());
    std::fs::write(&password, "wrong").unwrap();
    assert_eq!(token(login.exec_credential().await.unwrap()), first, "kept");
    let kept = std::fs::read_dir(home.path().join(".cache/hypernetes/tokens")).unwrap().next().unwrap().unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&kept.metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let headers = [("x-auth-token", first.as_str().unwrap()), ("x-subject-token", first.as_str().unwrap())];
    k.request(Method::DELETE, "/v3/auth/tokens", &headers, vec![]).await;
    assert!(matches!(login.exec_credential().await, Err(LoginError::Refused { status: StatusCode::UNAUTHORIZED, .. })));
    std::fs::write(&password, PASSWORD).unwrap();
    assert_ne!(token(login.exec_credential().await.unwrap()), first);
    server.abort();
}
