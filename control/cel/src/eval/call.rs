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
                let value = self.argument(value)?;
                self.apply(call, &mut [value])
            }
            [left, right] => {
                let left = self.eval(left);
                if let Err(error) = &left
                    && error.is_cancelled()
                {
                    return left;
                }
                let right = self.eval(right);
                let left = self.argument(left)?;
                let right = self.argument(right)?;
                self.apply(call, &mut [left, right])
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

    /// A call whose argument is an error is counted all the same.
    fn argument(&mut self, value: Result<Value<'a>>) -> Result<Value<'a>> {
        match value {
            Err(error) if !error.is_cancelled() => {
                self.charge(1)?;
                Err(error)
            }
            other => other,
        }
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
