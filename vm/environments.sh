#!/usr/bin/env bash
# Boots a kernel and runs the suite in it in a series of hostile environments. See vm/environments.sh --help.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=build.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/build.sh"

if [[ ${1-} == --help ]]; then
    cat <<'HELP'
Usage: vm/environments.sh [OPTIONS OF vm/run.sh] [-- [--quick] [--markdown] [ROW…]]

Boots a kernel, and runs the suite in it in every environment of the table in vm/environments/table.rs: as an ordinary
user, behind a seccomp filter, without /proc … In each, no case may fail, blocked cases must give the right reason, the
cases that must still pass must pass, and nothing may be left behind.

Two rows run the suite under strace and under gdb, if they are installed here (gdb-minimal, which has no Python).

  --quick      a few cases of every theme instead of all
  --markdown   print docs/environments.md at the end
  ROW          only the environments whose name contains that

Exit status: as vm/run.sh; 1 means that a row is wrong.
HELP
    exit
fi

build_static --bin clone3-conformance --bin clone3-vm --example environments --example self-test

# If strace and gdb are installed here, they go into the guest too, with their libraries. A gdb with Python would need many more
# files; gdb-minimal has no Python.
carried=("$released/clone3-conformance" "$released/examples/self-test")
tools=()
if command -v strace >/dev/null; then
    tools+=("$(command -v strace)")
fi
if command -v gdb >/dev/null && gdb -nx -batch --configuration | grep -q -e --without-python; then
    tools+=("$(command -v gdb)")
fi
if ((${#tools[@]} > 0)); then
    mapfile -t libraries < <(ldd "${tools[@]}" | grep -o '/[^ ]* (0x' | cut -d ' ' -f 1 | sort -u)
    carried+=("${tools[@]}" "${libraries[@]}")
fi
exec "$released/clone3-vm" --engine qemu --timeout 3600 --suite "$released/examples/environments" "${carried[@]/#/--carry=}" "$@"
