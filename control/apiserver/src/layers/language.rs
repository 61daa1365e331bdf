//! Answers that were written in JSON and are wanted in another language: whatever is not made often enough to be kept in it.

use std::mem;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::Value;

use crate::{
    accept::{self, Language},
    read::binary,
};

/// What is longer stays in JSON: to turn it into something else takes several times as much.
const MOST: usize = 8 << 20;

/// The language of what is said to a request with these headers.
pub fn wanted(headers: &HeaderMap) -> Language {
    accept::of_status(headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default())
}

/// The same answer in another language, if it is in JSON and can be had in that.
pub async fn translated(answer: Response<Body>, language: Language) -> Response<Body> {
    let headers = answer.headers();
    let json = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == Language::Json.media_type());
    if language == Language::Json || !json || headers.contains_key(header::CONTENT_ENCODING) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let (mut read, mut rest) = (BytesMut::new(), body.into_data_stream());
    while read.len() <= MOST
        && let Some(piece) = rest.next().await
    {
        match piece {
            Ok(piece) => read.extend_from_slice(&piece),
            // Whoever reads it is told as they would have been.
            Err(error) => {
                let failed = stream::iter([Err::<Bytes, _>(error)]);
                return Response::from_parts(head, Body::from_stream(failed));
            }
        }
    }
    if read.len() > MOST {
        let read = stream::iter([Ok(read.freeze())]);
        return Response::from_parts(head, Body::from_stream(read.chain(rest)));
    }
    let Some(text) = of_json(&read, language) else {
        return Response::from_parts(head, Body::from(mem::take(&mut read).freeze()));
    };
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(language.media_type()));
    Response::from_parts(head, Body::from(text))
}

fn of_json(json: &[u8], language: Language) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(json).ok()?;
    match language {
        Language::Json => None,
        Language::Yaml => serde_saphyr::to_string(&value).ok().map(String::into_bytes),
        Language::Protobuf => binary::enveloped(&value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_is_the_same_value() {
        let value = json!({"kind": "ConfigMap", "metadata": {"name": "a", "labels": {"on": "yes", "x": "1.0"}}, "data": {
            "text": "two\nlines\n", "empty": "", "colon": "a: b", "null": "null", "dash": "- a", "number": "0x1f", "tilde": "~",
            "spaces": "  a  ", "quote": "\"'", "tab": "a\tb", "hash": "a #b", "at": "@a", "percent": "%a", "date": "2026-01-01",
        }, "list": [1, -2.5, true, null, [], {}, "x"]});
        let yaml = of_json(value.to_string().as_bytes(), Language::Yaml).unwrap();
        let back: Value = serde_saphyr::from_str(std::str::from_utf8(&yaml).unwrap()).unwrap();
        assert_eq!(back, value);
    }
}
