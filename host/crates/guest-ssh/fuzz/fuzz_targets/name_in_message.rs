#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| guest_ssh::fuzzing::name_in_message(bytes));
