#!/usr/bin/env bash
# Boots many kernels, runs the suite in each and compares what they do. See vm/compare.sh --help.
set -euo pipefail
exec "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/run.sh" compare "$@"
