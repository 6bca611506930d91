//! A test of every stored fuzz input without a fuzzer: the seeds, and the inputs of earlier findings.
#![forbid(unsafe_code)]
mod properties;

use std::error::Error;
use std::fs;
use std::path::Path;

#[test]
fn kept_inputs_hold() -> Result<(), Box<dyn Error>> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, property) in properties::ALL {
        let mut tried = 0;
        for seed in fs::read_dir(seeds.join(name))? {
            let path = seed?.path();
            println!("{}", path.display());
            property(&fs::read(path)?);
            tried += 1;
        }
        assert!(tried > 0, "no inputs for {name}");
    }
    Ok(())
}
