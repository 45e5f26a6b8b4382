#!/usr/bin/env bash
# Runs a command of this machine in a throw-away guest that has real verbs: QEMU by software
# emulation (no /dev/kvm), Debian's own kernel, soft-RoCE (the kernel's module rdma_rxe).
#
# The guest's root is this machine's root with a tmpfs laid over it: programs run where they were
# built, and what they write is dropped, but for what they write below /run/guest-out. All that the
# command prints comes to stdout as it is printed. Nothing of this machine is changed: no module is
# loaded here, no package installed, and the command may take its own network down.
#
# Leaves fetching and packing the kernel to pack.sh, and what happens inside to boot.sh (until the
# root is there) and inside.sh (from then on).
set -euo pipefail

readonly EXIT_USAGE=2 EXIT_UNAVAILABLE=69 EXIT_TIME=124 EXIT_BROKEN=125
readonly KILL_AFTER_SECONDS=5
readonly CONSOLE_LINES_SHOWN=20
readonly BOOTS_MAX=3
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
readonly here

usage() {
    cat <<END
usage: cargo xtask guest [OPTION]... -- COMMAND [ARGUMENT]...
Runs COMMAND in a guest with soft-RoCE. Without COMMAND: only fetches and packs its kernel.

  --net NET          what the devices lie on [dummy]:
                       dummy  rxe0 on an interface that leads nowhere but to itself
                       lo     rxe0 on the loop-back interface
                       pair   rxe0 and rxe1 at the ends of a wire (veth), 10.77.0.1 and .2
                       rails  as pair, and rxe2 and rxe3 at the ends of another, 10.78.0.1 and .2
                       eth    rxe0 on a QEMU NIC, see --wire
                       none   no device
  --time-limit SEC   ends the guest after so long [300]
  --cpus N           virtual processors [2]
  --memory-mib N     memory [2048]
  --address IP       the first device's IPv4 address [10.77.0.1]
  --netem WORDS      what the wire does to each packet, in tc-netem's words: 'loss 1% delay 2ms'
  --cut AFTER+FOR    takes the wire away after so many seconds, for so many: 5+2
  --wire OWN,OTHER   sockets of the two ends of the wire that joins two guests: --net eth
  --await-port N     the command begins once the other guest listens on that port
  --out FOLDER       a folder of this machine that the guest may write, there /run/guest-out
  --console FILE     keeps what the guest's kernel says
  --kernel PACKAGE   the kernel's Debian package [linux-image-6.12-amd64, else linux-image-amd64]
  --cache FOLDER     where the packed kernel is kept [\$XDG_CACHE_HOME/gradwire/guest]

Exit code: COMMAND's; $EXIT_USAGE usage; $EXIT_UNAVAILABLE no guest can be had here; $EXIT_TIME past the time limit;
$EXIT_BROKEN the guest broke.
END
}

# fail CODE MESSAGE...
fail() {
    local code=$1
    shift
    echo "guest: $*" >&2
    exit "$code"
}

net=dummy time_limit=300 cpus=2 memory_mib=2048 address=10.77.0.1
netem='' cut='' wire='' port_awaited='' out='' console=''
# 6.12 by name in Debian 12, whose own is 6.1; Debian 13 has 6.12 as its own.
kernels=(linux-image-6.12-amd64 linux-image-amd64)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gradwire/guest

while (($#)); do
    option=$1
    case $option in
    --) shift && break ;;
    -h | --help) usage && exit 0 ;;
    --*) (($# > 1)) || fail $EXIT_USAGE "$option has no value; --help tells more" ;;
    *) fail $EXIT_USAGE "unknown word '$option'; the command stands behind '--'" ;;
    esac
    value=$2
    shift 2
    case $option in
    --net) net=$value ;;
    --time-limit) time_limit=$value ;;
    --cpus) cpus=$value ;;
    --memory-mib) memory_mib=$value ;;
    --address) address=$value ;;
    --netem) netem=$value ;;
    --cut) cut=$value ;;
    --wire) wire=$value ;;
    --await-port) port_awaited=$value ;;
    --out) out=$value ;;
    --console) console=$value ;;
    --kernel) kernels=("$value") ;;
    --cache) cache=$value ;;
    *) fail $EXIT_USAGE "unknown option '$option'; --help tells more" ;;
    esac
done

check_options() {
    local name
    [[ $net =~ ^(dummy|lo|pair|rails|eth|none)$ ]] ||
        fail $EXIT_USAGE "--net is dummy, lo, pair, rails, eth or none, not '$net'"
    for name in time_limit cpus memory_mib; do
        [[ ${!name} =~ ^[1-9][0-9]{0,5}$ ]] ||
            fail $EXIT_USAGE "--${name//_/-} is a count from 1, not '${!name}'"
    done
    [[ $address =~ ^([0-9]{1,3}\.){3}[0-9]{1,3}$ ]] ||
        fail $EXIT_USAGE "--address is an IPv4 address, not '$address'"
    [[ $cut =~ ^([0-9]+\+[0-9]+)?$ ]] ||
        fail $EXIT_USAGE "--cut is AFTER+FOR in whole seconds, not '$cut'"
    [[ $net != eth || $wire =~ ^[^,]+,[^,]+$ ]] ||
        fail $EXIT_USAGE "--net eth needs --wire OWN,OTHER: the sockets of both guests"
    [[ $net == eth || -z $wire$port_awaited ]] ||
        fail $EXIT_USAGE "--wire and --await-port go with --net eth, not $net"
    [[ $port_awaited =~ ^[0-9]{0,5}$ ]] || fail $EXIT_USAGE "--await-port is not '$port_awaited'"
    [[ $net =~ ^(pair|rails|eth)$ || -z $netem$cut ]] ||
        fail $EXIT_USAGE "--netem and --cut need a wire: --net pair, rails or eth, not $net"
}

# Names what is missing by the packages that have it.
check_machine() {
    local missing=() pair
    [[ $(uname -m) == x86_64 ]] ||
        fail $EXIT_UNAVAILABLE "the guest is an x86-64 machine, and this one is $(uname -m)"
    for pair in qemu-system-x86_64:qemu-system-x86 modprobe:kmod depmod:kmod zstd:zstd xz:xz-utils \
        ip:iproute2 tc:iproute2 rdma:iproute2; do
        PATH=$PATH:/usr/sbin:/sbin type -P "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [[ -x /bin/busybox ]] && ! ldd /bin/busybox >/dev/null 2>&1 || missing+=(busybox-static)
    compgen -G '/etc/libibverbs.d/rxe.driver' >/dev/null || missing+=(ibverbs-providers)
    ((${#missing[@]} == 0)) || fail $EXIT_UNAVAILABLE \
        "Debian packages are missing: $(printf '%s\n' "${missing[@]}" | sort -u | paste -sd ' ')"
}

# The folder that the guest sees as /run/guest: what it is to do, and where it says how that ended.
write_job() {
    cp "$here/inside.sh" "$job/inside.sh"
    echo "$net" >"$job/net"
    printf '%s=%q\n' net "$net" address "$address" port_awaited "$port_awaited" netem "$netem" \
        cut "$cut" >"$job/settings"
    {
        printf 'export PATH=%q HOME=%q\ncd %q || exit\n' "$PATH:/usr/sbin:/sbin" "$HOME" "$PWD"
        printf 'exec'
        printf ' %q' "$@"
    } >"$job/command"
}

# Sets `qemu` to the whole command line.
# shellcheck disable=SC2054 # QEMU's options have commas.
write_command_line() {
    local machine=(
        -M q35,hpet=off -accel tcg,thread=multi -smp "$cpus" -m "$memory_mib"
        # All that the emulation has, AVX2 and FMA among it, less what only slows it down.
        -cpu max,la57=off,smap=off,smep=off,pku=off
        -nodefaults -no-user-config -display none -no-reboot
    )
    local boot=(
        -kernel "$packed/kernel" -initrd "$packed/initramfs"
        -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check
            nowatchdog rcupdate.rcu_expedited=1 cryptomgr.notests audit=0 lsm= random.trust_cpu=on"
    )
    local devices=(
        -serial "file:$console" -device virtio-rng-pci -device virtio-serial-pci
        -chardev "file,id=io,path=$job/printed,append=on" -device virtserialport,chardev=io
        -virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap
        -virtfs "local,path=$job,mount_tag=job,security_model=none"
        -virtfs "local,path=$out,mount_tag=out,security_model=none"
    )
    if [[ $net == eth ]]; then
        # Frames of the length that verbs of 4 KiB need. The address makes the two NICs differ.
        devices+=(
            -netdev "dgram,id=wire,local.type=unix,local.path=${wire%,*},remote.type=unix,remote.path=${wire#*,}"
            -device "virtio-net-pci,netdev=wire,mac=52:54:00:77:00:$(printf %02x "${address##*.}"),host_mtu=4200"
        )
    fi
    qemu=(qemu-system-x86_64 "${machine[@]}" "${boot[@]}" "${devices[@]}")
}

# Runs the guest once, to its end.
boot() {
    local code=0
    [[ -z $wire ]] || rm -f "${wire%,*}" # One that died may have left it.
    timeout --foreground --kill-after=$KILL_AFTER_SECONDS "$time_limit" \
        "${qemu[@]}" </dev/null >&2 9>&- &
    guest=$!
    wait $guest || code=$?
    guest=''
    return "$code"
}

# Whether the guest's kernel died before it had a process: the emulation of several processors that
# start at once sometimes breaks it, and nothing was done yet.
died_early() {
    [[ ! -e $job/began ]] && grep --quiet 'Kernel panic' "$console"
}

# Runs the guest to its end and gives the command's exit code.
run_guest() {
    local code=0 boots=1 reader
    mkfifo "$job/printed"
    # Held open here, so that the reader ends after QEMU does, also if QEMU never opens it.
    exec 9<>"$job/printed"
    cat <"$job/printed" 9>&- &
    reader=$!
    boot || code=$?
    while ((boots < BOOTS_MAX)) && died_early; do
        echo "guest: its kernel died as it began; it is started again" >&2
        boots=$((boots + 1)) code=0
        boot || code=$?
    done
    exec 9>&-
    wait $reader || true
    ((code != 124 && code != 137)) || fail $EXIT_TIME "ended after $time_limit s, the time limit"
    if ! code=$(cat "$job/exit" 2>/dev/null); then
        tail -n $CONSOLE_LINES_SHOWN "$console" >&2 || true
        fail $EXIT_BROKEN "the guest broke; above are its kernel's last words"
    fi
    return "$code"
}

clean_up() {
    [[ -z $guest ]] || kill "$guest" 2>/dev/null || true
    [[ -z $job ]] || rm -rf "$job"
}

guest='' job=''
trap clean_up EXIT
trap 'exit 130' INT TERM
check_options
check_machine
packed=$("$here/pack.sh" "$cache" "${kernels[@]}") || exit
(($#)) || exit 0
job=$(mktemp -d)
: "${console:=$job/console}" "${out:=$job/out}"
mkdir -p "$out"
out=$(realpath "$out")
write_job "$@"
write_command_line
run_guest
