#!/usr/bin/env bash
# each.sh PLAN: runs test executables one after another, in the guest, and ends as `cargo test` does.
# A line of the plan has a path, a part of the names and what to call it, apart by bars. One that
# fails or hangs does not keep the others from running.
set -uo pipefail

[[ -e /run/guest/net ]] || { echo "each.sh runs in the guest only" >&2 && exit 2; }
readonly EACH_SECONDS_MAX=240
log=$(mktemp)
failed=()
start=$SECONDS
while IFS='|' read -r path part name; do
    printf '\n     Running %s (%s)\n' "$name" "${path##*/}"
    # One at a time: a test may take down the network that another one uses.
    timeout --kill-after=5 $EACH_SECONDS_MAX "$path" --test-threads=1 ${part:+"$part"} </dev/null \
        2>&1 | tee -a "$log"
    code=${PIPESTATUS[0]}
    ((code != 124)) || echo "test result: FAILED. $name did not end within $EACH_SECONDS_MAX s" |
        tee -a "$log"
    ((code == 0)) || failed+=("$name")
done <"$1"

# sum WORD: how many tests have come to that end.
sum() {
    sed -n "s/^test result: .* \([0-9]*\) $1.*/\1/p" "$log" | awk '{ n += $1 } END { print n + 0 }'
}
skipped=$(grep -c 'SKIPPED: ' "$log")
printf '\nguest suite: %d passed, %d failed, %d said SKIPPED, in %d s\n' \
    "$(sum passed)" "$(sum failed)" "$skipped" "$((SECONDS - start))"
((${#failed[@]} == 0)) || { printf 'guest suite: failed: %s\n' "${failed[@]}" && exit 1; }
