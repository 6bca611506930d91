//! The properties that must hold for any input. The fuzz targets try new inputs, and a test tries the stored
//! ones.

#[allow(dead_code)]
#[path = "../vm/arch.rs"]
mod arch;
#[allow(dead_code)]
#[path = "../vm/spec.rs"]
mod spec;

use clone3_conformance::expect;
use clone3_conformance::formats::Format;
use clone3_conformance::need::Need;
use clone3_conformance::results::Results;
use clone3_conformance::sandbox::is_report;
use spec::{Spec, USUAL_FLAVOR};

/// A property, with the name of its fuzz target and of its directory of seeds.
pub type Property = (&'static str, fn(&[u8]));

/// All properties.
pub const ALL: [Property; 4] =
    [("results", results), ("expectations", expectations), ("report", report), ("spec", spec_of)];

/// Checks results files and journals of interrupted runs: parsed, written and parsed again, they stay the
/// same.
pub fn results(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Results::from_journal(text);
    if let Ok(results) = Results::parse(text) {
        let again = Format::Json.render(&results);
        assert_eq!(Results::parse(&again).map(|results| Format::Json.render(&results)), Ok(again));
    }
}

/// Checks files of expectations: they are rejected with a one-line error, or can be queried.
pub fn expectations(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match expect::parse(text) {
        Ok(expectations) => {
            let cases = [("autoreap_basic", &[Need::Autoreap][..]), ("nnp_inherited", &[Need::Nnp])];
            drop(expectations.on("7.1.13+deb13-cloud-amd64", cases));
        }
        Err(error) => assert_eq!(error.lines().count(), 1, "{error}"),
    }
}

/// Checks the data from a case's verdict channel: it is a report, or is rejected with a one-line error.
pub fn report(bytes: &[u8]) {
    if let Err(error) = is_report(bytes, 42) {
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// Checks the kernel specification of `vm/run.sh --kernel`: formatted and parsed again, it means the same.
pub fn spec_of(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // The default flavor is left out of the text.
    let parse = |text: &str| text.parse::<Spec>().map(|spec| spec.or_flavor(USUAL_FLAVOR));
    if let Ok(spec) = parse(text) {
        assert_eq!(parse(&spec.to_string()), Ok(spec), "{text:?}");
    }
}
