#!/usr/bin/env bash
# Builds broken kernels and runs the suite on each. See vm/mutants.sh --help.
set -euo pipefail
project=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

target=x86_64-unknown-linux-gnu
# The target folder of vm/run.sh: the same programs, built in the same way.
built=$project/target/vm
RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' cargo build --quiet --release --bins \
    --manifest-path "$project/Cargo.toml" --target "$target" --target-dir "$built"
exec "$built/$target/release/clone3-mutants" --catalogue "$project/vm/mutants" "$@"
