//! Named formats: of names, labels and what OpenAPI knows.

use std::sync::LazyLock;

use ::regex::Regex;
use base64::Engine as _;

use super::time::Time;
use super::url::Url;

/// What a text of a format is like.
#[derive(Debug)]
pub struct NamedFormat {
    /// As expressions call it.
    pub(crate) name: &'static str,
    /// Characters of the regular expression behind it, for the cost.
    pub(crate) regex_size: u64,
    /// What is wrong with a text.
    pub(crate) check: fn(&str) -> Vec<String>,
}

macro_rules! named {
    ($($row:ident, $name:literal, $size:literal, $check:expr);+ $(;)?) => {
        $(pub(crate) static $row: NamedFormat = NamedFormat { name: $name, regex_size: $size, check: $check };)+
        pub(crate) static FORMATS: &[&NamedFormat] = &[$(&$row),+];
    };
}

named! {
    DNS_1123_LABEL, "dns1123Label", 30, |text| label(text, false);
    DNS_1123_SUBDOMAIN, "dns1123Subdomain", 60, |text| subdomain(text, false);
    DNS_1035_LABEL, "dns1035Label", 30, |text| label_1035(text, false);
    QUALIFIED_NAME, "qualifiedName", 60, qualified_name;
    DNS_1123_LABEL_PREFIX, "dns1123LabelPrefix", 30, |text| label(text, true);
    DNS_1123_SUBDOMAIN_PREFIX, "dns1123SubdomainPrefix", 60, |text| subdomain(text, true);
    DNS_1035_LABEL_PREFIX, "dns1035LabelPrefix", 30, |text| label_1035(text, true);
    LABEL_VALUE, "labelValue", 40, label_value;
    URI, "uri", 1103, |text| Url::parse(text).err().into_iter().collect();
    UUID, "uuid", 70, |text| only_if(!UUID_TEXT.is_match(text), "does not match the UUID format");
    BYTE, "byte", 84, |text| {
        only_if(base64::prelude::BASE64_STANDARD.decode(text).is_err(), "invalid base64")
    };
    DATE, "date", 71, |text| only_if(Time::parse_date(text).is_none(), "invalid date");
    DATETIME, "datetime", 71, |text| only_if(Time::parse(text).is_none(), "invalid datetime");
}

static UUID_TEXT: LazyLock<Regex> =
    LazyLock::new(|| compiled("(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"));

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";

static PATTERNS: LazyLock<[(&str, Regex); 5]> =
    LazyLock::new(|| [LABEL, SUBDOMAIN, LABEL_1035, QUALIFIED, VALUE].map(|pattern| (pattern, compiled(pattern))));

fn compiled(pattern: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "the patterns are constants, and a test compiles each")]
    Regex::new(&format!("^(?:{pattern})$")).expect("a constant pattern")
}

fn is_like(pattern: &str, text: &str) -> bool {
    PATTERNS.iter().any(|(known, regex)| *known == pattern && regex.is_match(text))
}

fn only_if(wrong: bool, message: &str) -> Vec<String> {
    if wrong { vec![message.to_owned()] } else { Vec::new() }
}

/// A prefix may end with a dash: what is generated comes behind it.
fn without_dash(text: &str, prefix: bool) -> std::borrow::Cow<'_, str> {
    match text.strip_suffix('-') {
        Some(bare) if prefix && !bare.is_empty() && bare.is_char_boundary(bare.len() - 1) => {
            format!("{}a", &bare[..bare.len() - 1]).into()
        }
        _ => text.into(),
    }
}

fn against(text: &str, most: usize, pattern: &str, message: &str, examples: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > most {
        wrong.push(format!("must be no more than {most} characters"));
    }
    if !is_like(pattern, text) {
        wrong.push(mismatch(message, pattern, examples));
    }
    wrong
}

fn mismatch(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

fn label(text: &str, prefix: bool) -> Vec<String> {
    const MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                           start and end with an alphanumeric character";
    against(&without_dash(text, prefix), 63, LABEL, MESSAGE, &["my-name", "123-abc"])
}

fn subdomain(text: &str, prefix: bool) -> Vec<String> {
    const MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                           and must start and end with an alphanumeric character";
    against(&without_dash(text, prefix), 253, SUBDOMAIN, MESSAGE, &["example.com"])
}

fn label_1035(text: &str, prefix: bool) -> Vec<String> {
    const MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                           alphabetic character, and end with an alphanumeric character";
    against(&without_dash(text, prefix), 63, LABEL_1035, MESSAGE, &["my-name", "abc-123"])
}

fn label_value(text: &str) -> Vec<String> {
    const MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                           and must start and end with an alphanumeric character";
    against(text, 63, VALUE, MESSAGE, &["MyValue", "my_value", "12345"])
}

fn qualified_name(text: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut wrong = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        ["", name] => {
            wrong.push("prefix part must be non-empty".to_owned());
            name
        }
        [prefix, name] => {
            wrong.extend(subdomain(prefix, false).into_iter().map(|why| format!("prefix part {why}")));
            name
        }
        _ => {
            let why = mismatch(&format!("a valid label key {MESSAGE}"), QUALIFIED, EXAMPLES);
            return vec![format!("{why} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        wrong.push("name part must be no more than 63 characters".to_owned());
    }
    if !is_like(QUALIFIED, name) {
        wrong.push(mismatch(&format!("name part {MESSAGE}"), QUALIFIED, EXAMPLES));
    }
    wrong
}
