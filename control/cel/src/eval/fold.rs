//! Macros over lists and maps.

use super::Evaluation;
use crate::errors::{EvalError, Result};
use crate::plan::{Bind, Fold};
use crate::value::{List, Map, Value};

impl<'a> Evaluation<'a> {
    fn set(&mut self, slot: usize, value: Value<'a>) {
        let at = self.base + slot;
        if self.locals.len() <= at {
            self.locals.resize(at + 1, Value::Null);
        }
        self.locals[at] = value;
    }

    pub(super) fn bind(&mut self, bind: &'a Bind) -> Result<Value<'a>> {
        let value = self.eval(&bind.init)?;
        self.set(bind.slot, value);
        self.eval(&bind.result)
    }

    pub(super) fn fold(&mut self, fold: &'a Fold) -> Result<Value<'a>> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        self.set(fold.slot, init);
        // What an accumulator holds may be an error that a later step absorbs.
        let mut wrong = None;
        match range {
            Value::List(list) => self.over_list(fold, &list, &mut wrong)?,
            Value::Map(map) => self.over_map(fold, &map, &mut wrong)?,
            other if fold.two => {
                return Err(EvalError::new(format!("unsupported comprehension range type: {}", go_name(&other))));
            }
            other => return Err(EvalError::new(format!("got '{}', expected iterable type", go_name(&other)))),
        }
        match wrong {
            Some(error) => Err(error),
            None => self.eval(&fold.result),
        }
    }

    fn over_list(&mut self, fold: &'a Fold, list: &List<'a>, wrong: &mut Option<EvalError>) -> Result<()> {
        for index in 0..list.len() {
            let Some(item) = list.get(index) else { break };
            let go_on = if fold.two {
                self.set(fold.slot + 1, Value::Int(index as i64));
                self.round(fold, fold.slot + 2, item, wrong)?
            } else {
                self.round(fold, fold.slot + 1, item, wrong)?
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn over_map(&mut self, fold: &'a Fold, map: &Map<'a>, wrong: &mut Option<EvalError>) -> Result<()> {
        let keys = map.keys();
        self.grow_elements(keys.len())?;
        for key in keys {
            let go_on = if fold.two {
                let value = map.get(&key).unwrap_or(Err(EvalError::NO_SUCH_OVERLOAD));
                self.set(fold.slot + 1, key);
                self.round(fold, fold.slot + 2, value, wrong)?
            } else {
                self.round(fold, fold.slot + 1, Ok(key), wrong)?
            };
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// One round; whether there is a next one.
    fn round(
        &mut self,
        fold: &'a Fold,
        slot: usize,
        item: Result<Value<'a>>,
        wrong: &mut Option<EvalError>,
    ) -> Result<bool> {
        match (self.eval_condition(fold, wrong)?, item) {
            (false, _) => return Ok(false),
            (true, Ok(item)) => self.set(slot, item),
            (true, Err(error)) => {
                *wrong = Some(error);
                return Ok(true);
            }
        }
        match self.step_of(fold, wrong) {
            Ok(value) => {
                *wrong = None;
                self.set(fold.slot, value);
            }
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => *wrong = Some(error),
        }
        Ok(true)
    }

    /// `all` and `exists` go on after an error, since a later element may decide; the others end with it.
    fn eval_condition(&mut self, fold: &'a Fold, wrong: &Option<EvalError>) -> Result<bool> {
        if wrong.is_some() {
            // cel-go counts the look at the accumulator, too.
            self.charge(if matches!(fold.go_on, crate::plan::Node::NotStrictlyFalse(_)) { 2 } else { 0 })?;
            return Ok(matches!(fold.go_on, crate::plan::Node::NotStrictlyFalse(_)));
        }
        Ok(matches!(self.eval(&fold.go_on)?, Value::Bool(true)))
    }

    /// The step, when what was gathered before is an error: the new term decides, or the error stays.
    fn step_of(&mut self, fold: &'a Fold, wrong: &Option<EvalError>) -> Result<Value<'a>> {
        use crate::plan::Node;
        let Some(before) = wrong else { return self.eval(&fold.step) };
        let (terms, decides) = match &fold.step {
            Node::And(terms) => (terms, false),
            Node::Or(terms) => (terms, true),
            _ => return Err(before.clone()),
        };
        self.charge(1)?;
        match self.eval(&terms.1) {
            Ok(Value::Bool(value)) if value == decides => Ok(Value::Bool(decides)),
            Err(error) if error.is_cancelled() => Err(error),
            _ => Err(before.clone()),
        }
    }
}

/// What cel-go calls the type of a value that it implements.
fn go_name(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "types.Null",
        Value::Bool(_) => "types.Bool",
        Value::Int(_) => "types.Int",
        Value::Uint(_) => "types.Uint",
        Value::Double(_) => "types.Double",
        Value::String(_) => "types.String",
        Value::Bytes(_) => "types.Bytes",
        Value::Duration(_) => "types.Duration",
        Value::Timestamp(_) => "types.Timestamp",
        Value::Type(_) => "*types.Type",
        Value::Optional(_) => "*types.Optional",
        other => other.type_name(),
    }
}
