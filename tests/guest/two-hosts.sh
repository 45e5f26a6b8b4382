#!/usr/bin/env bash
# two-hosts.sh SECONDS: a server on one host, a worker on another one, RDMA between them, and a wire
# that delays, loses, and is gone for three seconds while they train. The job must end well.
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
cd "$here/../.."
readonly here gradwire="${CARGO_TARGET_DIR:-target}/release/gradwire"
cargo build --quiet --release # As the gate and a new user do.

name="a job outlives a lossy wire and a cut of it"
code=0
"$here/two.sh" --time-limit "$1" --await-port 7077 --netem 'delay 1ms loss 0.1%' --cut 4+3 -- \
    "$gradwire" serve --listen 10.77.0.1:7077 --cores 1 --insecure --transport verbs -- \
    "$gradwire" train --servers 10.77.0.1:7077 --train 'gen:criteo?rows=300000&seed=1' \
    --workers 1 --transport verbs --log info || code=$?
if ((code == 0)); then
    echo "two hosts: $name ... ok"
else
    echo "two hosts: $name ... FAILED (exit code $code)"
fi
exit "$code"
