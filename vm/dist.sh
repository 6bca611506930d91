#!/usr/bin/env bash
# Builds the suite as one static binary that runs on any Linux of its architecture, and names its commit: without an argument
# dist/clone3-conformance for x86-64, with aarch64 dist/clone3-conformance-aarch64 for 64-bit ARM.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=build.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/build.sh"

if (($# > 1)) || [[ ${1-aarch64} != aarch64 ]]; then
    printf 'dist.sh: it takes nothing, for x86-64, or the word aarch64; got: %s\n' "$*" >&2
    exit 2
fi
CLONE3_CONFORMANCE_COMMIT=$(git -C "$project" describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true)
export CLONE3_CONFORMANCE_COMMIT
mkdir -p "$project/dist"
if (($# == 1)); then
    build_static_for aarch64-unknown-linux-gnu --locked --bin clone3-conformance
    made=$project/dist/clone3-conformance-aarch64
    install -m 755 "$built/aarch64-unknown-linux-gnu/release/clone3-conformance" "$made"
    printf '%s\n' "$made"
else
    build_static --locked --bin clone3-conformance
    made=$project/dist/clone3-conformance
    install -m 755 "$released/clone3-conformance" "$made"
    "$made" --version
fi
