#!/usr/bin/env bash
# Builds the suite as a static binary, boots a kernel and runs the suite in it. See vm/run.sh --help.
#
# This script only builds: what finds kernels, boots them and judges is the program clone3-vm, from the *.rs beside it.
set -euo pipefail

project=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
target=x86_64-unknown-linux-gnu
# A target folder of its own: with other flags in the usual one, cargo would build everything anew each time.
built=${CARGO_TARGET_DIR:-$project/target}/vm

no_verdict() {
    printf 'run.sh: no verdict (build): %s\n' "$1" >&2
    exit 69
}

# Installs a system package, as root or by a sudo that asks for no password.
install_package() {
    local root=()
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || no_verdict "not installed here: $1; as root: apt-get install $1"
        root=(sudo -n)
    fi
    printf 'run.sh: installing the system package %s\n' "$1" >&2
    local install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    "${install[@]}" install --yes "$1" >&2 ||
        { "${install[@]}" update && "${install[@]}" install --yes "$1"; } >&2 ||
        no_verdict "cannot install $1"
}

[[ $(uname -sm) == "Linux x86_64" ]] || no_verdict "this needs Linux on x86-64, not $(uname -sm)"
command -v cargo >/dev/null || no_verdict "cargo is not installed here; see https://rustup.rs for Rust"
command -v cc >/dev/null || install_package build-essential

RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' cargo build --quiet --release --bins \
    --manifest-path "$project/Cargo.toml" --target "$target" --target-dir "$built" ||
    no_verdict "the suite does not build"

# After the build, which is none of its business: a suite that names its commit is built by vm/dist.sh.
CLONE3_CONFORMANCE_COMMIT=$(git -C "$project" describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || true)
export CLONE3_CONFORMANCE_COMMIT

exec "$built/$target/release/clone3-vm" "$@"
