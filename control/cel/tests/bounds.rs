//! Catastrophic sources are refused, and catastrophic evaluations end.

use hypernetes_cel::{Environment, EvalError, Evaluation, Program, Type, Value, compile};

fn environment() -> Environment {
    Environment::new().variable("self", Type::Dyn)
}

/// What an evaluation ends with; `Ok` for a value.
fn run(source: &str) -> Result<(), EvalError> {
    let program = compile(source, &environment()).unwrap_or_else(|errors| panic!("{source}: {errors}"));
    end(&program)
}

fn end(program: &Program) -> Result<(), EvalError> {
    Evaluation::new(vec![Value::Null]).run(program).value.map(|_| ())
}

#[test]
fn sources_are_bounded() {
    let many = |part: &str, times: usize| part.repeat(times);
    for (name, source) in [
        ("too many parts", many("(", 50_000)),
        ("parentheses", many("(", 19_000)),
        ("matching parentheses", many("(", 9_000) + "1" + &many(")", 9_000)),
        ("lists", many("[", 19_000)),
        ("maps", many("{1:", 6_000)),
        ("ternaries", many("true?1:", 4_900) + "1"),
        ("sums", many("1+", 9_900) + "1"),
        ("selections", "self".to_owned() + &many(".a", 9_900)),
        ("indexes", "self".to_owned() + &many("[0]", 6_600)),
        ("calls", "self".to_owned() + &many(".a()", 4_900)),
        ("too long", many("a", 100_001)),
        ("nested macros", many("self.all(x,", 2_000) + "true" + &many(")", 2_000)),
        ("doubling macros", "optional.of(1)".to_owned() + &many(".optMap(x,x)", 40)),
        ("unclosed string", "'".to_owned() + &many("a", 99_000)),
        ("errors", many("$ ", 19_000)),
        ("undeclared", many("a&&", 6_000) + "a"),
    ] {
        assert!(compile(&source, &environment()).is_err(), "{name}");
    }
    // And these are as long as they may be.
    for source in
        [many("!", 19_000) + "true", many("true&&", 6_000) + "true", "'".to_owned() + &many("a", 99_000) + "'"]
    {
        let compiled = compile(&source, &environment());
        assert!(compiled.is_ok(), "{}", compiled.unwrap_err());
    }
}

#[test]
fn types_are_bounded() {
    let mut source = "[1]".to_owned();
    for _ in 0..40 {
        source += ".map(x, [{1: x}.map(k, {true: [x, x]}), {1: x}.map(k, {true: [x, x]})])";
    }
    let _ = compile(&source, &environment());
    let mut source = "[true]".to_owned();
    for _ in 0..60 {
        source += ".map(x, [[x].transformMap(i, v, [x])])";
    }
    let _ = compile(&source, &environment());
}

#[test]
fn evaluations_end() {
    let cost = Err(EvalError::Cancelled("operation cancelled: actual cost limit exceeded"));
    let thousand = "lists.range(1000)";
    assert_eq!(run(&format!("{thousand}.all(x, {thousand}.all(y, x + y >= 0))")), cost);
    assert_eq!(run(&format!("{thousand}.map(x, {thousand}).size() > 0")), cost);
    // What the cost model does not see is bounded by memory and steps.
    let grown =
        |result: Result<(), EvalError>| assert!(result.as_ref().is_err_and(EvalError::is_cancelled), "{result:?}");
    let mut replaced = "'aaaaaaaaaa'".to_owned();
    let mut lists = "[[1]]".to_owned();
    for _ in 0..60 {
        lists += ".map(x, x + x + x + x)";
    }
    grown(run(&format!("{lists}[0].size() == 0")));
    for _ in 0..12 {
        replaced += ".replace('a', 'aaaaaaaaaa')";
    }
    grown(run(&format!("{replaced}.size() == 0")));
    let mut nested = "[[1, 1], [1, 1]]".to_owned();
    for _ in 0..30 {
        nested += ".map(x, [x, x])";
    }
    grown(run(&format!("{nested} == {nested}")));
    grown(run("lists.range(1000000000).size() == 0"));
    grown(run("lists.range(9223372036854775807).size() == 0"));
    grown(run(&format!("'%s'.format([{nested}]) == ''")));
}

#[test]
fn regular_expressions_are_bounded() {
    for source in [
        "'a'.matches('((a{1000}){1000}){1000}')",
        "'a'.find('(((((((((((((((((x{9}){9}){9}){9}){9}){9}){9}){9}){9})))))))))')",
    ] {
        assert!(compile(source, &environment()).is_err(), "{source}");
    }
    assert!(
        run("('(a*)*' + 'b').size() > 0 && 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac'.matches('^(a|a)*$')").is_ok()
    );
}
