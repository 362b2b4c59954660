//! The method of 2014 beside each run: what was not measured is said, and nobody can make numbers up.

use std::fs;

use crate::scene::Scene;

/// A study of one run with a `ping` that prints this, then waits as ping does.
fn pinged(script: &str, meter: &str) -> Scene {
    let scene = Scene::of_two_cells("[[except]]\nsize = \"large\"");
    scene.write_program("ping", &format!("#!/bin/sh\n{script}\n"));
    let plan = fs::read_to_string(scene.path("plan.toml")).unwrap();
    scene.write_plan(&format!("{plan}[old_method]\nping = \"192.0.2.1\"\n{meter}\n"));
    scene.change_plan("sleep 0.1", "sleep 1.1");
    scene
}

fn run(scene: &Scene) -> migtrace::study::run::Run {
    let path = format!("{}:{}", scene.path("").display(), std::env::var("PATH").unwrap());
    let done = scene.run(&[("PATH", &path)]);
    assert_eq!(done.code, Some(0), "{done:?}");
    scene.read_run("001-small-1")
}

#[test]
fn pings_are_counted_as_ping_saw_them() {
    // Six in 1.1 s, of which two are not answered.
    let scene = pinged(
        "echo \"$*\" > arguments; trap 'echo; echo \"6 packets transmitted, 3 received\"; exit 0' INT\n\
         echo 'PING 192.0.2.1 (192.0.2.1) 56(84) bytes of data.'\n\
         for i in 1 2 5; do echo \"64 bytes from 192.0.2.1: icmp_seq=$i ttl=64 time=0.3 ms\"; done\n\
         while :; do sleep 0.05; done",
        "",
    );
    let pings = run(&scene).old_method.pings.unwrap();
    assert_eq!((pings.sent, pings.lost, pings.interval_ns), (5, 2, 200_000_000));
    assert_eq!(pings.downtime_ns(), 400_000_000);
    assert_eq!(fs::read_to_string(scene.path("arguments")).unwrap(), "-n -i 0.2 -O -- 192.0.2.1\n");
}

#[test]
fn hostile_or_missing_pings_are_not_measured() {
    for (script, why) in [
        ("echo 'ping: connect: Network is unreachable' >&2; exit 2", "Network is unreachable"),
        (
            "echo 'PING 192.0.2.1 (192.0.2.1) 56(84) bytes of data.'; echo '64 bytes from 192.0.2.1: icmp_seq=60000 ttl=64 time=1 ms'",
            "60000 requests in",
        ),
        (
            "yes '64 bytes from 192.0.2.1: icmp_seq=1 ttl=64 time=1 ms' | head -c 70000000",
            "wrote more than ping does",
        ),
        ("exec sleep 1000", "ping has not begun on this host"),
    ] {
        let run = run(&pinged(script, ""));
        assert_eq!(run.old_method.pings, None);
        let [not] = &run.not_measured[..] else { panic!("{:?}", run.not_measured) };
        assert_eq!(not.what, "lost pings (the method of 2014)");
        assert!(not.why.contains(why), "{}", not.why);
    }
}

#[test]
fn a_host_without_ping_or_that_cannot_be_reached_is_named() {
    let scene = pinged("exit 1", "ping_from = \"host-c\"\nmeter_host = \"host-c\"");
    scene.change_plan("[record]\n", "[record]\nrsh = \"./rsh\"\n");
    scene.write_program("rsh", "#!/bin/sh\necho \"ssh: connect to $1: No route to host\" >&2\nexit 255\n");
    let unreachable = run(&scene);
    let whys: Vec<_> = unreachable.not_measured.iter().map(|not| not.why.as_str()).collect();
    assert_eq!(whys.len(), 2, "{whys:?}");
    assert!(whys.iter().all(|why| why.contains("host-c") && why.contains("exit code 255")), "{whys:?}");
    assert!(whys.iter().all(|why| why.contains("No route to host")), "{whys:?}");

    let scene =
        pinged("exit 1", "ping_from = \"host-c\"\nmeter_host = \"host-c\"\nmeter_interface = \"eth9\"");
    scene.change_plan("[record]\n", "[record]\nrsh = \"./rsh -x\"\n");
    // A host whose shell has no ping, and whose counters are these. They grow before each look.
    scene.write_program(
        "rsh",
        "#!/bin/sh\n[ \"$1 $2\" = '-x host-c' ] || exit 9\nmkdir -p bin; ln -sf /bin/cat /bin/sh bin\n\
         case \"$3\" in */proc/net/dev*) sed -i 's/eth9: [0-9]*/&0/' counters ;; esac\nPATH=$PWD/bin; cd /\n\
         eval \"$(printf %s \"$3\" | /bin/sed \"s|/proc/net/dev|$OLDPWD/counters|\")\"\n",
    );
    scene.write("counters", "a|b\nc|d\n eth9: 7 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n   lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n");
    let metered = run(&scene);
    let [not] = &metered.not_measured[..] else { panic!("{:?}", metered.not_measured) };
    assert!(not.why.contains("ping is not installed"), "{}", not.why);
    let meter = metered.old_method.meter.unwrap();
    assert_eq!((meter.rx_bytes, meter.tx_bytes), (700 - 70, 0));
    assert_eq!((meter.host.as_deref(), meter.interfaces), (Some("host-c"), vec!["eth9".to_owned()]));
}
