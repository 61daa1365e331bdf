//! Malformed, oversized and hostile requests: the proper error of that API, and a server that goes on.

use std::process::Command;

use hypernetes_tests::{Finished, System, Tenant};
use serde_json::{Value, json};

struct Http {
    server: String,
    token: String,
}

struct Answer {
    /// Of HTTP; 0: none came.
    code: u16,
    body: String,
    /// curl's own exit code.
    curl: Option<i32>,
}

/// What curl exits with when the server has ended the connection: it could not send, could not receive, its stream was reset.
const CUT_OFF: [i32; 3] = [55, 56, 92];

impl Answer {
    #[track_caller]
    fn status(&self, code: u16, reason: &str) {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body));
        assert_eq!(
            (self.code, body["kind"].as_str(), body["reason"].as_str()),
            (code, Some("Status"), Some(reason)),
            "{}",
            self.body
        );
    }
}

impl Http {
    fn of(tenant: &Tenant) -> Self {
        let server =
            tenant.kubectl().run("config view --minify -o jsonpath={.clusters[0].cluster.server}").success().to_owned();
        let token = tenant.openstack().json("token issue")["id"].as_str().unwrap().to_owned();
        Self { server, token }
    }

    fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("body");
        std::fs::write(&file, body).unwrap();
        let mut command = Command::new("curl");
        command.args(["-sk", "--path-as-is", "--max-time", "60", "-o", "-", "-w", "\n%{http_code}", "-X", method]);
        let root = self.server.split("/clusters/").next().unwrap();
        command.arg(format!("{root}{path}"));
        for header in headers {
            command.args(["-H", header]);
        }
        if !body.is_empty() {
            command.arg("--data-binary").arg(format!("@{}", file.display()));
        }
        let output = Finished::of(&mut command);
        let (body, code) = output.stdout.rsplit_once('\n').unwrap_or_default();
        Answer { code: code.parse().unwrap_or(0), body: body.to_owned(), curl: output.code }
    }

    fn kubernetes(&self, method: &str, path: &str, body: &str) -> Answer {
        let authorization = format!("Authorization: Bearer {}", self.token);
        self.send(method, path, &[&authorization, "Content-Type: application/json"], body.as_bytes())
    }
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn kubernetes_answers_with_a_status() {
    let tenant = System::shared().tenant("bad-k8s");
    let http = Http::of(&tenant);
    let post = |body: &str| http.kubernetes("POST", CONFIG_MAPS, body);
    post("{not json").status(400, "BadRequest");
    post("").status(400, "BadRequest");
    post("[]").status(400, "BadRequest");
    post(&"[".repeat(100_000)).status(400, "BadRequest");
    post(r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#).status(400, "BadRequest");
    post(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":5}}"#).status(400, "BadRequest");
    post(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"../../x"}}"#).status(422, "Invalid");
    post(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"UPPER"}}"#).status(422, "Invalid");
    post(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#).status(422, "Invalid");
    let strict = http.kubernetes(
        "POST",
        &format!("{CONFIG_MAPS}?fieldValidation=Strict"),
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"nonsense":1}"#,
    );
    strict.status(400, "BadRequest");
    assert!(strict.body.contains("unknown field"), "{}", strict.body);
    http.kubernetes("GET", "/api/v1/namespaces/default/nonsense", "").status(404, "NotFound");
    http.kubernetes("GET", "/apis/nope/v1/things", "").status(404, "NotFound");
    http.kubernetes("PUT", CONFIG_MAPS, "{}").status(405, "MethodNotAllowed");
    http.kubernetes("GET", &format!("{CONFIG_MAPS}?labelSelector=a%20in%20("), "").status(400, "BadRequest");
    http.kubernetes("GET", &format!("{CONFIG_MAPS}?continue=garbage"), "").status(400, "BadRequest");
    // Paths that try to look like something else; kubectl would tidy them up.
    for path in
        ["/clusters/system%2f..%2fx/api/v1/pods", "/clusters/x/../system/api/v1/pods", "/clusters/%2e%2e/api/v1/pods"]
    {
        let answer = http.kubernetes("GET", path, "");
        assert!([400, 403, 404].contains(&answer.code), "{path}: {} {}", answer.code, answer.body);
    }
    let patch = |kind: &str, body: &str| {
        let authorization = format!("Authorization: Bearer {}", http.token);
        http.send("PATCH", &format!("{CONFIG_MAPS}/kube-root-ca.crt"), &[&authorization, kind], body.as_bytes())
    };
    patch("Content-Type: text/plain", "{}").status(415, "UnsupportedMediaType");
    let patched = patch("Content-Type: application/json-patch+json", r#"[{"op":"nope"}]"#);
    assert!([400, 422].contains(&patched.code), "{} {}", patched.code, patched.body);
    // Of 3 MiB and a byte all is read, and the answer arrives; whoever goes on sending 100 MiB may be cut off.
    let send = |bytes: usize| {
        let authorization = format!("Authorization: Bearer {}", http.token);
        let headers = [authorization.as_str(), "Content-Type: application/json"];
        http.send("POST", CONFIG_MAPS, &headers, &vec![b' '; bytes])
    };
    send((3 << 20) + 1).status(413, "RequestEntityTooLarge");
    let refused = send(100 << 20);
    let cut_off = refused.code == 0 && refused.curl.is_some_and(|code| CUT_OFF.contains(&code));
    assert!(refused.code == 413 || cut_off, "{} {:?}", refused.code, refused.curl);
    // Nothing of that was stored, and the server is well.
    let names = tenant.kubectl().run("get configmaps -o name").success().to_owned();
    assert_eq!(names, "configmap/kube-root-ca.crt");
}

#[test]
fn credentials_that_are_none() {
    let tenant = System::shared().tenant("bad-token");
    let http = Http::of(&tenant);
    let long = "x".repeat(9000);
    let tampered = format!("{}AAAA", &http.token[..http.token.len() - 4]);
    for token in ["garbage", "", "a.b.c", long.as_str(), tampered.as_str()] {
        let header = format!("Authorization: Bearer {token}");
        let answer = http.send("GET", CONFIG_MAPS, &[&header], b"");
        assert!([401, 403, 431].contains(&answer.code), "{token}: {}", answer.code);
    }
    // Nobody in particular is anonymous.
    let answer = http.send("GET", CONFIG_MAPS, &[], b"");
    assert!([401, 403].contains(&answer.code), "{}", answer.code);
}

#[test]
fn the_openstack_apis_answer_in_their_own_way() {
    let tenant = System::shared().tenant("bad-os");
    let http = Http::of(&tenant);
    let token = format!("X-Auth-Token: {}", http.token);
    let json_type = "Content-Type: application/json";
    let send = |method: &str, path: &str, body: &str| http.send(method, path, &[&token, json_type], body.as_bytes());
    let error_of = |answer: &Answer| -> Value {
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.body))
    };

    for body in ["{not json", "[]", r#"{"auth":5}"#, r#"{"auth":{"identity":{"methods":["password"]}}}"#] {
        let answer = send("POST", "/identity/v3/auth/tokens", body);
        assert_eq!(answer.code, 400, "{body}: {}", answer.body);
        assert_eq!(error_of(&answer)["error"]["code"], 400);
    }
    let wrong = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "nobody", "domain": {"id": "default"}, "password": "x"}}}}});
    assert_eq!(send("POST", "/identity/v3/auth/tokens", &wrong.to_string()).code, 401);
    assert_eq!(http.send("GET", "/identity/v3/projects", &[], b"").code, 401);

    for (path, body) in [
        ("/networking/v2.0/networks", "{not json"),
        ("/networking/v2.0/networks", r#"{"network":[]}"#),
        ("/networking/v2.0/subnets", r#"{"subnet":{"network_id":"nope","cidr":"300.0.0.0/8","ip_version":4}}"#),
    ] {
        let answer = send("POST", path, body);
        assert!([400, 404].contains(&answer.code), "{body}: {} {}", answer.code, answer.body);
        assert!(error_of(&answer)["NeutronError"]["message"].is_string(), "{}", answer.body);
    }
    let missing = send("GET", "/networking/v2.0/networks/00000000-0000-0000-0000-000000000000", "");
    assert_eq!((missing.code, error_of(&missing)["NeutronError"]["type"].as_str()), (404, Some("NetworkNotFound")));

    let project = tenant.openstack().json("token issue")["project_id"].as_str().unwrap().to_owned();
    let volumes = format!("/volume/v3/{project}/volumes");
    for body in ["{not json", r#"{"volume":{"size":-1}}"#, r#"{"volume":{"size":"many"}}"#, r#"{"volume":{}}"#] {
        let answer = send("POST", &volumes, body);
        assert_eq!(answer.code, 400, "{body}: {}", answer.body);
    }
    let missing = send("GET", &format!("{volumes}/00000000-0000-0000-0000-000000000000"), "");
    assert_eq!((missing.code, error_of(&missing)["itemNotFound"]["code"].as_u64()), (404, Some(404)));
    // Another project's path with this project's token.
    let other = send("GET", "/volume/v3/00000000000000000000000000000000/volumes", "");
    assert!([400, 403, 404].contains(&other.code), "{}", other.code);
}
