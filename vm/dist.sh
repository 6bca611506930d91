#!/usr/bin/env bash
# Builds the suite as one static binary that runs on any x86-64 Linux, and names its commit: dist/clone3-conformance.
set -euo pipefail

project=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
target=x86_64-unknown-linux-gnu
built=${CARGO_TARGET_DIR:-$project/target}/vm

if (($# > 0)); then
    printf 'dist.sh: it takes no arguments, and puts the binary at dist/clone3-conformance\n' >&2
    exit 2
fi
CLONE3_CONFORMANCE_COMMIT=$(git -C "$project" describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true)
export CLONE3_CONFORMANCE_COMMIT
RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' cargo build --quiet --release --locked \
    --bin clone3-conformance --manifest-path "$project/Cargo.toml" --target "$target" --target-dir "$built"
mkdir -p "$project/dist"
install -m 755 "$built/$target/release/clone3-conformance" "$project/dist/clone3-conformance"
"$project/dist/clone3-conformance" --version
