# shellcheck shell=sh
# What the drivers share. They source it; $GUEST_ADDRESS, $SOURCE and $DESTINATION are theirs.
#
# A load is made where it is asked for:
#
#   DISK_USED_GIB     so much of the guest's disk is written before the migration
#   LOAD_PERCENT      of the guest's memory are rewritten all the time, by stress in the guest
#   HOST_CPU_PERCENT  of the CPUs of both hosts are kept busy, by stress-ng
#   NETWORK_LOAD      crosses from the source to the destination all the time, by iperf3: 300M
#   LINK, LINK_RATE   an interface of both hosts sends no faster than this: 1gbit. It may not have a root qdisc that somebody
#                     has set, as that would not come back
#
# Shells on the hosts ($RSH, by default ssh) and in the guest ($GUEST_SHELL) are root's. Where a load is made there are systemd
# and the program that makes it.

RSH=${RSH:-ssh}
GUEST_SHELL=${GUEST_SHELL:-ssh -o ConnectTimeout=10 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null}
STORAGE=${STORAGE:-block}

# What is started to make a load. Once it has ended, in whatever way, the same name can be taken again.
UNIT=migtrace-study
START="systemd-run --quiet --collect --unit"
# By its handle our qdisc is told from those of others.
QDISC=2014:

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Runs a command line on a host.
on() {
    host=$1
    shift
    # $RSH may have options.
    # shellcheck disable=SC2086
    $RSH "$host" "$*" </dev/null
}

in_guest() {
    # shellcheck disable=SC2086
    $GUEST_SHELL "root@${GUEST_ADDRESS:?where the guest is reached}" "$*" </dev/null
}

# A guest that answers pings need not have come to its sshd.
wait_for_shell() {
    tries=0
    until in_guest true 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || fail "no shell in the guest at $GUEST_ADDRESS"
        sleep 3
    done
}

start_load() {
    if [ "${DISK_USED_GIB:-0}" != 0 ]; then
        in_guest "dd if=/dev/urandom of=/study bs=1M count=$((DISK_USED_GIB * 1024)) conv=fsync status=none"
    fi
    if [ "${LOAD_PERCENT:-0}" != 0 ]; then fill_memory $((MEMORY_MIB * LOAD_PERCENT / 100)); fi
    for host in "$SOURCE" "$DESTINATION"; do
        if [ "${HOST_CPU_PERCENT:-0}" != 0 ]; then
            on "$host" "$START $UNIT-cpu stress-ng --cpu 0 --cpu-load $HOST_CPU_PERCENT"
        fi
        if [ -n "${LINK_RATE:-}" ]; then
            on "$host" "tc qdisc add dev ${LINK:?the interface to slow down} root handle $QDISC" \
                "tbf rate $LINK_RATE burst 256kb latency 50ms" || fail "cannot slow down $LINK on $host"
        fi
    done
    if [ "${NETWORK_LOAD:-0}" != 0 ]; then load_network; fi
}

# Until all of it is filled, the guest's memory is that of an unloaded one.
fill_memory() {
    in_guest "$START $UNIT stress --vm 1 --vm-bytes ${1}M --vm-keep"
    tries=0
    until kib=$(in_guest "ps -C stress -o rss= | sort -n | tail -n 1") && [ "${kib:-0}" -ge $(($1 * 1024)) ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "stress in the guest does not fill $1 MiB, but ${kib:-0} KiB"
        sleep 1
    done
}

load_network() {
    on "$DESTINATION" "$START $UNIT-net iperf3 --server"
    tries=0
    until error=$(on "$SOURCE" "iperf3 --client $DESTINATION --bytes 1K" 2>&1); do
        tries=$((tries + 1))
        [ "$tries" -lt 10 ] || fail "$error"
        sleep 1
    done
    # It begins again should the server not be ready for it yet.
    on "$SOURCE" "$START $UNIT-net --property Restart=always --property RestartSec=1" \
        "iperf3 --client $DESTINATION --time 0 --bitrate $NETWORK_LOAD"
}

# What clean-up could not end.
left=

# Ends what start_load has begun on the hosts.
stop_load() {
    for host in "$SOURCE" "$DESTINATION"; do
        if [ "${HOST_CPU_PERCENT:-0}" != 0 ]; then on "$host" "$(stop $UNIT-cpu)" || left="$left $UNIT-cpu on $host,"; fi
        if [ "${NETWORK_LOAD:-0}" != 0 ]; then on "$host" "$(stop $UNIT-net)" || left="$left $UNIT-net on $host,"; fi
        if [ -n "${LINK_RATE:-}" ] && [ -n "${LINK:-}" ]; then
            on "$host" "tc qdisc del dev $LINK root handle $QDISC 2>/dev/null ||" \
                "! tc qdisc show dev $LINK root | grep -q ' $QDISC '" || left="$left the limit of $LINK on $host,"
        fi
    done
}

# The command line that ends a unit, which may not be there.
stop() {
    echo "systemctl stop $1 2>/dev/null || ! systemctl is-active --quiet $1"
}

# Ends what start_load has begun in a guest that stays.
stop_guest_load() {
    if [ "${LOAD_PERCENT:-0}" != 0 ]; then in_guest "$(stop $UNIT)" || left="$left $UNIT in the guest,"; fi
    if [ "${DISK_USED_GIB:-0}" != 0 ]; then in_guest "rm -f /study" || left="$left /study in the guest,"; fi
}

# Does what the study asks for.
drive() {
    case ${1:-} in
        prepare) prepare ;;
        migrate) migrate ;;
        converge) converge ;;
        clean-up)
            clean_up
            [ -z "$left" ] || fail "cannot end${left%,}"
            ;;
        *) fail "usage: ${0##*/} prepare|migrate|converge|clean-up" ;;
    esac
}
