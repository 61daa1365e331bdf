//! URLs.

use std::sync::Arc;

use super::{Overload, Sig, global, member, opaque, text};
use crate::cost::Cost;
use crate::errors::{EvalError, Result};
use crate::types::Opaque;
use crate::value::url::Url;
use crate::value::{Key, Map, OpaqueValue, OwnedMap, Text, Value};

const URL: Sig = Sig::Opaque(Opaque::Url);

pub(super) const ROWS: &[Overload] = &[
    global("url", "string_to_url", &[Sig::String], URL, Cost::Through(1), |context, args| {
        let text = text(args, 0)?;
        context.meter.grow(4 * text.len())?;
        let url = Url::parse(text)
            .map_err(|error| EvalError::new(format!("URL parse error during conversion from string: {error}")))?;
        Ok(Value::Opaque(OpaqueValue::Url(Arc::new(url))))
    }),
    global("isURL", "is_url_string", &[Sig::String], Sig::Bool, Cost::One, |_, args| {
        Ok(Value::Bool(Url::parse(text(args, 0)?).is_ok()))
    }),
    member("getScheme", "url_get_scheme", &[URL], Sig::String, Cost::One, |_, args| {
        part(args, |url| url.scheme.clone())
    }),
    member("getHost", "url_get_host", &[URL], Sig::String, Cost::One, |_, args| part(args, |url| url.host.clone())),
    member("getHostname", "url_get_hostname", &[URL], Sig::String, Cost::One, |_, args| {
        part(args, |url| url.hostname_and_port().0.to_owned())
    }),
    member("getPort", "url_get_port", &[URL], Sig::String, Cost::One, |_, args| {
        part(args, |url| url.hostname_and_port().1.to_owned())
    }),
    member("getEscapedPath", "url_get_escaped_path", &[URL], Sig::String, Cost::One, |_, args| {
        part(args, |url| url.path.clone())
    }),
    member(
        "getQuery",
        "url_get_query",
        &[URL],
        Sig::Map(&Sig::String, &Sig::List(&Sig::String)),
        Cost::One,
        |context, args| {
            let url = of(args)?;
            context.meter.grow(8 * url.query.len())?;
            let mut query = OwnedMap::default();
            for (name, values) in url.query_values() {
                let values = values.into_iter().map(Value::text).collect();
                query.insert(Key::String(Text::Shared(name.into())), Value::list(values));
            }
            Ok(Value::Map(Map::Made(Arc::new(query))))
        },
    ),
];

fn of<'v>(args: &'v [Value<'_>]) -> Result<&'v Url> {
    match opaque(args, 0)? {
        OpaqueValue::Url(url) => Ok(url),
        _ => Err(EvalError::NO_SUCH_OVERLOAD),
    }
}

fn part<'a>(args: &[Value<'a>], part: fn(&Url) -> String) -> Result<Value<'a>> {
    Ok(Value::text(part(of(args)?)))
}
