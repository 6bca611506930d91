# The static build that every guest gets, for the scripts beside this one: to be sourced.
#
# shellcheck shell=bash disable=SC2034

project=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# A target folder of its own: with other flags in the usual one, cargo would build everything anew each time.
built=${CARGO_TARGET_DIR:-$project/target}/vm
# Where the programs are then.
released=$built/x86_64-unknown-linux-gnu/release

# Says what is wrong with the Rust that is installed here, if anything is. Cargo would say it too, of every package that it builds
# with, and an old one of Cargo.toml itself.
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

# Says so, in one line, if there is no good Rust here.
good_rust() {
    local problem
    problem=$(rust_problem || true)
    [[ -z $problem ]] || printf '%s: %s\n' "${0##*/}" "$problem" >&2
    [[ -z $problem ]]
}

# Builds what it is told to, as arguments of cargo, as static programs.
#
# What they read and execute fills whole huge pages of their file: the guest's kernel then maps each as one piece, which
# spares every process of a case most of its page faults.
build_static() {
    local links=() option
    for option in '-Wl,-z,max-page-size=0x200000' '-Wl,--no-rosegment' "-T$project/vm/huge-pages.ld"; do
        links+=(-C "link-arg=$option")
    done
    build_with x86_64-unknown-linux-gnu "${links[@]}" -- "$@"
}

# The same for another target of Rust's, without the huge pages.
build_static_for() {
    local target=$1
    shift
    # The C compiler is there to link, and has the C library.
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

# Builds static programs for a target, with further flags of the compiler; behind the -- are cargo's arguments.
build_with() {
    local target=$1 flags=(-C target-feature=+crt-static -C relocation-model=static)
    shift
    while [[ $1 != -- ]]; do
        flags+=("$1")
        shift
    done
    shift
    good_rust || return 3
    local IFS=$'\x1f'
    CARGO_ENCODED_RUSTFLAGS="${flags[*]}" cargo build --quiet --release --manifest-path "$project/Cargo.toml" \
        --target "$target" --target-dir "$built" "$@"
}

# Installs system packages, as root or by a sudo that asks for no password; fails with a line that says what is missing.
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
    local install=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    if ! "${install[@]}" install --yes "$@" >&2 &&
        ! { "${install[@]}" update && "${install[@]}" install --yes "$@"; } >&2; then
        printf '%s: cannot install %s\n' "${0##*/}" "$*" >&2
        return 1
    fi
}
