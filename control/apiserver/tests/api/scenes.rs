//! Scenes that a running upstream has played: a line of JSON each, in a namespace of its own, with what is there before and what is asked then, and
//! for each question the answer of kube-apiserver: code, reason, message, causes, warnings, parts of the object.

use hypernetes_testing::{
    requests::admin,
    server::{ACME, InProcess},
};
use serde_json::{Map, Value, json};

/// A scene with the name of its namespace in it.
pub fn read(line: &str, namespace: &str) -> Value {
    serde_json::from_str(&line.replace("{ns}", namespace)).unwrap()
}

/// Asks, and has what is compared of the answer, in the form of a case.
pub async fn ask(bench: &InProcess, case: &Value) -> Value {
    let method = case["method"].as_str().unwrap();
    let usual = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let body = case.get("body").map(Value::to_string).unwrap_or_default();
    let content = case["content"].as_str().unwrap_or(usual);
    let got = bench.send(&admin(ACME), method, case["path"].as_str().unwrap(), content, &body).await;
    let mut answer = json!({"code": got.status.as_u16()});
    if got.status.is_client_error() || got.status.is_server_error() {
        answer["reason"] = got.body["reason"].clone();
        answer["message"] = got.body["message"].clone();
        if let Some(causes) = got.body["details"].get("causes") {
            answer["causes"] = causes.clone();
        }
    }
    let warnings: Vec<&str> = got.headers.get_all("warning").iter().map(|one| one.to_str().unwrap()).collect();
    if !warnings.is_empty() {
        answer["warnings"] = json!(warnings);
    }
    for path in case["shows"].as_object().into_iter().flat_map(Map::keys) {
        answer["shows"][path] = got.body.pointer(path).cloned().unwrap_or_default();
    }
    answer
}

/// What upstream answered, of the same form; `more`: what else is compared.
pub fn wanted(case: &Value, more: &[&str]) -> Value {
    let fields = ["code", "reason", "message", "causes", "warnings", "shows"];
    let fields = fields.iter().chain(more);
    fields.filter_map(|field| Some(((*field).to_owned(), case.get(*field)?.clone()))).collect::<Map<_, _>>().into()
}

/// How the answers compare.
#[derive(Default)]
pub struct Tally {
    all: usize,
    wrong: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, scene: &Value, case: &Value, ours: &Value, theirs: &Value) {
        self.all += 1;
        if ours != theirs {
            let (scene, case) = (&scene["scene"], &case["case"]);
            self.wrong.push(format!("{scene}: {case}\n  upstream {theirs}\n  ours     {ours}"));
        }
    }

    /// That there were so many cases at least, and all were answered alike.
    pub fn end(self, least: usize) {
        let Self { all, wrong } = self;
        println!("{} of {all} answers are upstream's", all - wrong.len());
        assert!(all >= least, "the cases are there");
        assert!(wrong.is_empty(), "{} of {all} answers differ:\n{}", wrong.len(), wrong.join("\n"));
    }
}
