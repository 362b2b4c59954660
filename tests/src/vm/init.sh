#!/bin/busybox sh
# The first process of a VM. Its arguments come from the kernel's command line, after `--`: `shell`, `test` and perhaps a
# test's name, `host` and the address that it has in a lab, or `debian`.

/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
# Real programs come first: busybox has an `ip` and a `tc` of its own that cannot do what the lab asks. For the same
# reason /bin/sh is the host's: busybox's prefers its own programs whatever PATH says.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
busybox --install -s /bin 2>/dev/null

mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd
ip link set lo up
hostname vm
# The kernel reports a soft lockup after twice this time. A busy machine may keep an emulated CPU waiting for longer than
# the default of 20 s.
echo 30 >/proc/sys/kernel/watchdog_thresh
# A receiver that an emulated CPU keeps waiting must not lose packets: the tests count them.
echo 100000 >/proc/sys/net/core/netdev_max_backlog

# Their names begin with numbers: each module follows those that it needs.
for module in /modules/*.ko; do
    insmod "$module" || echo "init: cannot load $module"
done

export MIGTRACE_VM=1 MIGTRACE_BIN=/usr/bin/migtrace
export MIGTRACE_LAB_CACHE=/lab MIGTRACE_LAB_INIT=/lab/init

what=$1
shift
case $what in
shell)
    echo "init: the tests are /tests/kernel and /tests/lab; leave with \`exit\`, or from outside with Ctrl-A X"
    # A session with a terminal, so that Ctrl-C works.
    setsid cttyhack /bin/sh -l
    ;;
test)
    echo "init: testing"
    verdict=success
    filter=$1
    # Runs those tests of a program whose names contain a line of a text, and the filter.
    run() {
        list=$("$1" --list --format terse) || verdict=failure
        names=$(echo "$list" | sed -n 's/: test$//p' | grep -F -- "$2" | grep -F -- "$filter")
        if [ -n "$names" ]; then
            # shellcheck disable=SC2086 # a name is a word
            "$1" --test-threads=1 --exact $names || verdict=failure
        elif [ -z "$filter" ]; then
            echo "init: $1 has no test of these names: $2"
            verdict=failure
        fi
    }
    run /tests/kernel "$(cat /tests/kernel.names)"
    # Of the tests in the lab, only those that are about kernels.
    run /tests/lab other_kernels::
    echo "init: $verdict"
    ;;
host)
    hostname lab-vm
    ip address add "$1" dev eth0
    ip link set eth0 up
    migtrace-lab agent
    ;;
debian)
    # The disk has a whole system, whose own init goes on. It finds what else it needs in /run.
    mkdir /debian
    mount /dev/vda /debian
    mount -t tmpfs tmpfs /debian/run
    cp -r /payload/. /debian/run
    exec switch_root /debian /sbin/init
    ;;
esac
poweroff -f
