#!/usr/bin/env bash
# Builds the suite for a guest of another architecture, and prints its path, for clone3-vm. Usage: vm/suite.sh TARGET
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=build.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/build.sh"

if (($# != 1)); then
    printf 'suite.sh: it takes a target as Rust calls it, such as aarch64-unknown-linux-gnu\n' >&2
    exit 2
fi
build_static_for "$1" --bin clone3-conformance
printf '%s\n' "$built/$1/release/clone3-conformance"
