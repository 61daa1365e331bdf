//! Kinds that tenants define: from the definition to its end.

use hypernetes_testing::{
    server::make,
    wait::{until, until_gone},
};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceDefinition, CustomResourceDefinitionCondition as Condition,
    },
};
use kube::{
    Api, Client, Error, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::common::{bench, merge};

const WIDGETS: &str = "widgets.example.org";

pub fn definition(plural: &str, kind: &str, spec: Value) -> Value {
    json!({
        "metadata": {"name": format!("{plural}.example.org")},
        "spec": {
            "group": "example.org", "scope": "Namespaced", "names": {"plural": plural, "kind": kind, "shortNames": ["wd"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec,
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}],
        },
    })
}

fn condition<'a>(definition: &'a CustomResourceDefinition, kind: &str) -> Option<&'a Condition> {
    let status = definition.status.as_ref()?;
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn is(definition: &CustomResourceDefinition, kind: &str, status: &str) -> bool {
    condition(definition, kind).is_some_and(|condition| condition.status == status)
}

/// Makes a definition and waits until its kind is served.
pub async fn define(client: &Client, definition: Value) -> Api<CustomResourceDefinition> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    make(&definitions, definition).await;
    until(&definitions, &name, "established", |one| is(one, "Established", "True")).await;
    definitions
}

fn kind(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.org", "v1", kind), plural)
}

pub fn widgets(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &kind("Widget", "widgets"))
}

pub fn widget(name: &str, spec: Value) -> DynamicObject {
    serde_json::from_value(
        json!({"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}),
    )
    .unwrap()
}

/// The code of a refusal.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) -> (u16, String) {
    match answer {
        Err(Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_define_different_kinds_by_one_name() {
    let bench = bench().await;
    let of_acme = json!({"type": "object", "properties": {"size": {"type": "integer", "default": 3, "maximum": 5}}});
    let of_globex = json!({"type": "object", "required": ["colour"], "properties": {"colour": {"type": "string"}}});
    let post = PostParams::default();
    assert_eq!(refused(widgets(&bench.acme).create(&post, &widget("a", json!({}))).await).0, 404);
    define(&bench.acme, definition("widgets", "Widget", of_acme)).await;
    // One tenant's is not another's.
    assert_eq!(refused(widgets(&bench.globex).list(&ListParams::default()).await).0, 404);
    assert_eq!(refused(widgets(&bench.system).list(&ListParams::default()).await).0, 404);
    define(&bench.globex, definition("widgets", "Widget", of_globex)).await;

    let made = widgets(&bench.acme).create(&post, &widget("a", json!({"colour": "red"}))).await.unwrap();
    assert_eq!(
        (&made.data["spec"], made.metadata.generation),
        (&json!({"size": 3}), Some(1)),
        "pruned, with a default"
    );
    let (code, why) = refused(widgets(&bench.acme).create(&post, &widget("b", json!({"size": 6}))).await);
    assert_eq!(code, 422);
    assert!(why.ends_with("spec.size: Invalid value: 6: spec.size in body should be less than or equal to 5"), "{why}");
    let made = widgets(&bench.globex).create(&post, &widget("a", json!({"colour": "red", "size": 6}))).await.unwrap();
    assert_eq!(made.data["spec"], json!({"colour": "red"}));
    assert_eq!(refused(widgets(&bench.globex).create(&post, &widget("b", json!({}))).await).0, 422);

    // What each stores is its own, and an update is refused as a create is.
    let mine = widgets(&bench.acme).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(mine.iter().map(|one| one.data["spec"].clone()).collect::<Vec<_>>(), [json!({"size": 3})]);
    let patch = |patch: Value| Patch::Merge(patch);
    let large = widgets(&bench.acme).patch("a", &PatchParams::default(), &patch(json!({"spec": {"size": 9}}))).await;
    assert_eq!(refused(large).0, 422);
    let status = json!({"spec": {"size": 1}, "status": {"seen": true}});
    let widgets_of_acme = widgets(&bench.acme);
    let seen = widgets_of_acme.patch_status("a", &PatchParams::default(), &patch(status)).await.unwrap();
    assert_eq!((&seen.data["spec"]["size"], &seen.data["status"]), (&json!(3), &json!({"seen": true})));
    assert_eq!(seen.metadata.generation, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_goes_after_its_objects_and_they_with_their_owners() {
    let bench = bench().await;
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definitions = define(&bench.acme, definition("widgets", "Widget", any.clone())).await;
    define(&bench.globex, definition("widgets", "Widget", any)).await;
    let post = PostParams::default();
    let (mine, theirs) = (widgets(&bench.acme), widgets(&bench.globex));
    let owner = mine.create(&post, &widget("owner", json!({}))).await.unwrap();
    let reference = json!([{"apiVersion": "example.org/v1", "kind": "Widget", "name": "owner", "uid": owner.uid()}]);
    let maps: Api<ConfigMap> = Api::namespaced(bench.acme.clone(), "default");
    make(&maps, json!({"metadata": {"name": "owned", "ownerReferences": reference}})).await;
    let mut owned = widget("owned", json!({}));
    owned.metadata.owner_references = serde_json::from_value(reference).unwrap();
    mine.create(&post, &owned).await.unwrap();
    theirs.create(&post, &widget("owner", json!({}))).await.unwrap();

    // What is owned goes with its owner, whichever of both is of a kind that is defined.
    mine.delete("owner", &DeleteParams::background()).await.unwrap();
    until_gone(&mine, "owned").await;
    until_gone(&maps, "owned").await;

    // An object that does not go at once holds its definition up, and nothing new comes.
    let mut held = widget("held", json!({}));
    held.metadata.finalizers = Some(vec!["example.org/hold".into()]);
    mine.create(&post, &held).await.unwrap();
    definitions.delete(WIDGETS, &DeleteParams::default()).await.unwrap();
    let in_progress = |one: &CustomResourceDefinition| {
        condition(one, "Terminating")
            .is_some_and(|condition| condition.reason.as_deref() == Some("InstanceDeletionInProgress"))
    };
    until(&definitions, WIDGETS, "deleting its objects", in_progress).await;
    assert_eq!(refused(mine.create(&post, &widget("new", json!({}))).await).0, 405);
    merge(&mine, "held", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&definitions, WIDGETS).await;
    assert_eq!(refused(mine.list(&ListParams::default()).await).0, 404);
    // Another's of the same name has not noticed.
    assert!(theirs.get("owner").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_is_had_when_it_is_let_go() {
    let bench = bench().await;
    let any = json!({"type": "object"});
    let definitions = define(&bench.acme, definition("widgets", "Widget", any.clone())).await;
    make(&definitions, definition("gadgets", "Widget", any)).await;
    until(&definitions, "gadgets.example.org", "refused", |one| is(one, "NamesAccepted", "False")).await;
    let refused_one = definitions.get("gadgets.example.org").await.unwrap();
    assert!(is(&refused_one, "Established", "False"));
    let gadgets: Api<DynamicObject> = Api::namespaced_with(bench.acme.clone(), "default", &kind("Widget", "gadgets"));
    assert_eq!(refused(gadgets.list(&ListParams::default()).await).0, 404);
    definitions.delete(WIDGETS, &DeleteParams::default()).await.unwrap();
    until_gone(&definitions, WIDGETS).await;
    until(&definitions, "gadgets.example.org", "established", |one| is(one, "Established", "True")).await;
    assert!(gadgets.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_objects_of_defined_kinds_with_it() {
    let bench = bench().await;
    define(&bench.acme, definition("widgets", "Widget", json!({"type": "object"}))).await;
    let namespaces: Api<Namespace> = Api::all(bench.acme.clone());
    make(&namespaces, json!({"metadata": {"name": "shop"}})).await;
    let there: Api<DynamicObject> = Api::namespaced_with(bench.acme.clone(), "shop", &kind("Widget", "widgets"));
    there.create(&PostParams::default(), &widget("a", json!({}))).await.unwrap();
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    until_gone(&namespaces, "shop").await;
    let left: Api<DynamicObject> = Api::all_with(bench.acme.clone(), &kind("Widget", "widgets"));
    assert!(left.list(&ListParams::default()).await.unwrap().items.is_empty());
}

/// A tenant that may define kinds must not thereby write what the server itself reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_defines_what_is_the_servers_own() {
    let bench = bench().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(bench.acme.clone());
    for (plural, group) in [
        ("roles", "rbac.authorization.k8s.io"),
        ("projects", "identity.hypernetes.io"),
        ("anything", "hypernetes.io"),
        ("secrets", ""),
        ("deployments", "apps"),
        ("a/b", "example.org"),
        ("..", "example.org"),
    ] {
        let mut wanted =
            definition(plural, "Thing", json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        wanted["metadata"]["name"] = format!("{plural}.{group}").into();
        wanted["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, a test"});
        wanted["spec"]["group"] = group.into();
        wanted["spec"]["versions"][0]["name"] = "v9".into();
        wanted["apiVersion"] = "apiextensions.k8s.io/v1".into();
        wanted["kind"] = "CustomResourceDefinition".into();
        let wanted: CustomResourceDefinition = serde_json::from_value(wanted).unwrap();
        let (code, why) = refused(definitions.create(&PostParams::default(), &wanted).await);
        assert_eq!(code, 422, "{plural}.{group}: {why}");
    }
}

/// What is stored by an earlier schema is shown by today's, in each version by its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_definition_holds_for_what_is_there() {
    let bench = bench().await;
    let spec = json!({"type": "object", "properties": {"old": {"type": "string"}, "size": {"type": "integer"}}});
    let definitions = define(&bench.acme, definition("widgets", "Widget", spec)).await;
    let mine = widgets(&bench.acme);
    let post = PostParams::default();
    mine.create(&post, &widget("a", json!({"old": "x", "size": 7}))).await.unwrap();
    let before = mine.get("a").await.unwrap();

    let mut changed = definitions.get(WIDGETS).await.unwrap();
    let version = |name: &str, storage: bool, spec: Value| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": spec}}}})
    };
    let first = json!({"type": "object", "properties": {
        "size": {"type": "integer", "maximum": 5}, "colour": {"type": "string", "default": "red"}}});
    let second = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
    changed.spec.versions =
        serde_json::from_value(json!([version("v1", true, first), version("v2", false, second)])).unwrap();
    definitions.replace(WIDGETS, &post, &changed).await.unwrap();

    let now = mine.get("a").await.unwrap();
    assert_eq!(now.data["spec"], json!({"size": 7, "colour": "red"}), "pruned, and with a new default");
    assert_eq!(now.metadata.resource_version, before.metadata.resource_version);
    let other = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.org", "v2", "Widget"), "widgets");
    let in_second: Api<DynamicObject> = Api::namespaced_with(bench.acme.clone(), "default", &other);
    let list = in_second.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(list[0].data["spec"], json!({"size": 7}));
    assert_eq!(list[0].types.as_ref().map(|types| types.api_version.as_str()), Some("example.org/v2"));

    // What was let in before may stay as it is, and not become worse.
    let patch = |spec: Value| Patch::Merge(json!({"spec": spec}));
    let same = mine.patch("a", &PatchParams::default(), &patch(json!({"colour": "green"}))).await.unwrap();
    assert_eq!(same.data["spec"], json!({"size": 7, "colour": "green"}));
    assert_eq!(refused(mine.patch("a", &PatchParams::default(), &patch(json!({"size": 8}))).await).0, 422);
    // The other version says nothing of that.
    in_second.patch("a", &PatchParams::default(), &patch(json!({"size": 8}))).await.unwrap();
    assert_eq!(mine.get("a").await.unwrap().data["spec"]["size"], 8);

    // A definition that is told to store otherwise remembers what it has stored.
    changed = definitions.get(WIDGETS).await.unwrap();
    changed.spec.versions.iter_mut().for_each(|version| version.storage = version.name == "v2");
    let stored = definitions.replace(WIDGETS, &post, &changed).await.unwrap().status.unwrap().stored_versions;
    assert_eq!(stored, Some(vec!["v1".to_owned(), "v2".to_owned()]));
    assert_eq!(mine.get("a").await.unwrap().data["spec"]["size"], 8);
    changed = definitions.get(WIDGETS).await.unwrap();
    changed.spec.versions.retain(|version| version.name == "v2");
    assert_eq!(refused(definitions.replace(WIDGETS, &post, &changed).await).0, 422, "objects are stored in v1");
}
