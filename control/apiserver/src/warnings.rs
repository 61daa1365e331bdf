//! Warnings, in the headers of an answer.

use std::collections::BTreeSet;

use http::HeaderValue;

/// Characters of all of them together, beyond which each is cut, and of each then: upstream's.
const MOST: usize = 4096;
const MOST_OF_ONE: usize = 256;

/// Each once. What no header can say is left out.
pub fn headers(warnings: &[String]) -> Vec<HeaderValue> {
    let mut told = BTreeSet::new();
    let once: Vec<&String> = warnings.iter().filter(|one| !one.is_empty() && told.insert(one.as_str())).collect();
    let is_long = once.iter().map(|one| one.chars().count()).sum::<usize>() > MOST;
    let mut left = MOST;
    let cut = once.into_iter().map_while(|one| {
        let most = if is_long { MOST_OF_ONE } else { usize::MAX };
        let text: String = one.chars().take(most).collect();
        // The last of those that are cut may come to more.
        let is_told = left > 0;
        left = left.saturating_sub(text.chars().count());
        is_told.then_some(text)
    });
    cut.filter_map(|text| warning(&text)).collect()
}

/// What a client shows to its user, as the header `Warning` has it (RFC 7234, code 299); none where no header can say it.
pub fn warning(text: &str) -> Option<HeaderValue> {
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_cut_where_they_are_too_much() {
        let told = |warnings: &[String]| headers(warnings).len();
        assert_eq!(told(&["a".into(), "a".into(), String::new(), "b".into(), "c\n".into()]), 2);
        let long: Vec<String> = (0..100).map(|number| format!("{number}{}", "x".repeat(1000))).collect();
        let headers = headers(&long);
        assert_eq!(headers.len(), MOST / MOST_OF_ONE);
        assert!(headers.iter().all(|header| header.len() < MOST_OF_ONE + 20));
        assert_eq!(told(&["x".repeat(MOST)]), 1);
    }
}
