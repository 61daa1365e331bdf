#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hypernetes_hyperd::fuzzing::answer(bytes));
