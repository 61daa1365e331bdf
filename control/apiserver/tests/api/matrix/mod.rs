//! Every resource, subresource, verb and identity, and what each gets. The rows to check are the server's own, by its
//! discovery: one that the table does not have fails, and so does one that the server does not have any more.
//!
//! Three laws hold for all rows and are no columns: nobody gets anything in another tenant's cluster or without a
//! credential; infrastructure and the operator may do everything everywhere, but to the operator's own objects through a
//! tenant's cluster, and what became of an object of our own is said by infrastructure alone; and what a path does not have is 405.
//!
//! Each request is a good one, for an object that is there: what is not there is told alike to those who may see it and, here and
//! there, to those who may not, and admission refuses only what could be done. So who is let in is answered with success.

mod there;

use std::collections::BTreeMap;

use hypernetes_api::auth::UserInfo;
use hypernetes_testing::{
    http::Answer,
    requests::{admin, by, user},
    server::{ACME, GLOBEX, InProcess},
};
use serde_json::Value;

use self::there::{There, name_of};

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// A resource or subresource as discovery shows it.
#[derive(Debug, Clone)]
struct Served {
    group: String,
    version: String,
    plural: String,
    subresource: String,
    namespaced: bool,
    verbs: Vec<String>,
}

impl Served {
    /// `pods/log`, `roles.rbac.authorization.k8s.io`.
    fn name(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let subresource = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        format!("{}{group}{subresource}", self.plural)
    }

    /// The path of its objects in the namespace `default`, or in none.
    fn collection(&self) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        let namespace = if self.namespaced { "/namespaces/default" } else { "" };
        format!("{root}/{}{namespace}/{}", self.version, self.plural)
    }

    fn within(&self, cluster: &str) -> String {
        format!("/clusters/{cluster}{}", self.collection())
    }

    /// Method and path of a verb on the object that is there. Nothing comes of a write.
    fn request(&self, cluster: &str, verb: &str) -> (&'static str, String) {
        let base = self.within(cluster);
        let one = match self.subresource.as_str() {
            "" => format!("{base}/{}", name_of(&self.plural)),
            subresource => format!("{base}/{}/{subresource}", name_of(&self.plural)),
        };
        match verb {
            "get" => ("GET", one),
            "list" => ("GET", base),
            "watch" => ("GET", format!("{base}?watch=true")),
            "create" if self.subresource.is_empty() => ("POST", format!("{base}?dryRun=All")),
            "create" => ("POST", format!("{one}?dryRun=All")),
            "update" => ("PUT", format!("{one}?dryRun=All")),
            "patch" => ("PATCH", format!("{one}?dryRun=All")),
            "delete" => ("DELETE", format!("{one}?dryRun=All")),
            _ => ("DELETE", format!("{base}?dryRun=All")),
        }
    }

    /// Whether a node answers it: there is none here.
    fn is_nodes(&self) -> bool {
        matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward")
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// It was done, or would have been.
    Allowed,
    Forbidden,
    /// There is no such resource, as far as who asks is told.
    Hidden,
    NotAllowed,
    Unauthorized,
    /// Something else is wrong with the request.
    Wrong(String),
}

fn outcome(served: &Served, answer: &Answer) -> Outcome {
    let message = answer.body["message"].as_str().unwrap_or_default();
    match answer.status.as_u16() {
        200..300 => Outcome::Allowed,
        401 => Outcome::Unauthorized,
        403 => Outcome::Forbidden,
        404 if message == "the server could not find the requested resource" => Outcome::Hidden,
        405 => Outcome::NotAllowed,
        400..500 | 503 if served.is_nodes() => Outcome::Allowed,
        code => Outcome::Wrong(format!("{code} {message}")),
    }
}

async fn served(bench: &InProcess) -> Vec<Served> {
    let mut all = Vec::new();
    let operator = admin("system");
    for path in ["/api", "/apis"] {
        let request = http::Request::builder()
            .uri(path)
            .header("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
            .body(axum::body::Body::empty())
            .unwrap();
        let list = bench.answer(by(&operator, request)).await.ok();
        for group in list["items"].as_array().unwrap() {
            for version in group["versions"].as_array().unwrap() {
                for resource in version["resources"].as_array().unwrap() {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let verbs = |value: &Value| value["verbs"].as_array().unwrap().iter().map(text).collect();
                    let main = Served {
                        group: text(&group["metadata"]["name"]),
                        version: text(&version["version"]),
                        plural: text(&resource["resource"]),
                        subresource: String::new(),
                        namespaced: resource["scope"] == "Namespaced",
                        verbs: verbs(resource),
                    };
                    for one in resource["subresources"].as_array().into_iter().flatten() {
                        all.push(Served { subresource: text(&one["subresource"]), verbs: verbs(one), ..main.clone() });
                    }
                    all.push(main);
                }
            }
        }
    }
    all
}

/// Asks for what is there.
async fn ask(
    bench: &InProcess,
    there: &There,
    who: &UserInfo,
    (one, home): (&Served, Home),
    cluster: &str,
    verb: &str,
) -> Outcome {
    let (method, path) = one.request(cluster, verb);
    let (content, body) = there.body(one, home, cluster, verb);
    let request = http::Request::builder().method(method).uri(path).header("content-type", content);
    let response = bench.response(by(who, request.body(body.into()).unwrap())).await;
    // What is watched does not end.
    match response.status().is_success() {
        true => Outcome::Allowed,
        false => outcome(one, &Answer::of(response).await),
    }
}

/// Whose objects a resource's are, and who sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    /// Each tenant has its own.
    Tenant,
    /// The operator's; tenants read them.
    Projected,
    /// The operator's; tenants do not see that there is such a thing.
    Operator,
    /// A question.
    Question,
    /// Made when it is asked for.
    Told,
}

/// A cell says which verbs are allowed: `-` none, `r` those that read, `rw` all, or letters: g(et) l(ist) w(atch)
/// c(reate) u(pdate) p(atch) d(elete) D(eletecollection) behind an `=`.
fn allows(cell: &str, verb: &str) -> bool {
    let reads = matches!(verb, "get" | "list" | "watch");
    match cell {
        "-" => false,
        "r" => reads,
        "rw" => true,
        letters => {
            let letters = letters.strip_prefix('=').unwrap_or_else(|| panic!("{cell:?} is no cell"));
            let letter = if verb == "deletecollection" { 'D' } else { verb.chars().next().unwrap() };
            letters.contains(letter)
        }
    }
}

/// The shortest cell for the verbs that are allowed.
fn cell(served: &Served, allowed: &[&str]) -> String {
    let candidates = ["-", "r", "rw"];
    let fits = |cell: &str| served.verbs.iter().all(|verb| allows(cell, verb) == allowed.contains(&verb.as_str()));
    if let Some(cell) = candidates.into_iter().find(|cell| fits(cell)) {
        return cell.to_owned();
    }
    let letter = |verb: &&str| if *verb == "deletecollection" { 'D' } else { verb.chars().next().unwrap() };
    format!("={}", allowed.iter().map(letter).collect::<String>())
}

/// The identities that have a column each, in the tenant's cluster; and the node's in the operator's.
fn columns() -> Vec<(&'static str, UserInfo, &'static str)> {
    let node = || user("system:node:n1", &["system:nodes"], "system");
    vec![
        ("nobody", user("nobody", &[], ACME), ACME),
        ("reader", user("r", &["keystone:reader"], ACME), ACME),
        ("member", user("m", &["keystone:member"], ACME), ACME),
        ("admin", user("a", &["keystone:admin"], ACME), ACME),
        ("node", node(), ACME),
        ("node@", node(), "system"),
    ]
}

fn anonymous() -> UserInfo {
    UserInfo { groups: vec!["system:unauthenticated".into()], ..user("system:anonymous", &[], "system") }
}

#[tokio::test]
async fn every_identity_gets_what_the_table_says_of_every_resource() {
    let bench = InProcess::with_tenants().await;
    let rows = rows();
    let served = served(&bench).await;
    let there = There::make(&bench, &served, &rows).await;
    let mut wrong = Vec::new();
    for one in &served {
        let Some(row) = rows.get(one.name().as_str()) else {
            wrong.push(format!("no row for {}", one.name()));
            continue;
        };
        assert_eq!(row.cells.len(), columns().len(), "{}", one.name());
        let (mut actual, told) = (Vec::new(), wrong.len());
        for ((column, who, cluster), expected) in columns().iter().zip(&row.cells) {
            let mut allowed = Vec::new();
            for verb in &one.verbs {
                let outcome = ask(&bench, &there, who, (one, row.home), cluster, verb).await;
                let hidden = *cluster == ACME && row.home == Home::Operator;
                let fits = match &outcome {
                    Outcome::Allowed => allows(expected, verb),
                    // Who may do everything in a tenant's cluster is told that there is no such thing.
                    Outcome::Hidden => hidden && *column == "admin",
                    Outcome::Forbidden => !allows(expected, verb),
                    Outcome::NotAllowed | Outcome::Unauthorized | Outcome::Wrong(_) => false,
                };
                if !fits {
                    wrong.push(format!("{} {verb} {column}: {outcome:?}", one.name()));
                }
                if outcome == Outcome::Allowed {
                    allowed.push(verb.as_str());
                }
            }
            actual.push(cell(one, &allowed));
        }
        if wrong.len() > told {
            wrong.push(format!("    row as it is: {} {}", one.name(), actual.join(" ")));
        }
    }
    let names: Vec<String> = served.iter().map(Served::name).collect();
    wrong.extend(rows.keys().filter(|row| !names.contains(row)).map(|row| format!("{row} is not served")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_laws_that_are_no_columns_hold() {
    let bench = InProcess::with_tenants().await;
    let rows = rows();
    let (controller, operator) = (user("server", &["hypernetes:infrastructure"], "system"), admin("system"));
    let served = served(&bench).await;
    let there = There::make(&bench, &served, &rows).await;
    let mut wrong = Vec::new();
    for one in served {
        // That there is a row is the other test's.
        let home = rows.get(one.name().as_str()).map_or(Home::Tenant, |row| row.home);
        for verb in VERBS {
            let has = one.verbs.iter().any(|have| have == verb);
            // A subresource has no collection.
            if !one.subresource.is_empty() && matches!(verb, "list" | "watch" | "deletecollection") {
                continue;
            }
            for (who, clusters) in [
                (anonymous(), [ACME, "system"]),
                (user("a", &["keystone:admin"], GLOBEX), [ACME, "system"]),
                (user("a", &["keystone:admin"], ACME), [GLOBEX, "system"]),
                // What infrastructure is called means nothing in a tenant's credential.
                (user("x", &["hypernetes:infrastructure", "system:nodes"], GLOBEX), [ACME, "system"]),
            ] {
                for cluster in clusters {
                    let outcome = ask(&bench, &there, &who, (&one, home), cluster, verb).await;
                    let fits = match outcome {
                        Outcome::Forbidden | Outcome::Unauthorized => true,
                        Outcome::NotAllowed => !has,
                        _ => false,
                    };
                    if !fits {
                        wrong.push(format!("{} {verb} {} in {cluster}: {outcome:?}", one.name(), who.name));
                    }
                }
            }
            let reads = matches!(verb, "get" | "list" | "watch");
            for who in [&controller, &operator] {
                let stream = verb == "get" && matches!(one.subresource.as_str(), "exec" | "attach" | "portforward");
                let said_by_infrastructure = one.subresource == "status" && one.group.ends_with(".hypernetes.io");
                let in_system = match has || stream {
                    true if said_by_infrastructure && !reads && who == &operator => Outcome::Forbidden,
                    true => Outcome::Allowed,
                    false => Outcome::NotAllowed,
                };
                let in_tenants = match home {
                    Home::Operator => Outcome::Hidden,
                    Home::Projected if has && !reads => Outcome::Forbidden,
                    _ => in_system.clone(),
                };
                for (cluster, wanted) in [("system", in_system), (ACME, in_tenants)] {
                    let outcome = ask(&bench, &there, who, (&one, home), cluster, verb).await;
                    if outcome != wanted {
                        wrong.push(format!("{} {verb} {} in {cluster}: {outcome:?}", one.name(), who.name));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A row: whose the objects are, and a cell for each of [`columns`].
struct Row {
    home: Home,
    cells: Vec<String>,
}

/// `table.txt`: a line for each resource and subresource.
fn rows() -> BTreeMap<String, Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/matrix/table.txt");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace();
            let (name, home) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let home = match home {
                "tenant" => Home::Tenant,
                "projected" => Home::Projected,
                "operator" => Home::Operator,
                "question" => Home::Question,
                "told" => Home::Told,
                other => panic!("{name}: {other:?} is nobody"),
            };
            (name.to_owned(), Row { home, cells: words.map(str::to_owned).collect() })
        })
        .collect()
}
