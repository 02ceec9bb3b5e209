#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| guest_ssh::fuzzing::sftp(bytes));
