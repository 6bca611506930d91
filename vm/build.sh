# Static builds for guests, for the scripts in this folder; to be sourced.
#
# shellcheck shell=bash disable=SC2034

project=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# Use a separate target folder: other flags in the default one would make cargo rebuild everything each time.
built=${CARGO_TARGET_DIR:-$project/target}/vm
# Where cargo puts the programs.
released=$built/x86_64-unknown-linux-gnu/release

# Prints what is wrong with the installed Rust, if anything. Cargo would also report it, but for every package it builds, and an
# old version would only complain about Cargo.toml.
rust_problem() {
    local needed found
    needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$project/Cargo.toml")
    found=$(rustc --version 2>/dev/null | cut -d ' ' -f 2)
    if ! command -v cargo >/dev/null || [[ -z $found ]]; then
        printf 'this needs Rust %s or newer, and none is installed here; see https://rustup.rs' "$needed"
    elif [[ $(printf '%s\n' "$needed" "$found" | sort -V | head -n 1) != "$needed" ]]; then
        printf 'this needs Rust %s or newer, and %s is installed here; see https://rustup.rs' "$needed" "$found"
    fi
}

# Checks that there is a suitable Rust, and otherwise prints one line.
good_rust() {
    local problem
    problem=$(rust_problem || true)
    [[ -z $problem ]] || printf '%s: %s\n' "${0##*/}" "$problem" >&2
    [[ -z $problem ]]
}

# Builds static programs; the arguments are cargo's.
#
# Their code and read-only data fill whole huge pages of the file, so that the guest's kernel maps each as one unit, which saves
# every process of a case most of its page faults.
build_static() {
    local links=() option
    for option in '-Wl,-z,max-page-size=0x200000' '-Wl,--no-rosegment' "-T$project/vm/huge-pages.ld"; do
        links+=(-C "link-arg=$option")
    done
    build_with x86_64-unknown-linux-gnu "${links[@]}" -- "$@"
}

# Builds static programs for another target triple, without the huge pages.
build_static_for() {
    local target=$1
    shift
    # The C compiler is used as linker, and provides the C library.
    local -A compilers=(
        [aarch64-unknown-linux-gnu]='aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross'
        [riscv64gc-unknown-linux-gnu]='riscv64-linux-gnu-gcc gcc-riscv64-linux-gnu libc6-dev-riscv64-cross'
    )
    local compiler
    read -ra compiler <<<"${compilers[$target]-}"
    if ((${#compiler[@]} == 0)); then
        printf '%s: no guest of the target %s can be had, but of these: %s\n' "${0##*/}" "$target" "${!compilers[*]}" >&2
        return 2
    fi
    good_rust || return 3
    if [[ ! -d $("${RUSTC:-rustc}" --print target-libdir --target "$target") ]]; then
        printf '%s: Rust has no library for %s here: rustup target add %s\n' "${0##*/}" "$target" "$target" >&2
        return 3
    fi
    [[ -e $("${compiler[0]}" -print-file-name=libc.a 2>/dev/null) ]] ||
        install_packages "${compiler[@]:1}" || return 3
    build_with "$target" -C "linker=${compiler[0]}" -- "$@"
}

# Builds static programs for a target, with additional compiler flags; cargo's arguments follow the --.
build_with() {
    local target=$1 flags=(-C target-feature=+crt-static -C relocation-model=static)
    shift
    while [[ $1 != -- ]]; do
        flags+=("$1")
        shift
    done
    shift
    good_rust || return 3
    command -v cc >/dev/null || install_packages build-essential || return 3
    local IFS=$'\x1f'
    CARGO_ENCODED_RUSTFLAGS="${flags[*]}" cargo build --quiet --release --manifest-path "$project/Cargo.toml" \
        --target "$target" --target-dir "$built" "$@"
}

# Installs system packages, as root or with a passwordless sudo; otherwise prints what is missing and fails.
install_packages() {
    local root=()
    if ((EUID != 0)); then
        if ! sudo -n true 2>/dev/null; then
            printf '%s: not installed here: %s; as root: apt-get install %s\n' "${0##*/}" "$*" "$*" >&2
            return 1
        fi
        root=(sudo -n)
    fi
    printf '%s: installing system packages: %s\n' "${0##*/}" "$*" >&2
    local install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
    if ! "${install[@]}" install --yes "$@" >&2 &&
        ! { "${install[@]}" update && "${install[@]}" install --yes "$@"; } >&2; then
        printf '%s: cannot install %s\n' "${0##*/}" "$*" >&2
        return 1
    fi
}
