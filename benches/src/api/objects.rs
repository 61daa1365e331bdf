//! The objects of the loads: ConfigMaps of one size.

use bytes::Bytes;

/// The field that tells one version of an object from another: ten digits.
pub const STEP: &str = "bench-step";

/// JSON of a ConfigMap, as large as it is wanted, made once but for its name and its step.
#[derive(Clone)]
pub struct Template {
    filling: String,
}

impl Template {
    /// `bytes`: of the JSON, about.
    pub fn new(bytes: usize) -> Self {
        // What is around the filling below.
        let filling = "0123456789abcdef".chars().cycle().take(bytes.saturating_sub(130)).collect();
        Self { filling }
    }

    pub fn object(&self, name: &str, step: u64) -> Bytes {
        let head = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":""#;
        let mut json = String::with_capacity(self.filling.len() + 192);
        json.extend([head, name, r#""},"data":{""#, STEP, r#"":""#]);
        json.push_str(&format!("{step:010}"));
        json.extend([r#"","filling":""#, &self.filling, r#""}}"#]);
        json.into()
    }

    /// A merge patch to the step.
    pub fn patch(step: u64) -> Bytes {
        format!(r#"{{"data":{{"{STEP}":"{step:010}"}}}}"#).into()
    }
}

/// The steps that a piece of a watch tells of, in order. What was cut off between two pieces is found as well: `rest` keeps
/// the end of the one before.
pub fn steps(rest: &mut Vec<u8>, piece: &[u8], mut found: impl FnMut(u64)) {
    const MARK: &[u8] = b"\"bench-step\":\"";
    const DIGITS: usize = 10;
    rest.extend_from_slice(piece);
    let mut at = 0;
    while let Some(quote) = rest[at..].iter().position(|byte| *byte == b'"').map(|position| at + position) {
        let Some(digits) = rest.get(quote + MARK.len()..quote + MARK.len() + DIGITS) else {
            at = quote;
            break;
        };
        at = quote + 1;
        if rest[quote..].starts_with(MARK)
            && let Some(step) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok())
        {
            found(step);
            at = quote + MARK.len() + DIGITS;
        }
    }
    if at == 0 || rest[at..].first() == Some(&b'"') {
        rest.drain(..at);
    } else {
        rest.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_its_size_and_its_steps_are_found_wherever_it_is_cut() {
        let template = Template::new(1000);
        let stream = [template.object("a", 7), Bytes::from_static(b"\n"), template.object("b", 8)].concat();
        assert!((900..1100).contains(&template.object("a", 7).len()));
        for size in [1, 2, 7, 13, 100, 10_000] {
            let (mut rest, mut found) = (Vec::new(), Vec::new());
            for piece in stream.chunks(size) {
                steps(&mut rest, piece, |step| found.push(step));
            }
            assert_eq!(found, [7, 8], "in pieces of {size}");
        }
    }
}
