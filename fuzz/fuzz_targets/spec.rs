//! The kernel that `vm/run.sh --kernel` names: what is understood means the same when it is said again.
#![no_main]
#[allow(dead_code)]
#[path = "../../vm/spec.rs"]
mod spec;

use libfuzzer_sys::fuzz_target;
use spec::Spec;

fuzz_target!(|text: &str| {
    if let Ok(spec) = text.parse::<Spec>() {
        assert_eq!(spec.to_string().parse(), Ok(spec), "{text:?}");
    }
});
