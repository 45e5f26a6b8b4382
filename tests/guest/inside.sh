#!/usr/bin/env bash
# The guest's first process, once its root is there: sets up the network and the devices, runs the
# command and leaves its exit code. The guest ends with it.
#
# /run/guest/net says which network it is, and that this is a guest: what takes links down or
# loads faults looks for that file first.
settings=/run/guest/settings
readonly SCRIPT_ENDS_SECONDS=60 PEER_ANSWERS_SECONDS=60 RAIL_ADDRESS=10.78.0.1
port=(/dev/vport*p1)
exec </dev/null >"${port[0]}" 2>&1
: >/run/guest/began
net='' address='' port_awaited='' netem='' cut=''
# shellcheck source=/dev/null # Written by run.sh: what is set to nothing above.
source "$settings"

# bring_up INTERFACE ADDRESS: with frames of the length that verbs of 4 KiB need, where it can.
bring_up() {
    ip address add "$2/24" dev "$1"
    ip link set "$1" up mtu 4200 2>/dev/null || ip link set "$1" up
}

# add_device NAME INTERFACE
add_device() {
    rdma link add "$1" type rxe netdev "$2" || echo "guest: there is no $1 on $2"
}

# Both ends of a wire are addresses of this one host: by these rules, what goes from one to the
# other goes over the wire. All else that is local stays local.
look_at_wires_first() {
    ip rule add pref 100 lookup local
    ip rule del pref 0
    echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
    echo 1 >/proc/sys/net/ipv4/conf/all/accept_local
}

# lay_wire N ADDRESS OTHER_ADDRESS: between the interfaces rdmaN and rdmaN+1.
lay_wire() {
    local side near=rdma$1 far=rdma$(($1 + 1))
    ip link add "$near" type veth peer name "$far"
    for side in "$near" "$far"; do
        echo 0 >"/proc/sys/net/ipv4/conf/$side/rp_filter"
        echo 1 >"/proc/sys/net/ipv4/conf/$side/accept_local"
    done
    bring_up "$near" "$2"
    bring_up "$far" "$3"
    lead "$2" "$3" "$near" "$far" $((10 + $1))
    lead "$3" "$2" "$far" "$near" $((11 + $1))
    add_device "rxe$1" "$near"
    add_device "rxe$(($1 + 1))" "$far"
}

# next_address ADDRESS
next_address() {
    echo "${1%.*}.$((${1##*.} + 1))"
}

# lead FROM TO OWN_INTERFACE OTHER_INTERFACE TABLE
lead() {
    ip rule add pref "$5" iif lo from "$1" to "$2" lookup "$5"
    ip route add "$2" dev "$3" src "$1" table "$5"
    ip neigh add "$2" dev "$3" lladdr "$(cat "/sys/class/net/$4/address")"
}

# Sets `wire` to the interface that has a wire at its end, if any has.
set_up_network() {
    ip link set lo up
    case $net in
    dummy)
        ip link add rdma0 type dummy
        bring_up rdma0 "$address"
        add_device rxe0 rdma0
        ;;
    lo) add_device rxe0 lo ;;
    pair | rails)
        look_at_wires_first
        lay_wire 0 "$address" "$(next_address "$address")"
        [[ $net == pair ]] || lay_wire 2 "$RAIL_ADDRESS" "$(next_address "$RAIL_ADDRESS")"
        wire=rdma0
        ;;
    eth)
        wire=$(basename /sys/class/net/e*)
        bring_up "$wire" "$address"
        add_device rxe0 "$wire"
        await_peer
        ;;
    none) ;;
    esac
}

# Two guests start at once; nobody begins before the other one is there, and listens if it is to.
# Theirs is the other of the addresses that end in 1 and 2.
await_peer() {
    local peer=${address%.*}.$((3 - ${address##*.})) until=$((SECONDS + PEER_ANSWERS_SECONDS))
    until answers "$peer"; do
        if ((SECONDS > until)); then
            echo "guest: $address has waited $PEER_ANSWERS_SECONDS s for $peer ${port_awaited:-}"
            return
        fi
        sleep 0.2
    done
}

answers() {
    if [[ -n $port_awaited ]]; then
        (exec 3<>"/dev/tcp/$1/$port_awaited") 2>/dev/null
    else
        /bin/busybox ping -c 1 -W 1 "$1" >/dev/null 2>&1
    fi
}

disturb() {
    # shellcheck disable=SC2086 # These are words.
    [[ -z $netem ]] || tc qdisc add dev "$wire" root netem $netem
    [[ -z $cut ]] || {
        sleep "${cut%+*}"
        ip link set "$wire" down
        echo "guest: the wire is cut"
        sleep "${cut#*+}"
        ip link set "$wire" up
        echo "guest: the wire is whole"
    } &
}

wire=''
set_up_network
disturb
ulimit -l unlimited
bash /run/guest/command
echo $? >/run/guest/exit
# A reboot, which QEMU takes for the end.
echo b >/proc/sysrq-trigger
sleep $SCRIPT_ENDS_SECONDS
