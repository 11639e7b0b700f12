//! What `create` answers: 125 for a word that is none, 1 for a wish that nothing can fulfil, as
//! Docker's command line and daemon share the work; `run` answers 125 for both.

use crate::machine::Machine;

/// Flag, value, code of `create`, and a part of the error.
type Answer<'a> = (&'a str, &'a str, i32, &'a str);

const CASES: [Answer<'_>; 21] = [
    ("-a", "bogus", 125, "valid streams are STDIN, STDOUT and STDERR"),
    ("--cpus", "x", 125, "failed to parse x as a rational number"),
    ("--device-cgroup-rule", "x", 125, "invalid device cgroup format"),
    ("--health-retries", "-1", 125, "--health-retries cannot be negative"),
    ("--memory-swappiness", "101", 125, "valid memory swappiness range is 0-100"),
    ("--memory-swappiness", "-2", 125, "valid memory swappiness range is 0-100"),
    ("--mount", "dst=/a,foo=1", 125, "unexpected key 'foo'"),
    ("--mount", "dst=rel", 1, "mount path must be absolute"),
    ("--mount", "type=x,dst=/a", 1, "mount type unknown"),
    ("-v", "a:rel", 1, "mount path must be absolute"),
    ("-v", "a:/b:xx", 1, "invalid mode: xx"),
    ("--restart", "bogus", 1, "restart policy"),
    ("--restart", "always:3", 1, "restart policy"),
    ("--restart", "on-failure:x", 125, "restart policy"),
    ("--restart", "on-failure:-1", 1, "restart policy"),
    ("--security-opt", "a=b", 1, "invalid --security-opt"),
    ("--security-opt", "nosuch", 125, "invalid --security-opt"),
    ("--sysctl", "vm.swappiness=1", 125, "sysctl 'vm.swappiness' is not allowed"),
    ("--sysctl", "kernel.panic=1", 125, "sysctl 'kernel.panic' is not allowed"),
    ("--memory", "1m", 1, "Minimum memory limit allowed is 6MB"),
    ("--health-interval", "1us", 1, "Interval in Healthcheck cannot be less than 1ms"),
];

#[test]
fn create_tells_words_from_wishes() {
    let Some(machine) = Machine::new() else { return };
    for (flag, value, code, words) in CASES {
        for (verb, code) in [("create", code), ("run", 125)] {
            let refused = machine.run(&[verb, flag, value, "busybox", "true"]);
            assert_eq!(refused.code, code, "{verb} {flag} {value}: {}", refused.stderr);
            assert!(refused.stderr.contains(words), "{verb} {flag} {value}: {}", refused.stderr);
        }
    }
    assert_eq!(machine.ok(&["ps", "-aq"]), "");
    for cpus in ["1/2", "5e-1", "0.5"] {
        let id = machine.ok(&["create", "--cpus", cpus, "busybox"]);
        assert_eq!(machine.ok(&["inspect", "-f", "{{.HostConfig.NanoCpus}}", &id]), "500000000");
    }
}
