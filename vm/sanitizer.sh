#!/usr/bin/env bash
# Builds the suite with AddressSanitizer, boots a kernel and runs the suite in it:
# vm/sanitizer.sh [OPTIONS OF vm/run.sh] [-- RUNNER ARGS]
#
# For changes to `unsafe` code. A sanitizer report aborts the process, and so fails the case.
set -euo pipefail

options=()
while (($# > 0)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
done
# The remaining arguments are for the runner.
(($# == 0)) || shift

# shellcheck source-path=SCRIPTDIR source=build.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/build.sh"

build_static --bin clone3-vm

# The sanitizer needs the shared C library, which --carry puts into the guest. -Zsanitizer is an unstable option; RUSTC_BOOTSTRAP
# makes a stable compiler accept it.
guest=/suite/carried
target=x86_64-unknown-linux-gnu
loader=ld-linux-x86-64.so.2
flags=(-Zsanitizer=address "-Clink-arg=-Wl,-rpath,$guest" "-Clink-arg=-Wl,--dynamic-linker,$guest/$loader")
RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" cargo build --quiet --bin clone3-conformance \
    --manifest-path "$project/Cargo.toml" --target "$target" --target-dir "$built-sanitizer"
suite=$built-sanitizer/$target/debug/clone3-conformance

carry=(--carry "/lib64/$loader")
for library in libc.so.6 libm.so.6 libgcc_s.so.1; do
    carry+=(--carry "$(cc -print-file-name="$library")")
done

# The sanitizer prevents the process from dumping a core of many terabytes.
exec "$released/clone3-vm" --engine qemu --memory 4G --timeout 1800 --suite "$suite" "${carry[@]}" "${options[@]}" \
    -- --timeout-scale 3 --skip coredump --skip core_dump --skip global_init "$@"
