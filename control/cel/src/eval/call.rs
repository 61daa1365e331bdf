//! Calls of functions: the overload that the values fit, and its cost.

use super::Evaluation;
use crate::errors::{EvalError, Result};
use crate::library;
use crate::plan::{Call, Node};
use crate::value::Value;

impl<'a> Evaluation<'a> {
    /// Calls with one or two arguments evaluate them all, whatever is wrong with the first; those with more do not.
    pub(super) fn call(&mut self, call: &'a Call) -> Result<Value<'a>> {
        match &call.args[..] {
            [] => self.apply(call, &mut []),
            [only] => {
                let value = self.eval(only);
                match value {
                    Ok(value) => self.apply(call, &mut [value]),
                    Err(error) if error.is_cancelled() => Err(error),
                    Err(error) => self.wrong(call, [Err(error)]),
                }
            }
            [left, right] => {
                let left = self.eval(left);
                if left.as_ref().is_err_and(EvalError::is_cancelled) {
                    return left;
                }
                let right = self.eval(right);
                match (left, right) {
                    (Ok(left), Ok(right)) => self.apply(call, &mut [left, right]),
                    (_, Err(error)) if error.is_cancelled() => Err(error),
                    (left, right) => self.wrong(call, [left, right]),
                }
            }
            args => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(self.eval(arg)?);
                }
                self.apply(call, &mut values)
            }
        }
    }

    /// A call with an argument that is an error is that error, and is counted all the same; errors have no size.
    fn wrong<const N: usize>(&mut self, call: &'a Call, args: [Result<Value<'a>>; N]) -> Result<Value<'a>> {
        let mut first = None;
        let args = args.map(|arg| {
            arg.unwrap_or_else(|error| {
                first.get_or_insert(error);
                Value::Null
            })
        });
        let known = call.overloads.len() == 1;
        let cost = call.overloads.first().map_or(Ok(1), |of| of.cost.actual(known, &args, &Value::Null, self))?;
        self.charge(cost)?;
        Err(first.unwrap_or(EvalError::NO_SUCH_OVERLOAD))
    }

    fn apply(&mut self, call: &'a Call, args: &mut [Value<'a>]) -> Result<Value<'a>> {
        let fitting = call.overloads.iter().find(|overload| {
            overload.args.len() == args.len() && overload.args.iter().zip(&*args).all(|(sig, arg)| sig.accepts(arg))
        });
        let Some(overload) = fitting else {
            self.charge(1)?;
            return Err(no_overload(call.name, args));
        };
        let known = call.overloads.len() == 1;
        let before = call.overloads[0].cost;
        let result = match &call.regex {
            Some(regex) => library::regex::run_compiled(call.name, regex, args, self),
            None => (overload.run)(self, args),
        };
        if let Err(error) = &result
            && error.is_cancelled()
        {
            return result;
        }
        let counted = if known { before } else { overload.cost };
        let cost = counted.actual(known, args, result.as_ref().unwrap_or(&Value::Null), self)?;
        self.charge(cost)?;
        result
    }
}

impl Evaluation<'static> {
    /// The value of a call whose arguments are constants.
    pub(super) fn call_constant(&mut self, call: &Call) -> Result<Value<'static>> {
        let mut args: Vec<Value<'static>> = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            match arg {
                Node::Constant(value) => args.push(value.clone()),
                _ => return Err(EvalError::NO_SUCH_OVERLOAD),
            }
        }
        let fitting = call.overloads.iter().find(|overload| {
            overload.args.len() == args.len() && overload.args.iter().zip(&args).all(|(sig, arg)| sig.accepts(arg))
        });
        match fitting {
            Some(overload) => (overload.run)(self, &mut args),
            None => Err(no_overload(call.name, &args)),
        }
    }
}

/// The message depends on how cel-go implements the function: by what its values can, or by overloads.
fn no_overload(name: &str, args: &[Value<'_>]) -> EvalError {
    if name.starts_with(['_', '!', '-', '@']) || matches!(name, "contains" | "startsWith" | "endsWith" | "matches") {
        return EvalError::NO_SUCH_OVERLOAD;
    }
    if name == "size" {
        return EvalError::new("no such overload: size");
    }
    let types: Vec<&str> = args.iter().map(Value::type_name).collect();
    EvalError::new(format!("no such overload: {name}({})", types.join(", ")))
}
