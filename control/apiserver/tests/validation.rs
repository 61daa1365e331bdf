//! What is wrong with an object, as a running upstream says it: each case is an object that was sent to kube-apiserver 1.36.2,
//! with its answer. Ours has to be the same: code, reason, message and causes.
//!
//! All answers to the cases of `data/validation-1.36.2.jsonl` are the same. `data/corpus-1.36.2` has a file for each kind that
//! is served, with odd objects of all sorts; of each file's answers nearly all have to be the same, and what differs is listed.
//! A case with `old` is a change: `old` is made, and `object` sent in its place. Upstream ran without the parts of admission
//! that look at other objects, and what its allocators say is not asked for: the corpus is about validation.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use hypernetes_api::TenantId;
use hypernetes_kinds::{
    Home,
    registry::{builtin, builtin_of},
};
use hypernetes_testing::{
    requests::admin,
    server::{ACME, InProcess},
};
use serde_json::{Value, json};

/// The least of a hundred answers about a kind that have to be the same, and of all together.
const LEAST_PERCENT: usize = 95;
/// The fewest cases of a kind.
const LEAST_CASES: usize = 25;

/// A server with a tenant's namespace and its service account.
async fn server() -> InProcess {
    let server = InProcess::start();
    server.namespace(ACME).await;
    server.account(ACME).await;
    server
}

/// What upstream answered to a case, and what a server does.
async fn both_answers(server: &InProcess, case: &Value) -> (Value, Value) {
    let path = case["request"].as_str().unwrap();
    let (dry, who) = (format!("{}?dryRun=All", path.trim_end_matches("?dryRun=All")), admin(writer(&case["object"])));
    let mut object = case["object"].clone();
    let got = match case.get("old") {
        None => server.post(&who, &dry, object).await,
        Some(old) => {
            // What is sent may be sent to a part of it.
            let name = format!("/{}", old["metadata"]["name"].as_str().unwrap());
            let (all, _) = path.rsplit_once(&name).unwrap();
            let made = server.post(&who, all, old.clone()).await;
            match made.status.as_u16() {
                201 => {
                    object["metadata"]["resourceVersion"] = made.body["metadata"]["resourceVersion"].clone();
                    let changed = server.put(&who, &dry, &object).await;
                    // A limit range says something of what comes after it.
                    server.delete(&who, &format!("{all}{name}")).await;
                    changed
                }
                _ => made,
            }
        }
    };
    let body = got.body;
    let ours = answer(got.status.as_u16(), &body["reason"], &body["message"], &body["details"]["causes"]);
    let wanted = answer(case["code"].as_u64().unwrap() as u16, &case["reason"], &case["message"], &case["causes"]);
    (wanted, ours)
}

/// The tenant that may write an object of a kind.
fn writer(object: &Value) -> &'static str {
    let text = |name: &str| object[name].as_str().unwrap();
    let (group, version) = text("apiVersion").rsplit_once('/').unwrap_or(("", text("apiVersion")));
    match builtin_of(group, version, text("kind")).unwrap().home {
        Home::Tenant => ACME,
        _ => TenantId::SYSTEM,
    }
}

/// What is compared: of an object that was taken, the code alone. Of an error that is found several times, one; of a text that
/// goes on with how an object differs from what it was, in types of upstream's own, what comes before.
fn answer(code: u16, reason: &Value, message: &Value, causes: &Value) -> Value {
    if (200..300).contains(&code) {
        return json!({"code": code});
    }
    let (mut message, mut once) = (message.as_str().unwrap_or_default().to_owned(), Vec::new());
    for cause in causes.as_array().into_iter().flatten() {
        let (mut cause, whole) = (cause.clone(), cause["message"].as_str().unwrap_or_default());
        if let Some((first, _)) = whole.split_once('\n') {
            message = message.replace(whole, first);
            cause["message"] = first.into();
        }
        if !once.contains(&cause) {
            once.push(cause);
        }
    }
    json!({"code": code, "reason": reason, "message": message, "causes": once})
}

#[tokio::test]
async fn answers_are_upstreams() {
    let server = server().await;
    let (mut all, mut wrong) = (0, Vec::new());
    for line in include_str!("data/validation-1.36.2.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (wanted, ours) = both_answers(&server, &case).await;
        all += 1;
        if ours != wanted {
            wrong.push(format!("{}\n  upstream {wanted}\n  ours     {ours}", case["name"]));
        }
    }
    assert!(all > 100, "the cases are there");
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// How many answers about one kind are the same.
#[derive(Default)]
struct Agreement {
    same: usize,
    all: usize,
    refused: usize,
    changes: usize,
}

impl Agreement {
    fn is_enough(&self) -> bool {
        self.same * 100 >= self.all * LEAST_PERCENT
    }

    fn line(&self, kind: &str) -> String {
        let Self { same, all, refused, changes } = self;
        let percent = (same * 1000 / all.max(&1)) as f64 / 10.0;
        format!("{kind:28} {same:4} of {all:4} {percent:5.1} %   {refused:3} refused {changes:3} changes")
    }
}

#[tokio::test]
async fn nearly_all_answers_of_the_corpus_are_upstreams() {
    let (server, began) = (server().await, Instant::now());
    let (mut kinds, mut wrong) = (BTreeMap::<String, Agreement>::new(), Vec::new());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/corpus-1.36.2");
    for file in fs::read_dir(directory).unwrap() {
        for line in fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            let case: Value = serde_json::from_str(line).unwrap();
            let (wanted, ours) = both_answers(&server, &case).await;
            let kind = case["object"]["kind"].as_str().unwrap();
            let of_kind = kinds.entry(kind.to_owned()).or_default();
            of_kind.all += 1;
            of_kind.refused += usize::from(wanted.get("reason").is_some());
            of_kind.changes += usize::from(case.get("old").is_some());
            match ours == wanted {
                true => of_kind.same += 1,
                false => wrong.push(format!("{kind}: {}\n  upstream {wanted}\n  ours     {ours}", case["name"])),
            }
        }
    }
    let mut sum = Agreement::default();
    for (kind, one) in &kinds {
        println!("{}", one.line(kind));
        sum.same += one.same;
        sum.all += one.all;
        sum.refused += one.refused;
        sum.changes += one.changes;
    }
    println!("{} in {:.1} s", sum.line("all kinds"), began.elapsed().as_secs_f64());
    wrong.sort_unstable();
    println!("{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
    let stored = builtin().iter().filter(|resource| resource.home != Home::Virtual);
    for resource in stored.filter(|resource| !resource.ty.group.ends_with("hypernetes.io")) {
        let cases = kinds.get(&resource.ty.kind).map_or(0, |kind| kind.all);
        assert!(cases >= LEAST_CASES, "{} has {cases} cases", resource.ty.kind);
    }
    let short: Vec<&String> = kinds.iter().filter(|(_, kind)| !kind.is_enough()).map(|(kind, _)| kind).collect();
    assert!(
        short.is_empty() && sum.is_enough(),
        "less than {LEAST_PERCENT} % of the answers about {short:?} are the same"
    );
}
