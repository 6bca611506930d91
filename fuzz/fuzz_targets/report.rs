//! What comes over a case's verdict channel: a report, or garbage of which a line can be told.
#![no_main]
use clone3_conformance::sandbox::is_report;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = is_report(bytes, 42) {
        assert_eq!(error.lines().count(), 1, "{error}");
    }
});
