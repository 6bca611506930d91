#!/usr/bin/env bash
# Builds the suite as a static binary, boots a kernel and runs the suite in it. See vm/run.sh --help.
set -euo pipefail
project=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")

target=x86_64-unknown-linux-gnu
# A target folder of its own, since other flags would make cargo build everything anew each time.
built=$project/target/vm
RUSTFLAGS='-C target-feature=+crt-static' cargo build --quiet --release --bins \
    --manifest-path "$project/Cargo.toml" --target "$target" --target-dir "$built"
exec "$built/$target/release/clone3-vm" "$@"
