#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Both halves are whole blocks, so that two archives can come of it.
    let middle = bytes.len() / 1024 * 512;
    let (lower, upper) = bytes.split_at(middle);
    hypernetes_image::fuzzing::layers(lower, upper);
});
