#!/usr/bin/env bash
# Builds broken kernels and runs the suite on each. See vm/mutants.sh --help.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=build.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/build.sh"

# The programs that a kernel build needs.
missing=()
for program in flex bison bc make; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[[ -e /usr/include/gelf.h ]] || missing+=(libelf-dev)
# These options build no kernel.
[[ " $* " =~ ' '(--help|-h|--list)' ' ]] && missing=()
((${#missing[@]} == 0)) || install_packages "${missing[@]}" || exit 3

build_static --bins
exec "$released/clone3-mutants" --catalogue "$project/vm/mutants" "$@"
