//! `Secret`: keys, which become names of files, and what secrets of known types have to hold.

use base64::{Engine, engine::general_purpose::STANDARD};
use hypernetes_schema::walk::child;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value};

use super::config_map::{self, MAX_BYTES, decoded_length};
use crate::{
    columns::{Cell, between, column, data_count, path_or},
    field::{Errors, Field},
    format,
    resource::Resource,
};

pub(crate) fn resource() -> Resource {
    Resource::kubernetes::<Secret>("secrets")
        .columns(between([column("Type", path_or("type", "")), column("Data", Cell::Of(|o| data_count(o, &["data"])))]))
        .selectable(["type"])
        .defaults(string_data)
        .check(check)
        .on_update(update)
        .change_first()
}

pub(crate) fn check(secret: &Field<'_>, errors: &mut Errors) {
    let data = secret.get("data");
    let mut bytes = 0;
    for (key, value) in data.entries() {
        format::config_key(key).into_iter().for_each(|fault| value.invalid_quoted(errors, key, fault));
        bytes += decoded_length(value.text());
    }
    if bytes > MAX_BYTES {
        data.too_long(errors, MAX_BYTES);
    }
    let missing = |key: &str| !data.key(key).is_set();
    match secret.get("type").text() {
        "kubernetes.io/service-account-token" => {
            let account = secret.walk(["metadata", "annotations"]).key("kubernetes.io/service-account.name");
            account.not_empty(errors);
        }
        "kubernetes.io/dockercfg" => json(&data.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => json(&data.key(".dockerconfigjson"), errors),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            ["username", "password"].iter().for_each(|key| data.key(key).required(errors, ""));
        }
        "kubernetes.io/ssh-auth" => data.key("ssh-privatekey").not_empty(errors),
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| missing(key)) {
                data.key(key).required(errors, "");
            }
        }
        _ => {}
    }
}

/// A value that has to be a JSON object. What is wrong with it is not told in its own words: they would show it.
fn json(value: &Field<'_>, errors: &mut Errors) {
    if !value.is_set() {
        return value.required(errors, "");
    }
    let decoded = STANDARD.decode(value.text()).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&decoded) {
        let why = match decoded.first() {
            None => "unexpected end of JSON input".to_owned(),
            Some(_) if error.is_eof() => "unexpected end of JSON input".to_owned(),
            Some(_) => "invalid character in JSON".to_owned(),
        };
        value.invalid_quoted(errors, "<secret contents redacted>", why);
    }
}

pub(crate) fn update(secret: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    secret.get("type").kept(errors, &old.get("type"));
    config_map::frozen(secret, old, &["data"], errors);
}

/// What was given as text is kept as `data`, and takes precedence: `stringData` is written and never read.
fn string_data(secret: &mut Map<String, Value>) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let Some(Value::Object(texts)) = secret.remove("stringData") else { return };
    let data = child(secret, "data");
    data.extend(texts.into_iter().map(|(key, text)| (key, STANDARD.encode(text.as_str().unwrap_or_default()).into())));
}
