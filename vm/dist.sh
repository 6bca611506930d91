#!/usr/bin/env bash
# Builds the suite, with its commit embedded, as one static binary that runs on any Linux of its architecture: without an argument
# dist/clone3-conformance for x86-64, with aarch64 or riscv64 dist/clone3-conformance-aarch64 or -riscv64.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=build.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/build.sh"

case $#:${1-} in
    0:) target='' ;;
    1:aarch64) target=aarch64-unknown-linux-gnu ;;
    1:riscv64) target=riscv64gc-unknown-linux-gnu ;;
    *)
        printf 'dist.sh: it takes nothing, for x86-64, or one of the words aarch64 and riscv64; got: %s\n' "$*" >&2
        exit 2
        ;;
esac
CLONE3_CONFORMANCE_COMMIT=$(git -C "$project" describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true)
export CLONE3_CONFORMANCE_COMMIT
mkdir -p "$project/dist"
if [[ -n $target ]]; then
    build_static_for "$target" --locked --bin clone3-conformance
    made=$project/dist/clone3-conformance-$1
    install -m 755 "$built/$target/release/clone3-conformance" "$made"
    printf '%s\n' "$made"
else
    build_static --locked --bin clone3-conformance
    made=$project/dist/clone3-conformance
    install -m 755 "$released/clone3-conformance" "$made"
    "$made" --version
fi
