//! Whether a type fits another, and what the checker's variables stand for then.

use std::collections::HashMap;

use crate::types::Type;

/// What the variables stand for.
#[derive(Debug, Default)]
pub(super) struct Substitution {
    types: HashMap<u32, Type>,
    next: u32,
    /// What stood before, to be put back when a later part does not fit.
    undo: Vec<(u32, Option<Type>)>,
}

impl Substitution {
    pub fn fresh(&mut self) -> u32 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// So many variables; the number of the first.
    pub fn fresh_many(&mut self, count: u32) -> u32 {
        let first = self.next;
        self.next += count;
        first
    }

    /// Whether `value` fits `expected`; if so, variables stand for what that takes, and if not, nothing has changed.
    pub fn assign(&mut self, value: &Type, expected: &Type) -> bool {
        self.assign_all(std::slice::from_ref(value), std::slice::from_ref(expected))
    }

    pub fn assign_all(&mut self, values: &[Type], expected: &[Type]) -> bool {
        if values.len() != expected.len() {
            return false;
        }
        self.undo.clear();
        if values.iter().zip(expected).all(|(value, expected)| self.fits(value, expected)) {
            return true;
        }
        while let Some((number, before)) = self.undo.pop() {
            match before {
                Some(ty) => self.types.insert(number, ty),
                None => self.types.remove(&number),
            };
        }
        false
    }

    fn let_stand(&mut self, number: u32, ty: Type) {
        let before = self.types.insert(number, ty);
        self.undo.push((number, before));
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Variable(number) = b {
            let (fits, known) = self.stand(a, *number);
            if fits {
                return true;
            }
            if known {
                return false;
            }
        }
        if let Type::Variable(number) = a {
            return self.stand(b, *number).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => {
                matches!(
                    other,
                    Type::Null
                        | Type::Optional(_)
                        | Type::Object(_)
                        | Type::Made(_)
                        | Type::Opaque(_)
                        | Type::Duration
                        | Type::Timestamp
                )
            }
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            _ => a == b,
        }
    }

    /// Whether a variable may stand for a type, and whether it stands for one already.
    fn stand(&mut self, ty: &Type, number: u32) -> (bool, bool) {
        if *ty == Type::Variable(number) {
            return (true, true);
        }
        if let Some(known) = self.types.get(&number).cloned() {
            if *ty == known {
                return (true, true);
            }
            if !self.fits(ty, &known) {
                return (false, true);
            }
            let general = if general(ty, &known) { ty.clone() } else { known };
            if !self.occurs(number, &general) {
                self.let_stand(number, general);
            }
            return (true, true);
        }
        if self.occurs(number, ty) {
            return (false, false);
        }
        self.let_stand(number, ty.clone());
        (true, false)
    }

    fn occurs(&self, number: u32, within: &Type) -> bool {
        match within {
            Type::Variable(other) if *other == number => true,
            Type::Variable(other) => self.types.get(other).is_some_and(|known| self.occurs(number, known)),
            Type::List(of) | Type::Optional(of) | Type::Type(Some(of)) => self.occurs(number, of),
            Type::Map(entry) => self.occurs(number, &entry.0) || self.occurs(number, &entry.1),
            _ => false,
        }
    }

    /// The type with what its variables stand for; those that stand for nothing stay, or are `dyn`.
    pub fn resolve(&self, ty: &Type, unknown_is_dyn: bool) -> Type {
        match ty {
            Type::Variable(number) => match self.types.get(number) {
                Some(known) => self.resolve(known, unknown_is_dyn),
                None if unknown_is_dyn => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(of) => Type::list(self.resolve(of, unknown_is_dyn)),
            Type::Optional(of) => Type::optional(self.resolve(of, unknown_is_dyn)),
            Type::Type(Some(of)) => Type::Type(Some(self.resolve(of, unknown_is_dyn).into())),
            Type::Map(entry) => {
                Type::map(self.resolve(&entry.0, unknown_is_dyn), self.resolve(&entry.1, unknown_is_dyn))
            }
            _ => ty.clone(),
        }
    }
}

/// The more general of two types that fit each other.
pub(super) fn most_general(a: Type, b: Type) -> Type {
    if general(&a, &b) { a } else { b }
}

/// Whether `a` is `b` or says less.
fn general(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Variable(_), _) => true,
        (_, Type::Dyn | Type::Variable(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => general(a, b),
        (Type::Map(a), Type::Map(b)) => general(&a.0, &b.0) && general(&a.1, &b.1),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}
