//! Results files and journals of runs that were cut short: read, written and read again, they stay what they are.
#![no_main]
use clone3_conformance::results::Results;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Results::from_journal(text);
    if let Ok(results) = Results::parse(text) {
        let again = serde_json_text(&results);
        assert_eq!(Results::parse(&again).map(|results| serde_json_text(&results)), Ok(again));
    }
});

fn serde_json_text(results: &Results) -> String {
    clone3_conformance::formats::Format::Json.render(results)
}
