//! What a build refuses, and how it says so.

use super::bench::{Bench, list};

/// Names of heredocs are resolved as in the root of a context, and a name that no file system
/// holds makes no layer.
#[test]
fn no_path_of_a_layer_leads_out_of_it() {
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    let dockerfile = |steps: &str| bench.write("Dockerfile", &format!("FROM scratch\n{steps}\n"));
    dockerfile("COPY <<../../z /d/\nq\n../../z\nADD <</abs <<./dot /d/\n1\n/abs\n2\n./dot\n");
    let config = bench.build(&["-t", "t"]);
    let history = &config["history"][0]["created_by"];
    assert_eq!(history, "COPY <<../../z /d/ # buildkit");
    let files = ["d/ 755", "d/abs 644 1", "d/dot 644 2", "d/z 644 q"];
    assert_eq!(list(&bench.files(&[])), files);
    let long = "a".repeat(256);
    let deep = vec!["d".repeat(255); 17].join("/");
    for (steps, message) in [
        ("COPY <<. /d/\nq\n.\n".to_owned(), "`.` is no name of a file"),
        ("COPY <<a//b /d/\nq\na//b\n".to_owned(), "`a//b` is no name of a file"),
        (format!("WORKDIR /{long}"), "longer than 255 bytes"),
        (format!("COPY f /d/{long}"), "longer than 255 bytes"),
        (format!("COPY <<{long} /d/\nq\n{long}\n"), "longer than 255 bytes"),
        (format!("WORKDIR /{deep}"), "longer than 4096 bytes"),
    ] {
        dockerfile(&steps);
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 1, "{steps}");
        assert!(outcome.stderr.contains(message), "{steps}: {}", outcome.stderr);
    }
    assert!(bench.davit.ok(["system", "check"]).contains("no faults"));
}
