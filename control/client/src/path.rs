//! What is asked of a logical cluster stays in it: the last look at a request's path, whoever made it.
//!
//! [`Api`](crate::Api) is what makes paths of names; this refuses what a client that joins text itself may have made.

use http::{Uri, uri};

/// The request's path or query is not what a client of the API makes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the path of a request has an empty segment, `.`, `..` or an encoded separator: {0:?}")]
    Segment(String),
    #[error("the query of a request has a question mark, which a client would have encoded: a name became part of it")]
    Query,
    #[error("the query of a request watches, and its maker did not: a name became part of it")]
    Watch,
    #[error(transparent)]
    Uri(#[from] http::Error),
}

/// Whether a segment is itself after every reading of it: decoded, and by whoever takes `.` and `..` for directions.
fn is_plain(segment: &str) -> bool {
    let lower = segment.to_ascii_lowercase();
    !segment.is_empty()
        && segment != "."
        && segment != ".."
        && !["%2e", "%2f", "%5c", "%00", "%25"].iter().any(|code| lower.contains(code))
        && !segment.contains('\\')
}

/// Whether the answer to a request is a stream of changes.
pub(crate) fn watches(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| matches!(pair, "watch" | "watch=" | "watch=true" | "watch=1"))
}

/// `uri` beneath `prefix`; `call` is the one that kube says it makes.
pub(crate) fn within(prefix: &str, uri: &Uri, call: Option<&str>) -> Result<Uri, Refused> {
    let path = uri.path();
    let relative = path.strip_prefix('/').unwrap_or(path);
    // `/` alone is the root's discovery.
    if !relative.is_empty() && !relative.split('/').all(is_plain) {
        return Err(Refused::Segment(path.chars().take(80).collect()));
    }
    let query = uri.query().unwrap_or_default();
    if query.contains('?') {
        return Err(Refused::Query);
    }
    if watches(uri) && !call.is_some_and(|call| call.starts_with("watch")) {
        return Err(Refused::Watch);
    }
    let mut parts = uri.clone().into_parts();
    let joined = if query.is_empty() { format!("{prefix}{path}") } else { format!("{prefix}{path}?{query}") };
    parts.path_and_query = Some(joined.parse::<uri::PathAndQuery>().map_err(http::Error::from)?);
    Ok(Uri::from_parts(parts).map_err(http::Error::from)?)
}

#[cfg(test)]
mod tests {
    fn within(text: &str) -> Option<String> {
        super::within("/clusters/acme", &text.parse().unwrap(), Some("get")).ok().map(|uri| uri.to_string())
    }

    #[test]
    fn a_request_stays_in_its_cluster() {
        let pods = "/api/v1/namespaces/default/pods";
        for (asked, given) in [
            ("/", "/clusters/acme/".to_owned()),
            ("/version", "/clusters/acme/version".to_owned()),
            (&format!("{pods}?limit=500&"), format!("/clusters/acme{pods}?limit=500&")),
            (&format!("{pods}/x?fieldSelector=a%3Fb"), format!("/clusters/acme{pods}/x?fieldSelector=a%3Fb")),
            ("/apis/rbac/v1/clusterroles/system:a", "/clusters/acme/apis/rbac/v1/clusterroles/system:a".to_owned()),
        ] {
            assert_eq!(within(asked), Some(given));
        }
        for asked in [
            "/../globex/api/v1/pods",
            "/api/../../globex/pods",
            "/api/v1/./pods",
            "/api/v1//pods",
            "/api/v1/namespaces/a/pods/?",
            "/api/v1/namespaces/%2e%2E/pods",
            "/api/v1/namespaces/a%2Fb/pods",
            "/api/v1/namespaces/a%252fb/pods",
            "/api/v1/namespaces/a%5cb/pods",
            "/api/v1/namespaces/a/pods/x?watch=true&timeoutSeconds=99999999999?&",
            "/api/v1/namespaces/a/pods/x?watch=true&allowWatchBookmarks=true",
            "/api/v1/namespaces/a/pods/x?watch",
        ] {
            assert_eq!(within(asked), None, "{asked}");
        }
        let watch = "/api/v1/pods?&watch=true&allowWatchBookmarks=true".parse().unwrap();
        assert!(super::within("/clusters/*", &watch, Some("watch_metadata")).is_ok());
        assert!(super::within("/clusters/*", &watch, None).is_err());
    }
}
