# Installs the package, lets its service record a migration, upgrades, removes and purges it. Each step says how it went; the
# last line is the verdict. What the service has written goes to a disk, for who knows what must be in it.

set -u
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive
results=/run/results
records=/var/lib/migtrace
configuration=/etc/migtrace/migtrace.toml
mkdir -p $results

# The end, with what helps to see why.
fail() {
    echo "test $step ... FAILED"
    echo "failures:"
    echo "$step: $*"
    systemctl status --no-pager --full migtrace.service
    journalctl --no-pager --lines=40 --unit=migtrace.service
    cat /run/output
    tail -n 20 $records/*.partial
    echo "init: failure"
    exit 1
}
# Runs a command that has to succeed.
must() {
    "$@" >/run/output 2>&1 || fail "\`$*\` ended with $?"
}
# Runs a command that has to fail.
must_not() {
    if "$@" >/run/output 2>&1; then fail "\`$*\` succeeded"; fi
}
begin() {
    step=$1
}
end() {
    echo "test $step ... ok"
}
show() {
    systemctl show --property="$1" --value migtrace.service
}
# Waits until a command succeeds.
await() {
    for _ in $(seq 300); do
        if "$@" >/run/output 2>&1; then return; fi
        sleep 0.2
    done
    fail "\`$*\` has not succeeded within a minute"
}
filters() {
    tc filter show dev near ingress | grep -q migtrace && tc filter show dev near egress | grep -q migtrace
}
# Waits for a line of the QEMU's monitor that has a text in it.
hear() {
    while read -r -t 60 line <&3; do
        case $line in *"$1"*) return ;; *'"error"'*) fail "QEMU says $line" ;; esac
    done
    fail "QEMU does not say $1"
}
# Gives an order to QEMU, and waits until it is carried out.
order() {
    echo "$1" >&3
    hear '"return"'
}

# A network with another host at its other end, which is not this one: its QEMU is not traced.
begin a_guest_is_there
must ip netns add far
must ip link add near type veth peer name far netns far
must ip address add 10.9.0.1/24 dev near
must ip link set near up
must ip -netns far address add 10.9.0.2/24 dev far
must ip -netns far link set far up
guest="qemu-system-x86_64 -name moved -uuid 11111111-2222-4333-8444-555555555555 -accel kvm -m 64 -nodefaults \
    -no-user-config -display none -daemonize"
must $guest -qmp tcp:127.0.0.1:4444,server=on,wait=off
must ip netns exec far $guest -incoming tcp:10.9.0.2:49152 -qmp tcp:10.9.0.2:4444,server=on,wait=off
end

begin the_package_is_installed_and_its_service_runs
must dpkg --install /run/earlier.deb
await systemctl is-active migtrace.service
must systemctl is-enabled migtrace.service
await filters
pid=$(show MainPID)
must test "$(awk '/^Uid/ { print $2 }' "/proc/$pid/status")" -ne 0
# CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF.
must grep -q '^CapEff:.000000c000081004$' "/proc/$pid/status"
must grep -q '^CapBnd:.000000c000081004$' "/proc/$pid/status"
must grep -q '^NoNewPrivs:.1$' "/proc/$pid/status"
# Debian's default: no perf events for the service.
must test "$(cat /proc/sys/kernel/perf_event_paranoid)" = 3
must systemd-analyze security --no-pager --threshold=25 migtrace.service
end

begin a_migration_is_recorded
# A manager stays connected: QEMU tells its events to nobody else.
exec 3<>/dev/tcp/127.0.0.1/4444
hear '"QMP"'
order '{"execute":"qmp_capabilities"}'
order '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"events","state":true}]}}'
order '{"execute":"migrate","arguments":{"uri":"tcp:10.9.0.2:49152"}}'
hear '"status": "completed"'
# QEMU 7.2 works out its figures after that.
sleep 1
order '{"execute":"query-migrate"}'
echo "$line" >$results/query-migrate.json
one_record() { test "$(ls $records/*.json | wc -l)" = 1; }
await one_record
must cp $records/*.json $results/record.json
must cp $records/*.jsonl $results/log.jsonl
end

begin an_upgrade_keeps_the_records_and_the_configuration_and_restarts_the_service
echo '# The administrator was here.' >>$configuration
(cd $records && sha256sum -- *) >/run/sums
must dpkg --install /run/release.deb
await systemctl is-active migtrace.service
must test "$(show MainPID)" -ne "$pid"
must grep -q 'The administrator was here' $configuration
(cd $records && sha256sum --check --quiet /run/sums) >/run/output 2>&1 || fail "records are gone, or others"
await filters
end

begin a_removal_ends_the_service_and_leaves_the_records
must dpkg --remove migtrace
must_not systemctl is-active migtrace.service
must_not pidof migtrace
must_not filters
must_not grep -q migtrace <(tc filter show dev near ingress; tc filter show dev near egress)
must_not systemctl cat migtrace.service
must test -f $configuration
(cd $records && sha256sum --check --quiet /run/sums) >/run/output 2>&1 || fail "records are gone, or others"
end

begin a_purge_leaves_nothing
must dpkg --purge migtrace
must_not test -e $records
# The journal is of another program, and names none in its files.
find / -xdev -name '*migtrace*' >/run/left
must test ! -s /run/left
must_not grep -q migtrace /etc/passwd /etc/group /var/lib/dpkg/status
end

must tar --create --file=/dev/vdb --directory=$results .
echo "init: success"
