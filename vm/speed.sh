#!/usr/bin/env bash
# Measures how long the suite takes, and how much of that is the machine's boot. See vm/speed.sh --help.
set -euo pipefail
project=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
pairs=6

if [[ ${1-} == --help ]]; then
    cat <<HELP
Usage: vm/speed.sh [OPTIONS OF vm/run.sh]

Measures, in one boot: a bare fork, an empty case through the sandbox, the 19 scenarios of the kernel's selftest, all cases.
Then, $pairs times each, with the means: how long a boot takes to an init that restarts at once, on the suite's usual machine
and, half as often, on a plain one (--plain), and how long vm/run.sh takes from power-on to the verdict on the 19 scenarios. All
with QEMU.

Exit status: as vm/run.sh.
HELP
    exit
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

suite() {
    "$project/vm/run.sh" --engine qemu "$@"
}

milliseconds_since() {
    local now=$EPOCHREALTIME
    # The decimal point depends on the locale.
    printf '%s\n' $(((${now/[.,]/} - ${1/[.,]/}) / 1000))
}

# An init that restarts the machine never runs a case. vm/run.sh reports that, and would boot again.
bare_boot() {
    local begin=$EPOCHREALTIME line
    exec {said}< <(exec "$project/vm/run.sh" --engine qemu "$@" --suite "$folder/init" 2>&1)
    local pid=$!
    while read -r line; do
        if [[ $line == *'booting again'* ]]; then
            milliseconds_since "$begin"
            kill "$pid"
            wait "$pid" || true
            exec {said}<&-
            return
        fi
    done <&"$said"
    printf 'speed.sh: the guest did not restart at once\n' >&2
    exit 69
}

verdict() {
    local begin=$EPOCHREALTIME status=0
    suite "$@" -- --upstream >"$folder/said" 2>&1 || status=$?
    if ((status != 0)); then
        cat "$folder/said" >&2
        exit "$status"
    fi
    milliseconds_since "$begin"
}

mean() {
    awk '{ sum += $1 } END { printf "%d\n", sum / NR }' "$1"
}

suite "$@" -- --speed

printf '#include <sys/reboot.h>\nint main(void) { return reboot(RB_AUTOBOOT); }\n' >"$folder/init.c"
cc -static -O2 -o "$folder/init" "$folder/init.c"
# Vary the order: on some machines, every other boot is a tenth slower than the one before.
for ((pair = 0; pair < pairs; pair += 2)); do
    bare_boot "$@" >>"$folder/bare"
    verdict "$@" >>"$folder/verdict"
    verdict "$@" >>"$folder/verdict"
    bare_boot "$@" >>"$folder/bare"
    bare_boot "$@" --plain >>"$folder/plain"
done
verdict=$(mean "$folder/verdict")
for kind in bare plain; do
    boot=$(mean "$folder/$kind")
    printf '%-44s %19d ms\n' "boot to an init that restarts at once, $kind" "$boot"
    printf '%-44s %19d.%02d\n' "    the verdict in $kind boots" $((verdict / boot)) $((verdict * 100 / boot % 100))
done
printf '%-44s %19d ms\n' 'power-on to the verdict on the 19' "$verdict"
