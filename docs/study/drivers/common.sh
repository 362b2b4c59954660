# What the drivers share. They source it; $GUEST_ADDRESS, $SOURCE and $DESTINATION are theirs.
#
# A load is made where it is asked for:
#
#   DISK_USED_GIB     so much of the guest's disk is written before the migration
#   LOAD_PERCENT      of the guest's memory are rewritten all the time, by stress in the guest
#   HOST_CPU_PERCENT  of the CPUs of both hosts are kept busy, by stress-ng
#   NETWORK_LOAD      crosses between the hosts all the time, by iperf3: 300M
#   LINK, LINK_RATE   an interface of both hosts is slowed down to this rate: 1gbit
#
# Shells on the hosts ($RSH, by default ssh) and in the guest ($GUEST_SHELL) are root's.

RSH=${RSH:-ssh}
GUEST_SHELL=${GUEST_SHELL:-ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null}
STORAGE=${STORAGE:-block}

# What is started to make a load.
UNIT=migtrace-study

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
    $GUEST_SHELL "root@$GUEST_ADDRESS" "$*" </dev/null
}

start_load() {
    if [ "${DISK_USED_GIB:-0}" != 0 ]; then
        in_guest "dd if=/dev/urandom of=/study bs=1M count=$((DISK_USED_GIB * 1024)) conv=fsync 2>/dev/null"
    fi
    if [ "${LOAD_PERCENT:-0}" != 0 ]; then
        mib=$((MEMORY_MIB * LOAD_PERCENT / 100))
        in_guest "systemd-run --quiet --unit $UNIT stress --vm 1 --vm-bytes ${mib}M --vm-keep"
    fi
    for host in "$SOURCE" "$DESTINATION"; do
        if [ "${HOST_CPU_PERCENT:-0}" != 0 ]; then
            on "$host" "systemd-run --quiet --unit $UNIT-cpu stress-ng --cpu 0 --cpu-load $HOST_CPU_PERCENT"
        fi
        if [ -n "${LINK_RATE:-}" ]; then
            on "$host" "tc qdisc replace dev $LINK root tbf rate $LINK_RATE burst 256kb latency 50ms"
        fi
    done
    if [ "${NETWORK_LOAD:-0}" != 0 ]; then
        on "$DESTINATION" "systemd-run --quiet --unit $UNIT-net iperf3 --server"
        on "$SOURCE" "systemd-run --quiet --unit $UNIT-net iperf3 --client $DESTINATION --time 0 --bitrate $NETWORK_LOAD"
    fi
}

stop_load() {
    # There may be no guest yet.
    if [ "${LOAD_PERCENT:-0}" != 0 ] && [ -n "${GUEST_ADDRESS:-}" ]; then
        in_guest "systemctl stop $UNIT" || true
    fi
    for host in "$SOURCE" "$DESTINATION"; do
        if [ "${HOST_CPU_PERCENT:-0}" != 0 ]; then on "$host" "systemctl stop $UNIT-cpu" || true; fi
        if [ "${NETWORK_LOAD:-0}" != 0 ]; then on "$host" "systemctl stop $UNIT-net" || true; fi
        if [ -n "${LINK_RATE:-}" ]; then on "$host" "tc qdisc del dev $LINK root" || true; fi
    done
}

# Does what the study asks for.
drive() {
    case ${1:-} in
        prepare) prepare ;;
        migrate) migrate ;;
        converge) converge ;;
        clean-up) clean_up ;;
        *) fail "usage: ${0##*/} prepare|migrate|converge|clean-up" ;;
    esac
}
