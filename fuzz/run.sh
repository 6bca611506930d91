#!/usr/bin/env bash
# Builds the fuzz targets with any compiler and runs each: fuzz/run.sh [SECONDS EACH]
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
seconds=${1:-60}

# The instrumentation for which cargo-fuzz requires a nightly compiler. Except for the address sanitizer, a stable one supports it.
coverage=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4)
coverage+=(-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table)
coverage+=(-Cllvm-args=-sanitizer-coverage-trace-compares)
target=x86_64-unknown-linux-gnu
RUSTFLAGS="--cfg fuzzing ${coverage[*]}" \
    cargo build --quiet --target "$target" --target-dir target --bins

log=$(mktemp)
trap 'rm -f "$log"' EXIT
shown='^stat::(number_of_executed|new_units)|ERROR|panicked|BINGO|artifact|^#[0-9]+.DONE'
for name in results expectations report spec; do
    mkdir -p "corpus/$name" "artifacts/$name"
    printf '== %s\n' "$name"
    status=0
    "target/$target/debug/$name" "corpus/$name" "seeds/$name" -max_total_time="$seconds" -artifact_prefix="artifacts/$name/" \
        -max_len=16384 -print_final_stats=1 >"$log" 2>&1 || status=$?
    grep -E "$shown" "$log" || true
    # libFuzzer writes a file for each finding.
    [ -z "$(ls -A "artifacts/$name")" ] || { printf 'found: %s\n' "artifacts/$name"/*; exit 1; }
    if ((status != 0)); then
        printf 'fuzz/run.sh: %s ended with %d and found nothing:\n' "$name" "$status" >&2
        tail -n 5 "$log" >&2
        exit "$status"
    fi
done
