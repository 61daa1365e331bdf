//! `get`, and what `list` is made of.

pub mod binary;
pub mod components;
mod conversion;
mod filter;
mod form;
mod gzip;
mod handed;
pub mod list;
mod look;
mod page;
mod rows;
pub mod selection;
mod shape;
pub mod watch;
mod written;

use axum::body::Body;
use bytes::BytesMut;
use http::{Response, StatusCode};
use hypernetes_api::{ApiError, Reason, error::Details};
use hypernetes_store::{Entry, Key, Listing, Prefix, RangeOptions, ReadError, Revision};

pub use self::form::{Reading, Wanted};
use self::{
    binary::Binary,
    gzip::Gzip,
    page::{Next, Place},
    written::Written,
};
use crate::{
    Call, Inner,
    accept::Language,
    answer::bytes_response,
    fairness::ticket::Ticket,
    request::{
        Scope,
        options::{ListOptions, Match},
        selectors::Selector,
    },
};

pub async fn get(server: &Inner, call: &Call) -> Result<Response<Body>, ApiError> {
    let name = call.target.name.as_deref().unwrap_or_default();
    let entry = server.store.get(&call.key(name)?).await?.ok_or_else(|| call.not_found(name))?;
    one(call, &entry)
}

/// An answer of one object in the wanted form.
pub fn one(call: &Call, entry: &Entry) -> Result<Response<Body>, ApiError> {
    let Wanted { form, language } = Wanted::of(call, Reading::One)?;
    let written = Written::of(call, form);
    let shared = written.look().map(|look| look.shared(entry)).transpose()?.flatten();
    let mut bytes = match shared {
        _ if language == Language::Protobuf => Binary::of(call, form).object(call, entry, entry.mod_revision)?,
        Some(shared) => shared,
        None => {
            let mut out = BytesMut::new();
            written.write_alone(call, &mut out, entry, entry.mod_revision, true)?;
            out.freeze()
        }
    };
    // What becomes YAML is not compressed.
    let gzip = Gzip::of(&call.headers, bytes.len()).filter(|_| language != Language::Yaml);
    let compressed = gzip.is_some();
    if let Some(mut gzip) = gzip {
        let failed = |error: std::io::Error| ApiError::internal(format!("compressing an answer: {error}"));
        let mut out = gzip.piece(&bytes).map_err(failed)?;
        out.extend(gzip.end().map_err(failed)?);
        bytes = out.into();
    }
    let mut response = bytes_response(StatusCode::OK, bytes);
    if compressed {
        Gzip::mark(response.headers_mut());
    }
    if language == Language::Protobuf {
        binary::mark(&mut response);
    }
    Ok(response)
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

/// The entries that are asked for, in the version that is asked for, with what is said of the next page. They are charged to
/// the answer, if there is one, as they are found.
pub async fn range(
    server: &Inner,
    call: &Call,
    selection: &ListOptions,
    ticket: Option<&mut Ticket>,
) -> Result<(Listing, Option<Next>), ApiError> {
    let prefix = prefix(server, call)?;
    let mut options = RangeOptions { limit: selection.limit, ..Default::default() };
    let version = selection.version.filter(|version| *version != 0);
    let place = selection.token.as_deref().map(Place::parse).transpose()?;
    if let Some(place) = &place {
        (options.after, options.revision) = (Some(place.after(&prefix)?), Some(place.revision()));
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
        let counted = place.and_then(|place| place.remaining_after(listing.entries.len()));
        let remaining = match counted {
            // Of what is selected nobody knows before it is looked at.
            _ if !selection.selector.is_empty() => None,
            None => remaining(server, call, &prefix, &last.key, listing.revision).await?,
            counted => counted,
        };
        next = Some(Next { token: Place::new(&last.key, listing.revision, remaining).token()?, remaining });
    }
    Ok((listing, next))
}

/// How many objects come after one. None: so much was written meanwhile that the version is forgotten.
async fn remaining(
    server: &Inner,
    call: &Call,
    prefix: &Prefix,
    after: &Key,
    revision: Revision,
) -> Result<Option<u64>, ApiError> {
    let (mut all, mut after) = (0, after.clone());
    loop {
        match server.store.count_after(prefix, &after, revision, COUNTED).await {
            Ok((count, last)) => {
                all += count as u64;
                match last {
                    Some(last) => after = last,
                    None => return Ok(Some(all)),
                }
            }
            Err(ReadError::Compacted { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        call.pause().await;
    }
}

/// So many entries are counted at a time.
const COUNTED: usize = 10_000;

/// So many entries are read at a time; between two others have their turn.
const ENTRIES: usize = 500;

/// A consistent range, in pieces where it is a tenant's. A tenant that is charged too much is refused after what it may
/// have, and not after all. A page has so many objects as it may have of those that are selected, however many are gone through
/// for it.
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
    let selects = !selector.is_empty();
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
        for (place, entry) in listing.entries.into_iter().enumerate() {
            if selects && entries.len() == limit {
                more = true;
                break;
            }
            if place % ENTRIES == ENTRIES - 1 {
                call.pause().await;
            }
            if selects && !selection::matches(selector, &entry, &call.resource)? {
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
