//! What must hold whatever a source and an object are: an answer, within the limits, and the same one each time.

use serde_json::Value as Json;

use crate::{Declaration, Environment, EvalError, Evaluation, Type, Value, compile, limits, names};

/// A source, and behind the first zero byte an object and a schema, in JSON, one behind the other.
pub fn expression(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let source = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let mut documents = serde_json::Deserializer::from_slice(parts.next().unwrap_or_default()).into_iter::<Json>();
    let mut document = || documents.next().and_then(Result::ok).unwrap_or(Json::Null);
    let (object, schema) = (document(), document());
    run(&source, &object, Declaration::of_schema("self", &schema, false).as_ref());
}

/// An expression that the bytes choose of the grammar, about an object of its own.
pub fn tree(data: &[u8]) {
    let mut chooser = Chooser { bytes: data.iter(), left: 200 };
    let source = chooser.expression(6);
    let object = serde_json::json!({
        "a": 1, "b": [1, 2, 3], "c": {"d": "x", "e": [{"f": 1.5}, {"f": null}]}, "g": "2020-01-01T00:00:00Z", "h": true
    });
    run(&source, &object, None);
}

fn run(source: &str, object: &Json, declared: Option<&Declaration>) {
    let environment = match declared {
        Some(declared) => Environment::new().declared("self", declared),
        None => Environment::new().declared("self", &Declaration::any()),
    };
    let program = match compile(source, &environment) {
        Ok(program) => program,
        Err(errors) => {
            return assert!(!errors.to_string().contains("cannot be parsed"), "{source}: the parser panicked");
        }
    };
    assert!(program.cost().min <= program.cost().max || program.cost().max == 0, "{source}: {:?}", program.cost());
    let Ok(value) = Value::of_json(object, declared) else { return };
    let mut evaluation = Evaluation::new(vec![value]);
    let first = evaluation.run(&program);
    let again = evaluation.run(&program);
    assert_eq!(first.cost, again.cost, "{source}");
    assert_eq!(shown(&first.value), shown(&again.value), "{source}");
    if let Err(error) = &first.value {
        assert_eq!(error.is_cost(), first.cost > limits::PER_CALL, "{source}: {error} at {}", first.cost);
    }
}

fn shown(value: &Result<Value<'_>, EvalError>) -> Result<Option<String>, String> {
    match value {
        Ok(value) => Ok(value.to_json().map(|json| json.to_string())),
        Err(error) => Err(error.to_string()),
    }
}

/// What a name is written as is an identifier.
pub fn name(text: &str) {
    if let Some(written) = names::escape(text) {
        assert!(written.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{written}");
        assert!(
            compile(&format!("self.{written}"), &Environment::new().variable("self", Type::Dyn)).is_ok(),
            "{written}"
        );
    }
}

/// Chooses by bytes; when there are none, the first.
struct Chooser<'d> {
    bytes: std::slice::Iter<'d, u8>,
    left: usize,
}

const OPERATORS: [&str; 14] = ["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in"];
const LEAVES: [&str; 28] = [
    "self",
    "self.a",
    "self.b",
    "self.c.d",
    "self.c.e[0].f",
    "self.?z",
    "self[?'a']",
    "1",
    "-7",
    "3u",
    "1.5",
    "'text'",
    "b'x'",
    "true",
    "false",
    "null",
    "[]",
    "{}",
    "'a b'",
    "duration('1h')",
    "timestamp('2020-01-01T00:00:00Z')",
    "ip('::1')",
    "quantity('1Gi')",
    "semver('1.2.3')",
    "cidr('10.0.0.0/8')",
    "url('/a')",
    "optional.none()",
    "lists.range(9)",
];
const METHODS: [&str; 24] = [
    "size()",
    "sum()",
    "min()",
    "max()",
    "isSorted()",
    "sort()",
    "distinct()",
    "reverse()",
    "flatten()",
    "first()",
    "trim()",
    "lowerAscii()",
    "split('')",
    "join()",
    "getHours('Europe/Berlin')",
    "hasValue()",
    "value()",
    "family()",
    "asInteger()",
    "major()",
    "masked()",
    "getHost()",
    "slice(0, 1)",
    "replace('a', 'bb')",
];
const FUNCTIONS: [&str; 14] = [
    "size",
    "type",
    "dyn",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "duration",
    "timestamp",
    "optional.of",
    "optional.ofNonZeroValue",
    "strings.quote",
];
const MACROS: [&str; 6] = ["all", "exists", "exists_one", "map", "filter", "sortBy"];

impl Chooser<'_> {
    fn byte(&mut self) -> usize {
        self.left = self.left.saturating_sub(1);
        usize::from(*self.bytes.next().unwrap_or(&0))
    }

    fn of<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.byte() % words.len()]
    }

    fn expression(&mut self, depth: usize) -> String {
        if depth == 0 || self.left == 0 {
            return self.of(&LEAVES).to_owned();
        }
        let deeper = depth - 1;
        match self.byte() % 12 {
            0..=2 => self.of(&LEAVES).to_owned(),
            3 => {
                let operator = self.of(&OPERATORS);
                format!("({} {operator} {})", self.expression(deeper), self.expression(deeper))
            }
            4 => format!("{}.{}", self.expression(deeper), self.of(&METHODS)),
            5 => format!("{}({})", self.of(&FUNCTIONS), self.expression(deeper)),
            6 => format!("{}.{}(x, {})", self.expression(deeper), self.of(&MACROS), self.expression(deeper)),
            7 => format!("({} ? {} : {})", self.expression(deeper), self.expression(deeper), self.expression(deeper)),
            8 => format!("[{}, {}]", self.expression(deeper), self.expression(deeper)),
            9 => format!("{{{}: {}}}", self.expression(deeper), self.expression(deeper)),
            10 => format!("{}[{}]", self.expression(deeper), self.expression(deeper)),
            _ => format!("{}.optMap(x, {}).{}", self.expression(deeper), self.expression(deeper), self.of(&METHODS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..200)) {
            super::expression(&data);
        }

        #[test]
        fn any_text(data in "[a-z0-9.,:?()\\[\\]{}'\"+*/%<>=!&|` \\\\\n-]{0,80}") {
            super::expression(data.as_bytes());
        }

        #[test]
        fn any_tree(data in prop::collection::vec(any::<u8>(), 0..300)) {
            super::tree(&data);
        }

        #[test]
        fn any_name(text in "[a-z_./-]{0,20}|\\PC{0,20}") {
            super::name(&text);
        }
    }
}
