#!/bin/busybox sh
# The first process of the test VM. Its arguments come from the kernel's command line, after `--`:
# `shell`, or `test` and perhaps a test's name.

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
# A lockup is one after twice this time; the default of 20 s is less than a busy machine may keep an emulated CPU waiting.
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
    # Of the library's own tests of its kernel side those that a kernel may answer differently: frames of every shape and
    # random ones, handshakes, filters. Each loads all programs, which takes seconds on an emulated CPU.
    kernel_tests=$(/tests/kernel --list --format terse | sed -n 's/^\(kernel::.*\): test$/\1/p' |
        grep -E 'every_shape|ever_withheld|opening::a_(handshake|new_connection)|tc::tests::what_is_left' | grep -F -- "$1")
    if [ -n "$kernel_tests" ]; then
        # shellcheck disable=SC2086 # a name is a word
        /tests/kernel --test-threads=1 --exact $kernel_tests || verdict=failure
    fi
    # Of the tests in the lab those that are about kernels.
    lab_tests=$(/tests/lab --list --format terse | sed -n 's/^\(other_kernels::.*\): test$/\1/p' | grep -F -- "$1")
    if [ -n "$lab_tests" ]; then
        # shellcheck disable=SC2086 # a name is a word
        /tests/lab --test-threads=1 --exact $lab_tests || verdict=failure
    fi
    echo "init: $verdict"
    ;;
esac
poweroff -f
