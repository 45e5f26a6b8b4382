#!/usr/bin/env bash
# Two hosts: two guests with a wire between them, that may lose, delay and end.
#
# The first command runs on 10.77.0.1, the second one on 10.77.0.2, once each has answered the
# other's ping. What they print comes to stdout with `1 |` and `2 |` in front. The second one's end
# ends the run: a first one that serves for ever is given a moment and then stopped.
set -euo pipefail

readonly EXIT_USAGE=2
readonly GRACE_SECONDS=3
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
readonly here

usage() {
    cat <<END
usage: cargo xtask guest --two [OPTION]... -- COMMAND_1 [ARGUMENT]... -- COMMAND_2 [ARGUMENT]...
Runs one command in each of two guests, rxe0 in both, 10.77.0.1 and 10.77.0.2.

  --time-limit SEC   ends both guests after so long [120]
  --netem WORDS      what the wire does to each packet, both ways, in tc-netem's words
  --cut AFTER+FOR    takes the wire away after so many seconds, for so many: 5+2
  --await-port N     the second command begins once 10.77.0.1 listens on that port
  --out FOLDER       a folder that both guests may write, there /run/guest-out

Exit code: the second command's; that of the first one, if it failed before; run.sh's otherwise.
END
}

fail() {
    echo "two guests: $*" >&2
    exit $EXIT_USAGE
}

time_limit=120 netem='' cut='' port_awaited='' out=''
while (($#)); do
    case $1 in
    --) shift && break ;;
    -h | --help) usage && exit 0 ;;
    --*) (($# > 1)) || fail "$1 has no value; --help tells more" ;;
    *) fail "unknown word '$1'; the commands stand behind '--'" ;;
    esac
    case $1 in
    --time-limit) time_limit=$2 ;;
    --netem) netem=$2 ;;
    --cut) cut=$2 ;;
    --await-port) port_awaited=$2 ;;
    --out) out=$2 ;;
    *) fail "unknown option '$1'; --help tells more" ;;
    esac
    shift 2
done
first=()
while (($#)) && [[ $1 != -- ]]; do
    first+=("$1")
    shift
done
((${#first[@]} && $# > 1)) || fail "two commands are needed, '--' before each; --help tells more"
shift

# guest NUMBER OTHER OPTION... -- COMMAND...
guest() {
    local number=$1 other=$2
    shift 2
    exec "$here/run.sh" --net eth --cpus 1 --memory-mib 1024 --time-limit "$time_limit" \
        --address "10.77.0.$number" --wire "$wires/$number,$wires/$other" \
        ${netem:+--netem "$netem"} --out "$out" "$@"
}

# Ends what is left of the guests; their scripts end QEMU.
# shellcheck disable=SC2317 # The trap below calls it.
clean_up() {
    for pid in "$pid_1" "$pid_2"; do
        [[ -z $pid ]] || kill "$pid" 2>/dev/null || true
    done
    wait
    rm -rf "$wires"
}

pid_1='' pid_2=''
"$here/run.sh"
wires=$(mktemp -d)
trap clean_up EXIT
trap 'exit 130' INT TERM
: "${out:=$wires/out}"
mkdir -p "$out"
guest 1 2 ${cut:+--cut "$cut"} -- "${first[@]}" > >(sed -u 's/^/1 | /') 2>&1 &
pid_1=$!
guest 2 1 ${port_awaited:+--await-port "$port_awaited"} -- "$@" > >(sed -u 's/^/2 | /') 2>&1 &
pid_2=$!

code=0
wait -n -p ended "$pid_1" "$pid_2" || {
    code=$?
    [[ $ended != "$pid_1" ]] || { pid_1='' && exit $code; }
}
code=0
wait "$pid_2" || code=$?
pid_2=''
for ((moment = 0; moment < GRACE_SECONDS * 10; moment++)); do
    kill -0 "$pid_1" 2>/dev/null || break
    sleep 0.1
done
exit $code
