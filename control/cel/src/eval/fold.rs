//! Macros over lists and maps.

use super::{Evaluation, Local};
use crate::errors::{EvalError, Result};
use crate::plan::{Bind, Fold};
use crate::value::{List, Map, Value};

impl<'a> Evaluation<'a> {
    /// The value of a macro's variable; what is bound is evaluated when it is first asked for, as in cel-go.
    pub(super) fn local(&mut self, slot: usize, take: bool) -> Result<Value<'a>> {
        let at = self.base + slot;
        let local = self.locals.get_mut(at).ok_or(EvalError::NO_SUCH_OVERLOAD)?;
        match local {
            Local::Value(value) if take => std::mem::replace(value, Ok(Value::Null)),
            Local::Value(value) => value.clone(),
            Local::Bound(node) => {
                let node = *node;
                let value = self.eval(node);
                self.set(slot, value.clone())?;
                value
            }
        }
    }

    /// An error that ends the evaluation is kept nowhere.
    fn set(&mut self, slot: usize, value: Result<Value<'a>>) -> Result<()> {
        if let Err(error) = &value
            && error.is_cancelled()
        {
            return value.map(|_| ());
        }
        let at = self.base + slot;
        let local = self.locals.get_mut(at).ok_or(EvalError::NO_SUCH_OVERLOAD)?;
        *local = Local::Value(value);
        Ok(())
    }

    pub(super) fn bind(&mut self, bind: &'a Bind) -> Result<Value<'a>> {
        let at = self.base + bind.slot;
        *self.locals.get_mut(at).ok_or(EvalError::NO_SUCH_OVERLOAD)? = Local::Bound(&bind.init);
        self.eval(&bind.result)
    }

    pub(super) fn fold(&mut self, fold: &'a Fold) -> Result<Value<'a>> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        self.set(fold.slot, init)?;
        match range {
            Value::List(list) => self.over_list(fold, &list)?,
            Value::Map(map) => self.over_map(fold, &map)?,
            other if fold.two => {
                return Err(EvalError::new(format!("unsupported comprehension range type: {}", go_name(&other))));
            }
            other => return Err(EvalError::new(format!("got '{}', expected iterable type", go_name(&other)))),
        }
        self.eval(&fold.result)
    }

    fn over_list(&mut self, fold: &'a Fold, list: &List<'a>) -> Result<()> {
        for index in 0..list.len() {
            let Some(item) = list.get(index) else { break };
            if !self.goes_on(fold)? {
                break;
            }
            if fold.two {
                self.set(fold.slot + 1, Ok(Value::Int(index as i64)))?;
                self.set(fold.slot + 2, item)?;
            } else {
                self.set(fold.slot + 1, item)?;
            }
            let gathered = self.eval(&fold.step);
            self.set(fold.slot, gathered)?;
        }
        Ok(())
    }

    fn over_map(&mut self, fold: &'a Fold, map: &Map<'a>) -> Result<()> {
        let keys = map.keys();
        self.context.meter.grow_elements(keys.len())?;
        for key in keys {
            if !self.goes_on(fold)? {
                break;
            }
            if fold.two {
                let value = map.get(&key).unwrap_or(Err(EvalError::NO_SUCH_OVERLOAD));
                self.set(fold.slot + 2, value)?;
            }
            self.set(fold.slot + 1, Ok(key))?;
            let gathered = self.eval(&fold.step);
            self.set(fold.slot, gathered)?;
        }
        Ok(())
    }

    /// `all` and `exists` go on after an error, since a later element may decide.
    fn goes_on(&mut self, fold: &'a Fold) -> Result<bool> {
        Ok(matches!(self.eval(&fold.go_on)?, Value::Bool(true)))
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
