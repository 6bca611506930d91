#!/usr/bin/env bash
# The lost kill, on purpose: the last close of an auto-kill pidfd meets the exec of a thread of the child, and the child
# lives on. An unmodified kernel is booted; a debugger holds one processor while the other goes on.
#
#   vm/lost-kill.sh [--control] [vm/run.sh's options: --kernel SPEC …]
#
# CPU 0 closes the pidfd. pidfs_file_release() has looked up the child's leader thread and calls do_send_sig_info(),
# where CPU 0 is held. CPU 1 then runs the exec of another thread of the child, past de_thread(), which releases that
# leader. Then CPU 0 goes on: do_send_sig_info() finds no signal handlers to lock, returns -ESRCH (-3), and nobody tries
# again. With --control CPU 0 goes on before the exec gets there, and the child dies.
#
# Ends with 0 if the child fared as said: lived, or with --control died. 1 if not, 69 if nothing could be shown.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source-path=SCRIPTDIR source=build.sh
. "$here/build.sh"
lose=1
if [[ ${1-} == --control ]]; then
    lose=0
    shift
fi

no_verdict() {
    printf 'lost-kill.sh: no verdict: %s\n' "$*" >&2
    exit 69
}

command -v gdb >/dev/null || no_verdict 'gdb is not installed here; as root: apt-get install gdb'
build_static --example lost-kill || no_verdict 'the guest does not build'

scratch=$(mktemp -d)
guest=
# The driver ends QEMU with itself.
trap '[[ -z $guest ]] || kill "$guest" 2>/dev/null || true; rm -rf "$scratch"' EXIT
mkfifo "$scratch/output"
"$here/run.sh" --engine qemu --accel tcg --cpus 2 --gdb "$scratch/gdb" \
    --suite "$released/examples/lost-kill" "$@" >"$scratch/output" &
guest=$!

# Holds one processor where the other can pass it. $1: the addresses, as the guest says them.
debug() {
    local place settings=()
    for place in $1; do
        settings+=(-ex "set \$${place%%=*} = ${place#*=}")
    done
    timeout 120 gdb -nx -batch -ex 'set architecture i386:x86-64' "${settings[@]}" -ex "set \$lose = $lose" \
        -ex "target remote $scratch/gdb" -x "$here/lost-kill.gdb" </dev/null 2>&1
}

status=69
while read -r line; do
    printf '%s\n' "$line"
    case $line in
    'ready: '*)
        debug "${line#ready: }" >"$scratch/debugger" || no_verdict "$(cat "$scratch/debugger")"
        grep '^lost-kill: ' "$scratch/debugger" || no_verdict "$(cat "$scratch/debugger")"
        ;;
    'LOST: '*) status=$((!lose)) ;;
    *' is dead '*) status=$((lose)) ;;
    esac
done <"$scratch/output"
# The guest's own verdict is the opposite: that a child lives on is a failure.
wait "$guest" || true
guest=
[[ $status != 69 ]] || no_verdict 'the guest ended without a word about the child'
exit "$status"
