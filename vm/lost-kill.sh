#!/usr/bin/env bash
# Reproduces the lost kill deterministically: the last close of an auto-kill pidfd races with the exec of a thread of the child,
# and the child survives. Boots an unmodified kernel, in which a debugger holds one CPU while the other continues.
#
#   vm/lost-kill.sh [--control] [vm/run.sh's options: --kernel SPEC …]
#
# CPU 0 closes the pidfd. pidfs_file_release() has looked up the child's leader thread and calls do_send_sig_info(), where CPU 0
# is held. CPU 1 then runs the exec of another thread of the child, past de_thread(), which releases that leader. Then CPU 0
# continues: do_send_sig_info() finds no sighand to lock and returns -ESRCH (-3), and nothing retries. With --control CPU 0
# continues before the exec gets there, and the child dies.
#
# Exit status: 0 if the child survived, or with --control died; 1 if not; 69 if there is no result.
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
# QEMU dies with the driver.
trap '[[ -z $guest ]] || kill "$guest" 2>/dev/null || true; rm -rf "$scratch"' EXIT
mkfifo "$scratch/output"
"$here/run.sh" --engine qemu --accel tcg --cpus 2 --gdb "$scratch/gdb" \
    --suite "$released/examples/lost-kill" "$@" >"$scratch/output" &
guest=$!

# Holds one CPU while the other passes it. $1: the addresses, as printed by the guest.
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
# The guest's own verdict is the opposite: there, a child that survives is a failure.
wait "$guest" || true
guest=
[[ $status != 69 ]] || no_verdict 'the guest ended without a word about the child'
exit "$status"
