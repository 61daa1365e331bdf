//! What a source may name.

use std::collections::HashMap;
use std::sync::Arc;

use crate::library::{self, Overload};
use crate::types::{Declaration, ObjectType};
use crate::types::{Opaque, Type};

/// The variables of a source, in the order in which an [`Evaluation`](crate::Evaluation) is given their values.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: Vec<Variable>,
    /// Variables that are made of expressions, fields of `variables`: by name the place and type of the last.
    composed: HashMap<String, (usize, Type)>,
    /// How many there are, those that a later one hides included.
    compositions: usize,
    /// Whether objects can be made: `Object{…}`, `JSONPatch{…}`.
    mutates: bool,
}

#[derive(Debug, Clone)]
struct Variable {
    name: &'static str,
    ty: Type,
    /// How large its value can be, for the estimate.
    declaration: Option<Declaration>,
}

/// The types of objects that expressions make: of a whole object, or with the path to it behind, and of an operation.
const OBJECT: &str = "Object";
const JSON_PATCH: &str = "JSONPatch";

/// The variable that composed ones are fields of.
const COMPOSITION: &str = "variables";

impl Environment {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable of a type: `request`, `authorizer`.
    pub fn variable(mut self, name: &'static str, ty: Type) -> Self {
        self.variables.push(Variable { name, ty, declaration: None });
        self
    }

    /// Adds a variable of a schema: `self`, `oldSelf`.
    pub fn declared(mut self, name: &'static str, declaration: &Declaration) -> Self {
        self.variables.push(Variable { name, ty: declaration.ty(), declaration: Some(declaration.clone()) });
        self
    }

    /// Adds a variable of a schema that may have no value: `oldSelf` of a rule with `optionalOldSelf`.
    pub fn optional(mut self, name: &'static str, declaration: &Declaration) -> Self {
        let ty = Type::optional(declaration.ty());
        self.variables.push(Variable { name, ty, declaration: Some(declaration.clone()) });
        self
    }

    /// Adds a variable of the `authorizer` library: an authorizer, or the check of one resource.
    pub fn authorizer(self, name: &'static str, resource: bool) -> Self {
        self.variable(name, Type::Opaque(if resource { Opaque::ResourceCheck } else { Opaque::Authorizer }))
    }

    /// Adds `variables`, if it is not there, and a field of it: the value of the expression that is given in this order to
    /// [`Evaluation::compose`](crate::Evaluation::compose).
    pub fn compose(mut self, name: &str, ty: Type) -> Self {
        if self.index(COMPOSITION).is_none() {
            self = self.variable(COMPOSITION, Type::Opaque(Opaque::Variables));
        }
        self.composed.insert(name.to_owned(), (self.compositions, ty));
        self.compositions += 1;
        self
    }

    /// Takes a variable away; those behind it are a place nearer.
    pub fn without(mut self, name: &str) -> Self {
        self.variables.retain(|variable| variable.name != name);
        self
    }

    /// Lets expressions make objects and patches, as those of mutating policies do.
    pub fn mutates(mut self) -> Self {
        self.mutates = true;
        self
    }

    /// The overloads of a function that may be called here.
    pub(crate) fn function(&self, name: &str) -> Option<&'static [&'static Overload]> {
        if !self.mutates && name.starts_with("jsonpatch.") {
            return None;
        }
        library::find(name)
    }

    /// The type of an object that may be made here.
    pub(crate) fn made(&self, name: &str) -> Option<Type> {
        let known =
            matches!(name, OBJECT | JSON_PATCH) || name.strip_prefix(OBJECT).is_some_and(|rest| rest.starts_with('.'));
        (self.mutates && known).then(|| Type::Made(name.into()))
    }

    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|variable| variable.name == name)
    }

    pub(crate) fn ty(&self, index: usize) -> Option<&Type> {
        self.variables.get(index).map(|variable| &variable.ty)
    }

    /// What is declared of a variable; for a name that is none, of the first: upstream's estimate knows but one root.
    pub(crate) fn declaration(&self, name: &str) -> Option<&Declaration> {
        match self.index(name) {
            Some(index) => self.variables.get(index)?.declaration.as_ref(),
            None => self.variables.iter().find_map(|variable| variable.declaration.as_ref()),
        }
    }

    /// The place and type of a composed variable. A later one of the same name hides an earlier one.
    pub(crate) fn composed(&self, name: &str) -> Option<(usize, &Type)> {
        self.composed.get(name).map(|(place, ty)| (*place, ty))
    }
}

/// The type of a field of an object that is made.
pub(crate) fn made_field_type(name: &str, field: &str) -> Option<Type> {
    match field {
        _ if name != JSON_PATCH => Some(Type::Dyn),
        "op" | "from" | "path" => Some(Type::String),
        "value" => Some(Type::Dyn),
        _ => None,
    }
}

/// The type of a field of an object of one of the libraries or schemas.
pub(crate) fn field_type(object: &Arc<ObjectType>, field: &str) -> Option<Type> {
    object.field(field).map(|field| field.declaration.ty())
}
