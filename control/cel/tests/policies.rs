//! What policies and rules need besides values: authorizers, variables made of expressions, budgets, values that were before.

use std::sync::Mutex;

use hypernetes_cel::{
    Attributes, AuthorizationRequest, Authorizer, Decision, Declaration, Environment, Evaluation, Type, Value, compile,
};
use serde_json::json;

/// Allows what is read, and remembers what it was asked.
#[derive(Default)]
struct Readers(Mutex<Vec<String>>);

impl Authorizer for Readers {
    fn authorize(&self, request: &AuthorizationRequest<'_>) -> Decision {
        let of = match request.of {
            Attributes::Path(path) => path.to_owned(),
            Attributes::Resource { group, resource, subresource, namespace, name, field_selector, label_selector } => {
                [group, resource, subresource, namespace, name, field_selector, label_selector].join("|")
            }
        };
        self.0.lock().unwrap().push(format!("{:?} {} {of}", request.service_account, request.verb));
        match request.verb {
            "get" => Decision { allowed: true, reason: "reads".to_owned(), error: None },
            "fail" => Decision { allowed: false, reason: String::new(), error: Some("broken".to_owned()) },
            _ => Decision::default(),
        }
    }
}

fn asked(source: &str) -> (Result<String, String>, u64, Vec<String>) {
    let environment = Environment::new().authorizer("authorizer", false).authorizer("authorizer.requestResource", true);
    let program = compile(source, &environment).unwrap_or_else(|errors| panic!("{errors}"));
    let readers = Readers::default();
    let resource = Value::resource_check("apps", "deployments", "", "default", "web");
    let (value, cost) = Evaluation::new(vec![Value::authorizer(), resource])
        .with_authorizer(&readers)
        .run(&program)
        .into_owned(|value| value.to_json().unwrap().to_string());
    (value.map_err(|error| error.to_string()), cost, readers.0.into_inner().unwrap())
}

#[test]
fn authorizers_are_asked() {
    let (value, cost, asked_of) =
        asked("authorizer.group('').resource('pods').namespace('a').name('b').check('get').allowed()");
    assert_eq!(value.as_deref(), Ok("true"));
    assert_eq!(asked_of, ["None get |pods||a|b||"]);
    // The variable, four steps, the check and the answer.
    assert_eq!(cost, 1 + 4 + 350_000 + 1);
    for (source, value, request) in [
        ("authorizer.path('/healthz').check('get').reason()", "\"reads\"", "None get /healthz"),
        ("authorizer.path('/healthz').check('post').allowed()", "false", "None post /healthz"),
        ("authorizer.path('/x').check('fail').errored()", "true", "None fail /x"),
        ("authorizer.path('/x').check('fail').error()", "\"broken\"", "None fail /x"),
        ("authorizer.requestResource.check('get').allowed()", "true", "None get apps|deployments||default|web||"),
        (
            "authorizer.serviceAccount('ns', 'sa').group('g').resource('r').subresource('s').fieldSelector('a=b').labelSelector('c').check('get').allowed()",
            "true",
            "Some((\"ns\", \"sa\")) get g|r|s|||a=b|c",
        ),
    ] {
        let (found, _, asked_of) = asked(source);
        assert_eq!(found.as_deref(), Ok(value), "{source}");
        assert_eq!(asked_of, [request], "{source}");
    }
    for (source, error) in [
        ("authorizer.path(' ').check('get').allowed()", "path must not be empty"),
        ("authorizer.group('').resource('').check('get').allowed()", "resource must not be empty"),
        ("authorizer.serviceAccount('ns', '-').path('/').check('get').allowed()", "Invalid service account name"),
        ("authorizer.serviceAccount('Ns', 'a').path('/').check('get').allowed()", "Invalid service account namespace"),
    ] {
        assert_eq!(asked(source).0, Err(error.to_owned()), "{source}");
    }
    // Two checks fit into an expression, three do not.
    let check = "authorizer.path('/').check('get').allowed()";
    assert_eq!(asked(&format!("{check} && {check}")).0.as_deref(), Ok("true"));
    assert_eq!(
        asked(&format!("{check} && {check} && {check}")).0,
        Err("operation cancelled: actual cost limit exceeded".to_owned())
    );
}

#[test]
fn variables_are_made_of_expressions_when_they_are_asked_for() {
    let object = json!({"replicas": 3});
    let mut environment = Environment::new().variable("object", Type::Dyn);
    let mut programs = Vec::new();
    for (name, source) in [
        ("replicas", "object.replicas * 2"),
        ("more", "variables.replicas + 1"),
        ("wrong", "object.zz"),
        ("text", "'a'"),
    ] {
        let program = compile(source, &environment).unwrap_or_else(|errors| panic!("{errors}"));
        environment = environment.compose(name, program.result_type().clone());
        programs.push(program);
    }
    let run = |source: &str| {
        let program = compile(source, &environment).map_err(|errors| errors.to_string())?;
        let values = vec![Value::of_json(&object, None).unwrap(), Value::Variables];
        let (value, cost) = Evaluation::new(values)
            .compose(&programs)
            .run(&program)
            .into_owned(|value| value.to_json().unwrap().to_string());
        value.map(|value| (value, cost)).map_err(|error| error.to_string())
    };
    // `variables.more` costs two, itself three with `variables.replicas`, which costs three.
    assert_eq!(run("variables.more"), Ok(("7".to_owned(), 2 + 3 + 3)));
    // Once made, it is there.
    assert_eq!(run("variables.more + variables.more"), Ok(("14".to_owned(), 2 + 3 + 3 + 2 + 1)));
    assert_eq!(run("true || variables.wrong"), Ok(("true".to_owned(), 0)));
    let error = "composited variable \"wrong\" fails to evaluate: no such key: zz".to_owned();
    assert_eq!(run("variables.wrong"), Err(error));
    assert!(run("variables.zz").unwrap_err().contains("undefined field 'zz'"));
    assert!(run("variables.text + 1").unwrap_err().contains("'_+_' applied to '(string, int)'"));
    // A variable knows those before it, not itself.
    assert!(compile("variables.later", &Environment::new().compose("earlier", Type::Int)).is_err());
}

#[test]
fn rules_see_what_was_before() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let declared = Declaration::of_schema("selfType", &schema, false).unwrap();
    let environment = Environment::new().declared("self", &declared).declared("oldSelf", &declared);
    let rule = compile("self.a >= oldSelf.a", &environment).unwrap();
    assert!(rule.uses(&environment, "oldSelf"));
    assert!(!compile("self.a >= 1", &environment).unwrap().uses(&environment, "oldSelf"));
    // A macro's variable of that name is another.
    assert!(!compile("[1].all(oldSelf, oldSelf > 0)", &environment).unwrap().uses(&environment, "oldSelf"));
    assert_eq!(*rule.result_type(), Type::Bool);
    let (old, new) = (json!({"a": 1}), json!({"a": 2}));
    let value = |object| Value::of_json(object, Some(&declared)).unwrap();
    let run = |values| Evaluation::new(values).run(&rule).value.map(|value| value.as_bool());
    assert_eq!(run(vec![value(&new), value(&old)]), Ok(Some(true)));
    assert_eq!(run(vec![value(&old), value(&new)]), Ok(Some(false)));

    let environment = Environment::new().declared("self", &declared).optional("oldSelf", &declared);
    let rule =
        compile("oldSelf.hasValue() ? oldSelf.value().a < self.a : oldSelf.?a.orValue(7) == 7", &environment).unwrap();
    for before in [None, Some(value(&old))] {
        let values = vec![value(&new), Value::optional(before)];
        assert_eq!(Evaluation::new(values).run(&rule).value.map(|value| value.as_bool()), Ok(Some(true)));
    }
}

#[test]
fn budgets_end_evaluations() {
    let environment = Environment::new();
    let program = compile("[1, 2, 3].all(x, x > 0)", &environment).unwrap();
    let mut evaluation = Evaluation::new(Vec::new());
    assert_eq!(evaluation.run_within(&program, 16).cost, 16);
    let outcome = evaluation.run_within(&program, 15);
    assert!(outcome.value.is_err_and(|error| error.is_cost()));
    // An error that nothing absorbs is not absorbed.
    let program = compile("true || [1, 2, 3].all(x, x > 0)", &environment).unwrap();
    assert_eq!(evaluation.run_within(&program, 5).value.map(|value| value.as_bool()), Ok(Some(true)));
    let program = compile("[1, 2, 3].all(x, x > 0) || true", &environment).unwrap();
    assert!(evaluation.run_within(&program, 5).value.is_err_and(|error| error.is_cost()));
}
