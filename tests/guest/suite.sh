#!/usr/bin/env bash
# Builds the tests that need real verbs, as the file `suite` lists them, and runs them in one guest;
# then a job on two.
# Where no guest can be had it says so, with the count of tests that were not run, and is content: a
# skip is counted by whoever reads the output, and is not a pass.
#
# Exit code: 0 if all passed or no guest can be had, 1 if a test failed, 2 if the list or a build is
# wrong, 124 past the time limit, which is 10 minutes together.
set -euo pipefail

readonly TIME_LIMIT_SECONDS=480 TWO_HOSTS_SECONDS=120
readonly EXIT_UNAVAILABLE=69
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
readonly here
cd "$here/../.."

fail() {
    echo "guest suite: $*" >&2
    exit 2
}

# Builds all tests, as `cargo test --workspace --release` does, so that what that has built is used.
build_all() {
    artifacts=$(cargo test --workspace --release --no-run \
        --message-format=json-render-diagnostics) || fail "the tests cannot be built"
    # Of all that was built, what its profile calls a test.
    artifacts=$(grep '"overflow_checks":[a-z]*,"test":true}' <<<"$artifacts")
}

# executable PACKAGE TARGET: prints the path of one test target.
executable() {
    local kind name='"name":"[^"]*"' path
    case $2 in
    lib) kind=lib ;;
    bin:?*) kind=bin name="\"name\":\"${2#bin:}\"" ;;
    test:?*) kind=test name="\"name\":\"${2#test:}\"" ;;
    *) fail "'$2' is not lib, bin:NAME or test:NAME" ;;
    esac
    path=$(grep "[#/]$1[@#]" <<<"$artifacts" | grep "\"kind\":\[\"$kind\"\]" | grep "$name" |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p') || true
    [[ -x $path ]] || fail "cargo has built no test executable of $1 $2"
    echo "$path"
}

# Writes a line for each line of the list to $plan: path, part of the names, and what to call it.
# Counts the tests.
build() {
    local package target part more path count artifacts
    build_all
    while read -r package target part more; do
        [[ -n $package && $package != '#'* ]] || continue
        [[ -n $target && -z $more ]] || fail "a line is not PACKAGE TARGET [PART]: $package $target"
        path=$(executable "$package" "$target")
        count=$("$path" --list --format terse ${part:+"$part"} | grep -c ': test$' || true)
        ((count > 0)) || fail "$package $target has no test called '$part'"
        tests_count=$((tests_count + count))
        printf '%s|%s|%s\n' "$path" "$part" "$package $target" >>"$plan/plan"
    done <"$here/suite"
}

plan=$(mktemp -d)
trap 'rm -rf "$plan"' EXIT
tests_count=1 # Two hosts.
build

code=0
"$here/run.sh" 2>"$plan/why" || code=$?
cat "$plan/why" >&2
if ((code == EXIT_UNAVAILABLE)); then
    echo "SKIPPED: $tests_count guest tests: $(tail -n 1 "$plan/why")"
    exit 0
fi
((code == 0)) || exit "$code"
"$here/run.sh" --net rails --time-limit "$TIME_LIMIT_SECONDS" --out "$plan" -- \
    "$here/each.sh" /run/guest-out/plan || code=$?
"$here/two-hosts.sh" "$TWO_HOSTS_SECONDS" || code=$?
exit "$code"
