//! `get`, and what `list` is made of.

pub mod list;
pub mod watch;

use axum::body::Body;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::BytesMut;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, Reason, error::Details, names};
use hypernetes_kinds::IncludeObject;
use hypernetes_schema::walk::fields;
use hypernetes_store::{Entry, Key, Listing, Prefix, RangeOptions, ReadError, Revision};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Call, Inner,
    answer::{bytes_response, json_response},
    authorization::nodes,
    fairness::ticket::Ticket,
    request::{
        Scope,
        options::{ListOptions, Match},
        selectors::Selector,
    },
    stored_form,
};

/// In what form an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Object,
    Table(IncludeObject),
    /// `PartialObjectMetadata`.
    Metadata,
}

impl Form {
    /// The first form of an `Accept` header that is known here; JSON for everything else, as kubectl expects.
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        for option in call.accept().split(',') {
            let mut parameters = option.split(';').map(str::trim);
            if !matches!(parameters.next(), Some("application/json" | "*/*" | "application/*")) {
                continue;
            }
            let parameter = |name: &str| option.split(';').map(str::trim).find_map(|p| p.strip_prefix(name));
            match parameter("as=") {
                Some("Table") => {
                    let text = call.query.get("includeObject");
                    let include = IncludeObject::parse(text)
                        .ok_or_else(|| ApiError::bad_request(format!("includeObject: {text:?} is not known")))?;
                    return Ok(Self::Table(include));
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Ok(Self::Metadata),
                _ => return Ok(Self::Object),
            }
        }
        Ok(Self::Object)
    }
}

pub async fn get(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    let entry = server.store.get(&call.key(name)?).await?.ok_or_else(|| call.not_found(name))?;
    one(call, &entry)
}

/// Whether the bytes of the store are what is asked for.
pub fn as_stored(call: &Call, form: Form) -> bool {
    form == Form::Object && call.scope != Scope::All && call.served.is_stored() && !nodes::is_projected(call)
}

/// An answer of one object in the wanted form.
pub fn one(call: &Call, entry: &Entry) -> Result<Response<Body>, ApiError> {
    let form = Form::of(call)?;
    if as_stored(call, form) {
        let mut out = BytesMut::new();
        stored_form::write(&mut out, &entry.value, entry.mod_revision);
        return Ok(bytes_response(StatusCode::OK, out.freeze()));
    }
    let mut object = stored_form::decode(entry)?;
    mark(call, &entry.key, &mut object);
    let metadata = json!({"resourceVersion": entry.mod_revision.to_string()});
    Ok(json_response(StatusCode::OK, &in_form(call, form, object, metadata, true)))
}

/// An object as a table's row.
pub fn row(call: &Call, object: &Value, include: IncludeObject) -> Value {
    let mut row = call.resource.row(object, include, jiff::Timestamp::now());
    if include == IncludeObject::Object {
        row["object"] = call.served.from_stored(row["object"].take());
    }
    row
}

/// A stored object as a table of one row, as bare metadata, or as it is served; `metadata` is the table's, and `columns`
/// whether it says what its columns are: of a watch's tables only the first does.
pub fn in_form(call: &Call, form: Form, object: Value, metadata: Value, columns: bool) -> Value {
    match form {
        Form::Table(include) => json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "columnDefinitions": if columns { call.resource.column_definitions() } else { json!([]) },
            "rows": [row(call, &object, include)],
        }),
        Form::Metadata => {
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
        }
        Form::Object => call.served.from_stored(object),
    }
}

/// Where the next page begins.
#[derive(Serialize, Deserialize)]
struct Continue {
    after: String,
    revision: u64,
}

pub fn prefix(server: &Inner, call: &Call) -> Result<Prefix, ApiError> {
    let namespace = call.target.namespace.as_deref();
    Ok(match (&call.scope, call.tenant()) {
        (_, Ok(tenant)) => Prefix::tenant(&call.resource.id, &tenant, namespace)?,
        // Who may ask this was checked when the scope was made.
        (Scope::All, _) => Prefix::all_tenants(&call.resource.id, &server.all_tenants),
        (_, Err(error)) => return Err(error),
    })
}

/// The entries that are asked for, in the version that is asked for, with the token of the next page. They are charged to
/// the answer, if there is one, as they are found.
pub async fn range(
    server: &Inner,
    call: &Call,
    selection: &ListOptions,
    ticket: Option<&mut Ticket>,
) -> Result<(Listing, Option<String>), ApiError> {
    let prefix = prefix(server, call)?;
    let mut options = RangeOptions { limit: selection.limit, ..Default::default() };
    let version = selection.version.filter(|version| *version != 0);
    if let Some(token) = &selection.token {
        let invalid = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
        let token: Continue = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        let after = Key::parse(&token.after).filter(|key| prefix.contains(key)).ok_or_else(invalid)?;
        (options.after, options.revision) = (Some(after), Some(Revision(token.revision)));
    } else if selection.matching == Some(Match::Exact) || (selection.matching.is_none() && selection.limit > 0) {
        // A version with a limit and nothing else is that version, too.
        options.revision = version.map(Revision);
    }
    let listing = collect(server, call, &prefix, options, &selection.selector, ticket).await?;
    if let Some(version) = version.filter(|version| *version > listing.revision.0) {
        let message = format!("Too large resource version: {version}, current: {}", listing.revision);
        let details = Details { retry_after_seconds: Some(1), ..Details::default() };
        return Err(ApiError::new(Reason::Timeout, message).with_details(details));
    }
    let mut next = None;
    if listing.more
        && let Some(last) = listing.entries.last()
    {
        let token = Continue { after: last.key.as_str().into(), revision: listing.revision.0 };
        let token = serde_json::to_vec(&token).map_err(|e| ApiError::internal(e.to_string()))?;
        next = Some(URL_SAFE_NO_PAD.encode(token));
    }
    Ok((listing, next))
}

/// So many entries are read at a time; between two others have their turn.
const ENTRIES: usize = 500;

/// A consistent range, in pieces where it is a tenant's. A tenant that is charged too much is refused after what it may
/// have, and not after all. A page has so many objects as it may have of those that are selected, however many are gone through
/// for it; a list without a limit is selected when it is written.
async fn collect(
    server: &Inner,
    call: &Call,
    prefix: &Prefix,
    mut options: RangeOptions,
    selector: &Selector,
    mut ticket: Option<&mut Ticket>,
) -> Result<Listing, ApiError> {
    let whole = options.clone();
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let selects = limit < usize::MAX && !selector.is_empty();
    let mut entries: Vec<Entry> = Vec::new();
    // What is forgotten for the sake of one tenant's past can be needed for all tenants' version: those are read at once.
    let in_pieces = prefix.of_tenant().is_some();
    loop {
        options.limit = match (in_pieces, selects) {
            (true, true) => ENTRIES,
            (true, false) => (limit - entries.len()).min(ENTRIES),
            (false, true) => 0,
            (false, false) => whole.limit,
        };
        let listing = match server.store.range(prefix, options.clone()).await {
            // So much was written meanwhile that the version is forgotten: again, and at once.
            Err(ReadError::Compacted { .. }) if options.after != whole.after => {
                entries.clear();
                let limit = if selects { 0 } else { whole.limit };
                server.store.range(prefix, RangeOptions { limit, ..whole.clone() }).await?
            }
            other => other?,
        };
        options.revision = Some(listing.revision);
        options.after = listing.entries.last().map(|entry| entry.key.clone());
        let (mut more, mut bytes) = (listing.more, 0);
        for entry in listing.entries {
            if selects && entries.len() == limit {
                more = true;
                break;
            }
            if selects && !selector.matches(&stored_form::decode(&entry)?) {
                continue;
            }
            bytes += entry.value.len() as u64;
            entries.push(entry);
        }
        if let Some(ticket) = &mut ticket {
            ticket.respond(bytes)?;
        }
        if !more || entries.len() >= limit {
            return Ok(Listing { entries, revision: listing.revision, more });
        }
        call.pause().await;
    }
}

/// Adds whose an object is, in answers that span tenants, and takes away what is not for who asks.
pub fn mark(call: &Call, key: &Key, object: &mut Value) {
    if nodes::is_projected(call) {
        nodes::project(object);
    }
    if call.scope == Scope::All {
        let annotations = fields(object, &["metadata", "annotations"]);
        annotations.insert(names::TENANT_ANNOTATION.into(), key.tenant().into());
    }
}
