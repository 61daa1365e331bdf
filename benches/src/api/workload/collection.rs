//! Lists: at once, and in pages.

use anyhow::{Context, Result};
use http::Uri;

use super::Settings;
use crate::{
    load::{self, Requests, Sample},
    stage::Stage,
    wire::Prepared,
};

/// Objects of a page, as kubectl and client-go's pager ask for.
const PAGE: usize = 500;

struct Same(Prepared);

impl Requests for Same {
    fn next(&mut self, _: usize, _: &[u8]) -> Result<Option<Prepared>> {
        Ok(Some(self.0.clone()))
    }
}

pub async fn list(stage: &Stage, namespace: &str, objects: usize, settings: &Settings) -> Result<Sample> {
    let path = Stage::path(namespace, None);
    // What the next ones have may differ by the digits of versions.
    let least_bytes = stage.check_list(&path, objects).await? * 99 / 100;
    let same = Same(Prepared { least_bytes, ..Prepared::get(stage.target.uri(&path)?) });
    load::run(&stage.target, settings.list_clients, settings.lasts, same).await
}

/// Each client goes from page to page, and begins again behind the last.
struct Pages {
    stage: Stage,
    path: String,
    first: Uri,
}

impl Requests for Pages {
    fn next(&mut self, _: usize, answer: &[u8]) -> Result<Option<Prepared>> {
        let uri = match continuation(answer) {
            Some(token) => self.stage.target.uri(&format!("{}?limit={PAGE}&continue={token}", self.path))?,
            None => self.first.clone(),
        };
        Ok(Some(Prepared::get(uri)))
    }
}

/// Both servers say it before the objects. It is base64 of URLs, so that it needs no escape.
fn continuation(answer: &[u8]) -> Option<&str> {
    const MARK: &[u8] = b"\"continue\":\"";
    let head = &answer[..answer.windows(8).position(|w| w == b"\"items\":")?];
    let token = &head[head.windows(MARK.len()).position(|w| w == MARK)? + MARK.len()..];
    let end = token.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&token[..end]).ok().filter(|token| !token.is_empty())
}

pub async fn pages(stage: &Stage, namespace: &str, objects: usize, settings: &Settings) -> Result<Sample> {
    let path = Stage::path(namespace, None);
    let first = stage.target.uri(&format!("{path}?limit={PAGE}"))?;
    stage.check_list(&format!("{path}?limit={PAGE}"), PAGE.min(objects)).await.context("the first page")?;
    let pages = Pages { stage: stage.clone(), path, first };
    load::run(&stage.target, settings.list_clients, settings.lasts, pages).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_before_the_objects() {
        let page = |metadata: &str| format!(r#"{{"kind":"ConfigMapList","metadata":{metadata},"items":[{{"a":1}}]}}"#);
        let more = page(r#"{"resourceVersion":"7","continue":"ab-c_"}"#);
        assert_eq!(continuation(more.as_bytes()), Some("ab-c_"));
        for last in [page(r#"{"resourceVersion":"7"}"#), page(r#"{"continue":""}"#), String::new()] {
            assert_eq!(continuation(last.as_bytes()), None);
        }
    }
}
