//! Files of expectations: refused in one line, or taken and asked.
#![no_main]
use clone3_conformance::expect;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match expect::parse(text) {
        Ok(expectations) => drop(expectations.on("7.1.13+deb13-cloud-amd64", ["autoreap_basic", "nnp_inherited"])),
        Err(error) => assert_eq!(error.lines().count(), 1, "{error}"),
    }
});
