#!/bin/sh
# The driver of a study with libvirt: sh virsh.sh prepare|migrate|converge|clean-up
#
# virsh runs on the hosts. What is done is set by environment variables, those of a plan's values among them; each has a
# default that leaves out what it stands for:
#
#   GUEST, SOURCE, DESTINATION   the domain, and the hosts as $RSH knows them; these must be set
#   DESTINATION_URI, SOURCE_URI  how one libvirtd reaches the other, by default qemu+ssh://HOST/system
#   GUEST_ADDRESS                prepare waits until the guest answers pings there
#   DOMAIN_XML                   a template: prepare makes the guest from it, and clean-up removes it. @GUEST@, @VCPUS@,
#                                @MEMORY_MIB@ and @DISK@ stand for the values. Without it the guest that is there is taken:
#                                it begins on the source, and clean-up brings it back
#   VCPUS, MEMORY_MIB, DISK_GIB  its flavour; BASE_IMAGE is what its disk begins with, on both hosts
#   STORAGE                      block: its disk is copied with it (the default). shared: both hosts have it
#   DISK                         its file on both hosts
#   MODE                         postcopy: the guest moves after the first pass. Otherwise precopy
#   BANDWIDTH_MIB                the most that a migration may send in a second
#
# and the loads of common.sh.
set -eu

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

VIRSH=${VIRSH:-virsh}
DISK=${DISK:-/var/lib/libvirt/images/study.qcow2}
SOURCE_URI=${SOURCE_URI:-qemu+ssh://$SOURCE/system}
DESTINATION_URI=${DESTINATION_URI:-qemu+ssh://$DESTINATION/system}

# The state of the guest on a host; nothing if it is not known there.
state_on() {
    on "$1" "$VIRSH domstate $GUEST" 2>/dev/null | head -n 1
}

wait_for_guest() {
    [ -n "${GUEST_ADDRESS:-}" ] || return 0
    tries=0
    until ping -n -c 1 -W 1 "$GUEST_ADDRESS" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "the guest does not answer at $GUEST_ADDRESS"
        sleep 1
    done
}

# With block migration the destination needs an image to copy to, as large as the source's.
make_destination_disk() {
    [ "$STORAGE" = block ] || return 0
    bytes=$(on "$SOURCE" "$VIRSH domblkinfo $GUEST $DISK" 2>/dev/null | sed -n 's/^Capacity: *//p')
    [ -n "$bytes" ] || return 0
    on "$DESTINATION" "qemu-img create -q -f qcow2 $DISK $bytes"
}

make_guest() {
    base=${BASE_IMAGE:?the image that the guest of DOMAIN_XML begins with}
    on "$SOURCE" "qemu-img create -q -f qcow2 -F qcow2 -b $base $DISK ${DISK_GIB}G"
    sed -e "s|@GUEST@|$GUEST|g" -e "s|@VCPUS@|$VCPUS|g" -e "s|@MEMORY_MIB@|$MEMORY_MIB|g" -e "s|@DISK@|$DISK|g" \
        "$DOMAIN_XML" >"$STUDY_DIRECTORY/domain.xml"
    # shellcheck disable=SC2086
    $RSH "$SOURCE" "cat >/tmp/$GUEST.xml && $VIRSH define /tmp/$GUEST.xml && $VIRSH start $GUEST" \
        <"$STUDY_DIRECTORY/domain.xml"
}

remove_guest() {
    for host in "$SOURCE" "$DESTINATION"; do
        on "$host" "$VIRSH destroy $GUEST; $VIRSH undefine $GUEST; rm -f /tmp/$GUEST.xml" >/dev/null 2>&1 || true
    done
    on "$SOURCE" "rm -f $DISK"
    if [ "$STORAGE" = block ]; then on "$DESTINATION" "rm -f $DISK"; fi
}

# Brings a guest back that was there before, and lets it run.
bring_back() {
    case $(state_on "$DESTINATION") in
        running | paused)
            options="--live --persistent"
            if [ "$STORAGE" = block ]; then options="$options --copy-storage-all"; fi
            on "$DESTINATION" "$VIRSH migrate $options $GUEST $SOURCE_URI"
            ;;
    esac
    case $(state_on "$SOURCE") in
        running) ;;
        paused) on "$SOURCE" "$VIRSH resume $GUEST" ;;
        "") fail "$SOURCE has no domain $GUEST" ;;
        *) on "$SOURCE" "$VIRSH start $GUEST" ;;
    esac
}

prepare() {
    if [ -n "${DOMAIN_XML:-}" ]; then
        make_guest
    else
        bring_back
    fi
    wait_for_guest
    make_destination_disk
    start_load
    echo "GUEST_UUID=$(on "$SOURCE" "$VIRSH domuuid $GUEST" | head -n 1)" >>"$STUDY_VARIABLES"
}

migrate() {
    options="--live --persistent"
    if [ "$STORAGE" = block ]; then options="$options --copy-storage-all"; fi
    if [ "${MODE:-}" = postcopy ]; then options="$options --postcopy --postcopy-after-precopy"; fi
    if [ -n "${BANDWIDTH_MIB:-}" ]; then options="$options --bandwidth $BANDWIDTH_MIB"; fi
    case ${STUDY_CONVERGENCE:-} in
        auto-converge) options="$options --auto-converge" ;;
        # libvirt switches only if it was asked for at the beginning.
        postcopy) options="$options --postcopy" ;;
    esac
    on "$SOURCE" "$VIRSH migrate $options $GUEST $DESTINATION_URI"
}

# As `virsh migrate --timeout $STUDY_CONVERGENCE_AFTER_S --timeout-suspend` or `--timeout-postcopy` would do.
converge() {
    case ${STUDY_CONVERGENCE:-} in
        suspend) on "$SOURCE" "$VIRSH suspend $GUEST" ;;
        postcopy) on "$SOURCE" "$VIRSH migrate-postcopy $GUEST" ;;
        abort) on "$SOURCE" "$VIRSH domjobabort $GUEST" ;;
        *) fail "no way to ${STUDY_CONVERGENCE:-converge}" ;;
    esac
}

clean_up() {
    # A migration that was cut off goes on without its virsh.
    on "$SOURCE" "$VIRSH domjobabort $GUEST" >/dev/null 2>&1 || true
    stop_load
    if [ -n "${DOMAIN_XML:-}" ]; then remove_guest; else bring_back; fi
}

drive "$@"
