//! `Namespace`.

use crate::{
    field::{Errors, Field},
    format,
};

pub(crate) fn create(namespace: &Field<'_>, errors: &mut Errors) {
    let finalizers = namespace.walk(["spec", "finalizers"]);
    for item in finalizers.items() {
        let name = item.text();
        let faults = format::qualified_name(name);
        let good = faults.is_empty();
        faults.into_iter().for_each(|fault| finalizers.invalid_quoted(errors, name, fault));
        if good && !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            finalizers.invalid_quoted(errors, name, why);
        }
    }
}
