//! What must hold whatever the bytes are: the fuzz targets try new ones, and a test those that are kept here.

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
use spec::Spec;

/// A property, by the name of its target and of its folder of seeds.
pub type Property = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Property; 4] =
    [("results", results), ("expectations", expectations), ("report", report), ("spec", spec_of)];

/// Results files and journals of runs that were cut short: read, written and read again, they stay what they are.
pub fn results(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Results::from_journal(text);
    if let Ok(results) = Results::parse(text) {
        let again = Format::Json.render(&results);
        assert_eq!(Results::parse(&again).map(|results| Format::Json.render(&results)), Ok(again));
    }
}

/// Files of expectations: refused in one line, or taken and asked.
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

/// What comes over a case's verdict channel: a report, or garbage of which a line can be told.
pub fn report(bytes: &[u8]) {
    if let Err(error) = is_report(bytes, 42) {
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// The kernel that `vm/run.sh --kernel` names: what is understood means the same when it is said again.
pub fn spec_of(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(spec) = text.parse::<Spec>() {
        assert_eq!(spec.to_string().parse(), Ok(spec), "{text:?}");
    }
}
