#!/usr/bin/env bash
# Builds the suite as a static binary, boots a kernel and runs the suite in it. See vm/run.sh --help.
#
# This script only builds. The program clone3-vm, from the *.rs files in this folder, finds kernels, boots them and judges.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=build.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/build.sh"

no_verdict() {
    printf 'run.sh: no verdict (build): %s\n' "$1" >&2
    exit 69
}

[[ $(uname -sm) == "Linux x86_64" ]] || no_verdict "this needs Linux on x86-64, not $(uname -sm)"
problem=$(rust_problem || true)
[[ -z $problem ]] || no_verdict "$problem"
build_static --bin clone3-conformance --bin clone3-vm || no_verdict "the suite does not build"

# Set only after the build, so that the suite does not embed the commit: vm/dist.sh builds a suite that does.
CLONE3_CONFORMANCE_COMMIT=$(git -C "$project" describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true)
export CLONE3_CONFORMANCE_COMMIT

# The script that builds the suite for a guest of another architecture.
export CLONE3_BUILD=$project/vm/suite.sh

exec "$released/clone3-vm" "$@"
