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
#   VCPUS, MEMORY_MIB, DISK_GIB  its flavour; BASE_IMAGE is what its disk begins with: a qcow2 file on the source, or on both
#                                hosts if they share the disk. It may not be larger than that
#   STORAGE                      block: its disk is copied with it (the default), with what is in BASE_IMAGE. shared: both hosts
#                                have it
#   DISK                         its file on both hosts
#   MODE                         postcopy: the guest moves after the first pass. Otherwise precopy
#   BANDWIDTH_MIB                the most that a migration may send in a second
#
# and the loads of common.sh.
#
# prepare refuses to take the place of a domain or a file. Where it makes a disk, it puts the file $DISK.study beside it. Without
# that, clean-up removes nothing.
set -eu

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

# Its words are looked for below.
VIRSH=${VIRSH:-LC_ALL=C virsh}
DISK=${DISK:-/var/lib/libvirt/images/study.qcow2}
SOURCE_URI=${SOURCE_URI:-qemu+ssh://$SOURCE/system}
DESTINATION_URI=${DESTINATION_URI:-qemu+ssh://$DESTINATION/system}

# Whether a host knows the guest.
knows() {
    domains=$(on "$1" "$VIRSH list --all --name") || fail "cannot ask libvirt on $1"
    echo "$domains" | grep -qxF -e "$GUEST"
}

# The state of the guest on a host and the reason, as in `paused (user)`; nothing if it is not known there.
state_on() {
    if knows "$1"; then
        state=$(on "$1" "$VIRSH domstate --reason $GUEST || echo unknown") || fail "cannot ask libvirt on $1"
        echo "$state" | sed -n '/./{p;q;}'
    fi
}

wait_for_guest() {
    [ -n "${GUEST_ADDRESS:-}" ] || return 0
    tries=0
    until ping -n -c 1 -W 1 "$GUEST_ADDRESS" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "the guest does not answer at $GUEST_ADDRESS"
        sleep 1
    done
    if [ "${LOAD_PERCENT:-0}" != 0 ] || [ "${DISK_USED_GIB:-0}" != 0 ]; then wait_for_shell; fi
}

# Makes the guest's disk on a host.
make_disk() {
    on "$1" "if [ -e $DISK ]; then echo $DISK is there already >&2; exit 1; fi; : >$DISK.study && qemu-img create -q $2" ||
        fail "cannot make the disk on $1"
}

# Removes it, if it was made here.
remove_disk() {
    on "$1" "if [ -e $DISK.study ]; then rm -f $DISK && rm -f $DISK.study; fi"
}

# With block migration the destination needs an image to copy to, as large as the source's.
make_destination_disk() {
    [ "$STORAGE" = block ] || return 0
    bytes=$(on "$SOURCE" "$VIRSH domblkinfo $GUEST $DISK" 2>/dev/null | sed -n 's/^Capacity: *//p')
    [ -n "$bytes" ] || return 0
    make_disk "$DESTINATION" "-f qcow2 $DISK $bytes"
}

make_guest() {
    base=${BASE_IMAGE:?the image that the guest of DOMAIN_XML begins with}
    for host in "$SOURCE" "$DESTINATION"; do
        if knows "$host"; then fail "$host has a domain $GUEST already"; fi
    done
    bytes=$(on "$SOURCE" "qemu-img info $base" | sed -n 's/^virtual size:.*(\([0-9]*\) bytes)$/\1/p')
    [ -n "$bytes" ] || fail "cannot read $base on $SOURCE"
    [ "$bytes" -le $((DISK_GIB << 30)) ] || fail "$base is larger than $DISK_GIB GiB"
    make_disk "$SOURCE" "-f qcow2 -F qcow2 -b $base $DISK ${DISK_GIB}G"
    sed -e "s|@GUEST@|$GUEST|g" -e "s|@VCPUS@|$VCPUS|g" -e "s|@MEMORY_MIB@|$MEMORY_MIB|g" -e "s|@DISK@|$DISK|g" \
        "$DOMAIN_XML" >"$STUDY_DIRECTORY/domain.xml"
    # shellcheck disable=SC2086
    $RSH "$SOURCE" "cat >$DISK.study && $VIRSH define $DISK.study && $VIRSH start $GUEST" <"$STUDY_DIRECTORY/domain.xml"
}

remove_guest() {
    made=$(on "$SOURCE" "if [ -e $DISK.study ]; then echo yes; fi")
    [ -n "$made" ] || return 0
    for host in "$SOURCE" "$DESTINATION"; do
        on "$host" "$VIRSH destroy $GUEST; $VIRSH undefine --managed-save --nvram $GUEST" >/dev/null 2>&1 || true
        if knows "$host"; then fail "cannot remove $GUEST from $host"; fi
    done
    remove_disk "$DESTINATION"
    remove_disk "$SOURCE"
}

# Brings a guest back that was there before, and lets it run.
bring_back() {
    there=$(state_on "$DESTINATION")
    here=$(state_on "$SOURCE")
    case "$there, $here" in
        # A post-copy that was cut off came to its end, but nobody has told the source.
        "running (migrated), paused (post-copy failed)") on "$SOURCE" "$VIRSH destroy $GUEST" ;;
    esac
    case $there in
        running* | paused*)
            options="--live --persistent --undefinesource"
            if [ "$STORAGE" = block ]; then options="$options --copy-storage-all"; fi
            on "$DESTINATION" "$VIRSH migrate $options $GUEST $SOURCE_URI"
            here=$(state_on "$SOURCE")
            ;;
        "" | "shut off"*) ;;
        *) fail "the guest is $there on $DESTINATION" ;;
    esac
    case $here in
        running*) ;;
        paused*) on "$SOURCE" "$VIRSH resume $GUEST" ;;
        "shut off"*) on "$SOURCE" "$VIRSH start $GUEST" ;;
        "") fail "$SOURCE has no domain $GUEST" ;;
        *) fail "the guest is $here on $SOURCE" ;;
    esac
    remove_disk "$DESTINATION"
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

# Whether this is the state of a guest that moves, or that was gone before it was asked for.
is_moving() {
    grep -q -e '(migrating)' -e '(post-copy)' -e unknown
}

# Waits until a migration that was cut off is over on both hosts.
wait_for_end() {
    tries=0
    while state_on "$SOURCE" | is_moving || state_on "$DESTINATION" | is_moving; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || fail "the migration of $GUEST does not end"
        sleep 1
    done
}

# Lets a guest that stays go on without its load, wherever it is.
relieve() {
    for host in "$SOURCE" "$DESTINATION"; do
        state=$(state_on "$host")
        if [ "$state" = "paused (user)" ]; then on "$host" "$VIRSH resume $GUEST"; fi
        case $state in "paused (user)" | running*) stop_guest_load ;; esac
    done
}

clean_up() {
    # A migration that was cut off goes on without its virsh.
    on "$SOURCE" "$VIRSH domjobabort $GUEST" >/dev/null 2>&1 || true
    stop_load
    if [ -n "${DOMAIN_XML:-}" ]; then
        remove_guest
    else
        wait_for_end
        relieve
        bring_back
    fi
}

drive "$@"
