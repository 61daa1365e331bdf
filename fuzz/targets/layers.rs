#![no_main]
libfuzzer_sys::fuzz_target!(|layers: (&[u8], &[u8])| hypernetes_image::fuzzing::layers(layers.0, layers.1));
