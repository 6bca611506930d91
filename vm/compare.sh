#!/usr/bin/env bash
# Boots several kernels, runs the suite in each and compares the results. See vm/compare.sh --help.
set -euo pipefail
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/run.sh" compare "$@"
