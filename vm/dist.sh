#!/usr/bin/env bash
# Builds the suite as one static binary that runs on any x86-64 Linux, and names its commit: dist/clone3-conformance.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=build.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/build.sh"

if (($# > 0)); then
    printf 'dist.sh: it takes no arguments, and puts the binary at dist/clone3-conformance\n' >&2
    exit 2
fi
CLONE3_CONFORMANCE_COMMIT=$(git -C "$project" describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true)
export CLONE3_CONFORMANCE_COMMIT
build_static --locked --bin clone3-conformance
mkdir -p "$project/dist"
install -m 755 "$released/clone3-conformance" "$project/dist/clone3-conformance"
"$project/dist/clone3-conformance" --version
