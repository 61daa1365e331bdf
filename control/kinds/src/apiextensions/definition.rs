//! `CustomResourceDefinition`: what is in its spec, and what of it the server itself sets.

use hypernetes_schema::walk::{child, list, text};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value, json};

use super::{names, schema};
use crate::{
    columns::{created_at, name},
    field::{Errors, Field, quote, same},
    format,
    resource::Resource,
    subresource::Subresource,
};

/// The finalizer of a definition that is being deleted: its objects go first.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// A condition of the status, true once the kind is served.
const ESTABLISHED: &str = "Established";
/// A condition of the status, true while a definition is being deleted.
const TERMINATING: &str = "Terminating";
/// What a definition of a group of Kubernetes' own has to be annotated with (KEP-1111).
const APPROVED: &str = "api-approved.kubernetes.io";
/// Types of a column's cells.
const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
/// Formats of a column's cells.
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const MAX_WARNING: usize = 256;
const MAX_SELECTABLE: usize = 8;

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<CustomResourceDefinition>("customresourcedefinitions")
        .short_names(&["crd", "crds"])
        .categories(&["api-extensions"])
        .subresources([Subresource::status()])
        .columns(vec![name(), created_at()])
        .defaults(defaults)
        .counts_changes()
        .first_status(first_status)
        .changed_status(changed_status)
        .when_deleted(deleted)
        .check(check)
        .named(named)
        .on_create(create)
        .on_update(update)
        .on_status(status)
}

/// Whether the kind of a definition is served.
pub fn is_established(definition: &Value) -> bool {
    list(definition, "status.conditions")
        .iter()
        .any(|condition| condition["type"] == ESTABLISHED && condition["status"] == "True")
}

fn defaults(definition: &mut Map<String, Value>) {
    let spec = child(definition, "spec");
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    if let Some(Value::Object(service)) =
        spec.get_mut("conversion").and_then(|conversion| conversion.pointer_mut("/webhook/clientConfig/service"))
    {
        service.entry("port").or_insert_with(|| 443.into());
    }
    let names = child(spec, "names");
    let kind = text(&Value::Object(names.clone()), "kind").to_owned();
    if !kind.is_empty() {
        names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
        names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
    }
}

/// The version that objects are stored in.
fn storage_version(definition: &Value) -> Option<&str> {
    let version = list(definition, "spec.versions").iter().find(|version| version["storage"] == true)?;
    version["name"].as_str()
}

fn first_status(definition: &Map<String, Value>) -> Value {
    let definition = Value::Object(definition.clone());
    let stored: Vec<&str> = storage_version(&definition).into_iter().collect();
    json!({"acceptedNames": {"kind": "", "plural": ""}, "conditions": [], "storedVersions": stored})
}

/// In which versions objects may be stored: another storage version is one more.
fn changed_status(definition: &mut Map<String, Value>) {
    let whole = Value::Object(definition.clone());
    let Some(storage) = storage_version(&whole) else { return };
    let versions = child(definition, "status").entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(versions) = versions.as_array_mut()
        && !versions.iter().any(|version| version == storage)
    {
        versions.push(storage.into());
    }
}

/// Its objects go first, which is said.
fn deleted(definition: &mut Map<String, Value>) {
    let conditions = child(definition, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    if conditions.iter().any(|condition| condition["type"] == TERMINATING) {
        return;
    }
    conditions.push(json!({
        "type": TERMINATING, "status": "True", "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        "lastTransitionTime": hypernetes_api::time::now().to_string(),
    }));
    let finalizers = child(definition, "metadata").entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut() {
        finalizers.push(CLEANUP.into());
    }
}

fn check(definition: &Field<'_>, errors: &mut Errors) {
    let spec = definition.get("spec");
    check_group(&spec.get("group"), errors);
    spec.get("scope").required_one_of(errors, &["Cluster", "Namespaced"]);
    let common = Common::of(&spec);
    check_versions(&spec, &common, errors);
    names::check_required(&spec.get("names"), errors);
    names::check(&spec.get("names"), errors);
    common.check(&spec, errors);
    check_conversion(&spec.get("conversion"), errors);
    names::check(&definition.walk(["status", "acceptedNames"]), errors);
    check_stored_versions(definition, errors);
    if spec.get("preserveUnknownFields").is_true() {
        let why =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        spec.get("preserveUnknownFields").invalid(errors, why);
    }
}

/// What all versions say alike is to upstream the definition's, and told of there.
struct Common {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Common {
    fn of(spec: &Field<'_>) -> Self {
        let versions: Vec<_> = spec.get("versions").items().collect();
        let alike = |name: &'static str| {
            let mut values = versions.iter().map(|version| version.get(name));
            let first = values.next();
            first.is_some_and(|first| !first.is_empty() && values.all(|other| same(first.value, other.value)))
        };
        Self {
            schema: alike("schema"),
            subresources: alike("subresources"),
            columns: alike("additionalPrinterColumns"),
            selectable: alike("selectableFields"),
        }
    }

    fn check(&self, spec: &Field<'_>, errors: &mut Errors) {
        let Some(version) = spec.get("versions").items().next() else { return };
        let at = |name: &'static str, place: &'static str| Field::at(version.get(name).value, spec.path.child(place));
        let schema = at("schema", "validation").get("openAPIV3Schema");
        if self.schema && schema.is_set() {
            let any_status = |one: Field<'_>| one.walk(["subresources", "status"]).is_set();
            schema::check(&schema, spec.get("versions").items().any(any_status), errors);
        }
        if self.subresources {
            check_scale(&at("subresources", "subresources").get("scale"), errors);
        }
        if self.columns {
            let columns = at("additionalPrinterColumns", "additionalPrinterColumns");
            columns.items().for_each(|column| check_column(&column, errors));
        }
        if self.selectable {
            check_selectable(&at("selectableFields", "selectableFields"), schema.value, errors);
        }
    }
}

fn check_group(group: &Field<'_>, errors: &mut Errors) {
    let text = group.text();
    let faults = format::subdomain(text);
    if text.is_empty() {
        group.required(errors, "");
    } else if !faults.is_empty() {
        group.invalid(errors, faults.join(","));
    } else if !text.contains('.') {
        group.invalid(errors, "should be a domain with at least one dot");
    } else if names::is_servers_own(text) {
        // Objects of a kind that the server knows are never of a shape that a tenant decides.
        group.forbidden(errors, "is the server's own: no kinds can be defined in it");
    }
}

fn check_versions(spec: &Field<'_>, common: &Common, errors: &mut Errors) {
    let versions = spec.get("versions");
    for version in versions.items() {
        if !version.walk(["schema", "openAPIV3Schema"]).is_set() {
            version.get("schema").get("openAPIV3Schema").required(errors, "");
        }
    }
    let (mut seen, mut unique, mut stored) = (Vec::new(), true, 0);
    for version in versions.items() {
        stored += usize::from(version.get("storage").is_true());
        let name = version.get("name").text();
        unique &= !seen.contains(&name);
        seen.push(name);
        let faults = format::letter_label(name);
        if !faults.is_empty() {
            version.get("name").invalid_text(errors, faults.join(","));
        }
        check_version(&version, common, errors);
    }
    if !unique {
        versions.invalid(errors, "must contain unique version names");
    }
    if stored != 1 {
        versions.invalid(errors, "must have exactly one version marked as storage version");
    }
    // The first one's is the definition's, too.
    if let Some(first) = seen.first().filter(|first| !format::letter_label(first).is_empty()) {
        Field::at(&Value::Null, spec.path.child("version")).invalid_quoted(
            errors,
            first,
            format::letter_label(first).join(","),
        );
    }
}

fn check_version(version: &Field<'_>, common: &Common, errors: &mut Errors) {
    let warning = version.get("deprecationWarning");
    if warning.is_set() {
        for fault in warning_faults(version.get("deprecated").is_true(), warning.text()) {
            warning.invalid_text(errors, fault);
        }
    }
    let schema = version.walk(["schema", "openAPIV3Schema"]);
    let has_status = version.walk(["subresources", "status"]).is_set();
    if schema.is_set() && !common.schema {
        schema::check(&schema, has_status, errors);
    }
    if !common.subresources {
        check_scale(&version.walk(["subresources", "scale"]), errors);
    }
    if !common.columns {
        version.get("additionalPrinterColumns").items().for_each(|column| check_column(&column, errors));
    }
    if !common.selectable {
        check_selectable(&version.get("selectableFields"), schema.value, errors);
    }
}

fn warning_faults(deprecated: bool, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !deprecated {
        return vec!["can only be set for deprecated versions".into()];
    }
    if text.len() > MAX_WARNING {
        faults.push(format!("must be <= {MAX_WARNING} characters long"));
    }
    if text.is_empty() {
        faults.push("must not be an empty string".into());
    }
    if let Some((index, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
        let what = "must only contain printable UTF-8 characters; non-printable character found at index";
        faults.push(format!("{what} {index}"));
    }
    faults
}

/// A path as `.spec.replicas`.
fn check_path(path: &Field<'_>, errors: &mut Errors) -> bool {
    let good = path.text().starts_with('.');
    if !good {
        path.invalid(errors, "must be a simple json path starting with .");
    }
    good
}

fn check_scale(scale: &Field<'_>, errors: &mut Errors) {
    if !scale.is_set() {
        return;
    }
    // Upstream's paths begin at `subresources`, with a dot in the next step: which looks the same.
    for (name, under) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let path = scale.get(name);
        if path.is_empty() {
            path.required(errors, "");
        } else if check_path(&path, errors) && !path.text().starts_with(under) {
            path.invalid(errors, format!("should be a json path under {}", under.trim_end_matches('.')));
        }
    }
    let selector = scale.get("labelSelectorPath");
    let under = |text: &str| text.starts_with(".spec.") || text.starts_with(".status.");
    if !selector.is_empty() && check_path(&selector, errors) && !under(selector.text()) {
        selector.invalid(errors, "should be a json path under either .spec or .status");
    }
}

fn check_column(column: &Field<'_>, errors: &mut Errors) {
    let must = |known: &str| format!("must be one of {known}");
    let (name, kind, format) = (column.get("name"), column.get("type"), column.get("format"));
    if name.is_empty() {
        name.required(errors, "");
    }
    if kind.is_empty() {
        kind.required(errors, &must(COLUMN_TYPES));
    } else if !COLUMN_TYPES.split(',').any(|known| known == kind.text()) {
        kind.invalid(errors, must(COLUMN_TYPES));
    }
    if !format.is_empty() && !COLUMN_FORMATS.split(',').any(|known| known == format.text()) {
        format.invalid(errors, must(COLUMN_FORMATS));
    }
    // As upstream writes it here.
    let path = Field::at(column.get("jsonPath").value, column.path.child("JSONPath"));
    if path.is_empty() {
        path.required(errors, "");
    } else {
        check_path(&path, errors);
    }
}

fn check_selectable(fields: &Field<'_>, schema: &Value, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if path.is_empty() {
            path.required(errors, "");
            continue;
        }
        let names: Vec<&str> = path.text().strip_prefix('.').unwrap_or_default().split('.').collect();
        let found = names.iter().try_fold(schema, |schema, name| {
            let property = schema.get("properties").and_then(|properties| properties.get(*name));
            property.or_else(|| schema.get("additionalProperties").filter(|values| values.is_object()))
        });
        if names.first() == Some(&"metadata") {
            path.invalid(errors, "must not point to fields in metadata");
        }
        let Some(found) = found else {
            path.invalid(errors, "is an invalid path: does not refer to a valid field");
            continue;
        };
        if !matches!(found["type"].as_str(), Some("string" | "boolean" | "integer")) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            path.invalid(errors, why);
        }
        match seen.contains(&path.text()) {
            true => path.duplicate(errors),
            false => seen.push(path.text()),
        }
    }
    if seen.len() > MAX_SELECTABLE {
        fields.too_many(errors, MAX_SELECTABLE);
    }
}

fn check_conversion(conversion: &Field<'_>, errors: &mut Errors) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.get("strategy");
    strategy.required_one_of(errors, &["None", "Webhook"]);
    let webhook = conversion.get("webhook");
    if strategy.text() != "Webhook" {
        if webhook.get("clientConfig").is_set() {
            let path = conversion.path.child("webhookClientConfig");
            Field::at(webhook.value, path).forbidden(errors, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    // Who would be asked is not yet: what is not converted must not look as if it were.
    strategy.forbidden(errors, "conversion by webhooks is not available in this cluster");
}

fn check_stored_versions(definition: &Field<'_>, errors: &mut Errors) {
    let stored = definition.walk(["status", "storedVersions"]);
    let versions = definition.walk(["spec", "versions"]);
    if stored.is_empty() {
        return stored.invalid_as(errors, "null", "must have at least one stored version");
    }
    let names: Vec<&str> = stored.items().map(|item| item.text()).collect();
    for version in versions.items().filter(|version| version.get("storage").is_true()) {
        let name = version.get("name").text();
        if !names.contains(&name) {
            stored.invalid(errors, format!("must have the storage version {name}"));
        }
    }
    for item in stored.items() {
        let name = item.text();
        if !versions.items().any(|version| version.get("name").text() == name) {
            item.invalid(errors, format!("missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"));
        }
    }
}

fn named(definition: &Field<'_>, errors: &mut Errors) {
    let (called, spec) = (definition.walk(["metadata", "name"]), definition.get("spec"));
    if called.text() != format!("{}.{}", spec.walk(["names", "plural"]).text(), spec.get("group").text()) {
        called.invalid(errors, "must be spec.names.plural+\".\"+spec.group");
    }
}

fn create(definition: &Field<'_>, errors: &mut Errors) {
    approval(definition, None, errors);
}

fn update(definition: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    if is_established(old.value) {
        for path in [&["spec", "scope"][..], &["spec", "names", "kind"]] {
            definition.walk(path).kept(errors, &old.walk(path));
        }
    }
    for path in [&["spec", "group"][..], &["spec", "names", "plural"]] {
        definition.walk(path).kept(errors, &old.walk(path));
    }
    approval(definition, Some(old), errors);
}

fn status(definition: &Field<'_>, _: &Field<'_>, errors: &mut Errors) {
    names::check(&definition.walk(["status", "acceptedNames"]), errors);
}

/// Whether a group is Kubernetes' own, whose kinds are reviewed.
fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")))
}

/// A group of Kubernetes' own takes an annotation that says who approved of its kinds.
fn approval(definition: &Field<'_>, old: Option<&Field<'_>>, errors: &mut Errors) {
    if !is_protected(definition.walk(["spec", "group"]).text()) {
        return;
    }
    let annotation = definition.walk(["metadata", "annotations"]).key(APPROVED);
    if old.is_some_and(|old| same(old.walk(["metadata", "annotations"]).key(APPROVED).value, annotation.value)) {
        return;
    }
    let text = annotation.text();
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if text.is_empty() {
        let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        annotation.required(errors, why);
    } else if !text.starts_with("unapproved") && !is_url {
        let why = format!(
            "protected groups must have approval annotation \"{APPROVED}\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        annotation.invalid_as(errors, quote(text), why);
    }
}
