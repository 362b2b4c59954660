#!/bin/sh
# The driver of a study with OpenStack: sh openstack.sh prepare|migrate|converge|clean-up
#
# It needs the `openstack` client with an administrator's credentials in the environment (OS_*). What is done is set by
# environment variables, those of a plan's values among them:
#
#   GUEST, SOURCE, DESTINATION   the server's name, and the compute hosts as nova and $RSH know them; these must be set
#   IMAGE, NETWORK, KEY          what the server is made of
#   VCPUS, MEMORY_MIB, DISK_GIB  its flavour, which prepare makes and clean-up removes
#   STORAGE                      block: its disk is copied with it (the default). shared: the hosts share it
#
# and the loads of common.sh.
#
# Post-copy and auto-converge are nova's own settings (live_migration_permit_post_copy, live_migration_permit_auto_converge in
# nova.conf): with the first, forcing a migration to complete means post-copy, otherwise a pause.
set -eu

# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

FLAVOUR=$GUEST-flavour

# Later requests need newer versions of nova's interface.
nova() {
    openstack --os-compute-api-version 2.30 "$@"
}

prepare() {
    nova flavor create --private --vcpus "$VCPUS" --ram "$MEMORY_MIB" --disk "$DISK_GIB" "$FLAVOUR" >/dev/null
    nova server create --wait --flavor "$FLAVOUR" --image "$IMAGE" --network "$NETWORK" --key-name "$KEY" \
        --availability-zone "nova:$SOURCE" "$GUEST" >/dev/null
    GUEST_ADDRESS=$(nova server show "$GUEST" --format json -c addresses | grep -oE '([0-9]{1,3}\.){3}[0-9]{1,3}' | head -n 1)
    [ -n "$GUEST_ADDRESS" ] || fail "the server has no IPv4 address"
    {
        # libvirt knows the server by its id.
        echo "GUEST_UUID=$(nova server show "$GUEST" -f value -c id)"
        echo "GUEST_ADDRESS=$GUEST_ADDRESS"
    } >>"$STUDY_VARIABLES"
    wait_for_shell
    start_load
}

migrate() {
    kind=--block-migration
    if [ "$STORAGE" = shared ]; then kind=--shared-migration; fi
    nova server migrate --live-migration $kind --host "$DESTINATION" --wait "$GUEST"
    # The client does not fail with the migration.
    host=$(nova server show "$GUEST" -f value -c OS-EXT-SRV-ATTR:host)
    [ "$host" = "$DESTINATION" ] || fail "the server is still on $host"
}

# The migration of the server that is under way.
migration() {
    nova server migration list --server "$GUEST" --status running -f value -c Id | head -n 1
}

converge() {
    id=$(migration)
    [ -n "$id" ] || fail "no migration is under way"
    case ${STUDY_CONVERGENCE:-} in
        suspend | postcopy) nova server migration force complete "$GUEST" "$id" ;;
        abort) nova server migration abort "$GUEST" "$id" ;;
        *) fail "no way to ${STUDY_CONVERGENCE:-converge}" ;;
    esac
}

clean_up() {
    stop_load
    if nova server show "$GUEST" >/dev/null 2>&1; then nova server delete --wait "$GUEST"; fi
    if nova flavor show "$FLAVOUR" >/dev/null 2>&1; then nova flavor delete "$FLAVOUR"; fi
}

drive "$@"
