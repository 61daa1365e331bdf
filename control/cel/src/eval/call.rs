//! Calls of functions: the overload that the values fit, and its cost.

use super::Evaluation;
use crate::errors::{EvalError, Result};
use crate::library;
use crate::plan::Call;
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
        let cost = call
            .overloads
            .first()
            .map_or(Ok(1), |of| of.cost.actual(known, &args, &Value::Null, &mut self.context.meter))?;
        self.charge(cost)?;
        Err(first.unwrap_or(EvalError::NO_SUCH_OVERLOAD))
    }

    fn apply(&mut self, call: &'a Call, args: &mut [Value<'a>]) -> Result<Value<'a>> {
        let overload = match library::fitting(&call.overloads, args) {
            Ok(overload) => overload,
            Err(error) => {
                let known = call.overloads.len() == 1;
                let cost = call.overloads.first().map(|of| of.cost);
                let cost =
                    cost.map_or(Ok(1), |cost| cost.actual(known, args, &Value::Null, &mut self.context.meter))?;
                self.charge(cost)?;
                return Err(if call.regex.is_some() { EvalError::NO_SUCH_OVERLOAD } else { error });
            }
        };
        let known = call.overloads.len() == 1;
        let before = call.overloads[0].cost;
        let result = match &call.regex {
            Some(pattern) => match pattern.compiled() {
                Some(regex) => library::regex::run_compiled(call.name, &regex, args, &mut self.context),
                None => Err(EvalError::new("Illegal regex: it is too large")),
            },
            None => (overload.run)(&mut self.context, args),
        };
        if let Err(error) = &result
            && error.is_cancelled()
        {
            return result;
        }
        let counted = if known { before } else { overload.cost };
        let cost = counted.actual(known, args, result.as_ref().unwrap_or(&Value::Null), &mut self.context.meter)?;
        self.charge(cost)?;
        result
    }
}
