//! Expressions of custom resources and policies: any text, and any tree of the grammar, upon any object.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    hypernetes_cel::fuzzing::expression(data);
    hypernetes_cel::fuzzing::tree(data);
});
