//! Instructions that have rules of their own: ONBUILD, SHELL, MAINTAINER, FROM, owners and modes.

use std::{fs, os::unix::fs::MetadataExt as _};

use serde_json::json;

use super::bench::{Bench, alpine, list, tar_file, with_owners};

/// Builds and tags an image of this Dockerfile.
fn tagged(bench: &Bench, tag: &str, dockerfile: &str) {
    bench.write("Dockerfile", dockerfile);
    bench.build(&["-t", tag]);
}

#[test]
fn triggers_run_once_and_are_not_inherited() {
    let Some(bench) = Bench::new(&[("f", "1"), ("g", "2")]) else { return };
    tagged(
        &bench,
        "base:1",
        "FROM scratch\nENV WHERE=/in\nONBUILD ARG NAME=plain\n\
         ONBUILD COPY f $WHERE/$NAME\nONBUILD COPY --from=other /from-other /in/\n\
         ONBUILD ENV TRIGGERED=yes\nCOPY g /g\n",
    );
    bench.write(
        "Dockerfile",
        "FROM scratch AS other\nCOPY g /from-other\nFROM base:1\nCOPY f /own\n",
    );
    let files = bench.files(&["--build-arg", "NAME=named"]);
    let expected = ["g 644 2", "in/ 755", "in/from-other 644 2", "in/named 644 1", "own 644 1"];
    assert_eq!(list(&files), expected);
    let child = bench.build(&["-t", "child:1"]);
    assert_eq!(child["config"]["OnBuild"], json!(null));
    let env = child["config"]["Env"].as_array().unwrap();
    assert!(env.contains(&json!("TRIGGERED=yes")), "{env:?}");
    // The grandchild has nothing to do.
    tagged(&bench, "grandchild:1", "FROM child:1\nCOPY f /third\n");
    // A stage of the same Dockerfile is a base like any other.
    bench.write(
        "Dockerfile",
        "FROM scratch AS low\nONBUILD COPY f /by-trigger\nFROM low AS mid\nFROM mid\nCOPY g /last\n",
    );
    assert_eq!(list(&bench.files(&[])), ["by-trigger 644 1", "last 644 2"]);
}

#[test]
fn what_cannot_be_a_trigger_is_refused() {
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    for (trigger, message) in [
        ("ONBUILD ONBUILD RUN x", "ONBUILD"),
        ("ONBUILD FROM scratch", "FROM"),
        ("ONBUILD MAINTAINER me", "MAINTAINER"),
    ] {
        bench.write("Dockerfile", &format!("FROM scratch\n{trigger}\n"));
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 1, "{trigger}");
        assert!(outcome.stderr.contains("Dockerfile:2"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    }
    // A trigger that fails points at the FROM that brought it.
    tagged(&bench, "base:2", "FROM scratch\nONBUILD COPY absent /x\n");
    bench.write("Dockerfile", "# first\nFROM base:2\nCOPY f /\n");
    let outcome = bench.run(&[]);
    assert_eq!(outcome.code, 1);
    for text in ["absent", "Dockerfile:2"] {
        assert!(outcome.stderr.contains(text), "{text}\n{}", outcome.stderr);
    }
}

#[test]
fn shell_is_what_shell_forms_are_given_to() {
    let Some(bench) = alpine(
        "SHELL [\"/bin/sh\", \"-c\", \"echo \\\"$0\\\" > /told; eval \\\"$0\\\"\"]\n\
         RUN true  &&   echo \"a  b\" > /made\n\
         RUN [\"/bin/sh\", \"-c\", \"echo exec > /exec\"]\n\
         SHELL [\"powershell\", \"-NoProfile\", \"-Command\"]\n\
         CMD Write-Host \"$env:X\"\nENTRYPOINT [\"/bin/e\"]\nHEALTHCHECK CMD Test-It\n",
    ) else {
        return;
    };
    let config = bench.build(&[]);
    let inner = &config["config"];
    assert_eq!(inner["Shell"], json!(["powershell", "-NoProfile", "-Command"]));
    let cmd = json!(["powershell", "-NoProfile", "-Command", "Write-Host \"$env:X\""]);
    assert_eq!(inner["Cmd"], cmd);
    assert_eq!(inner["Entrypoint"], json!(["/bin/e"]));
    assert_eq!(inner["Healthcheck"]["Test"], json!(["CMD-SHELL", "Test-It"]));
    let files = bench.files(&[]);
    let read = |name: &str| fs::read_to_string(files.join(name)).unwrap();
    assert_eq!(read("told"), "true  &&   echo \"a  b\" > /made\n");
    assert_eq!((read("made").as_str(), read("exec").as_str()), ("a  b\n", "exec\n"));
    bench.write("Dockerfile", "FROM scratch\nSHELL /bin/sh -c\n");
    let outcome = bench.run(&[]);
    assert!(outcome.code == 1 && outcome.stderr.contains("JSON"), "{}", outcome.stderr);
}

#[test]
fn maintainer_is_the_author() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nMAINTAINER A <a@x.example>\n")])
    else {
        return;
    };
    let config = bench.build(&["-t", "signed:1"]);
    assert_eq!(config["author"], "A <a@x.example>");
    assert_eq!(config["history"][0]["created_by"], "MAINTAINER A <a@x.example>");
    bench.write("Dockerfile", "FROM signed:1\nLABEL x=1\n");
    assert_eq!(bench.build(&[])["author"], "A <a@x.example>");
}

#[test]
fn from_takes_platforms_and_variables() {
    let Some(bench) = Bench::new(&[]) else { return };
    let build = |from: &str, args: &[&str]| {
        bench
            .write("Dockerfile", &format!("ARG P=linux/s390x\nARG B=scratch\n{from}\nLABEL x=1\n"));
        bench.run(args)
    };
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let arm: &[&str] = &["--platform", "linux/arm/v7"];
    for (from, args, architecture) in [
        ("FROM --platform=linux/arm64 scratch", &[][..], "arm64"),
        ("FROM --platform=$P scratch", &[], "s390x"),
        ("FROM --platform=${P:-x} ${B}", &["--build-arg", "P=linux/riscv64"], "riscv64"),
        ("FROM --platform=$BUILDPLATFORM scratch", arm, host),
        ("FROM --platform=$TARGETPLATFORM scratch", arm, "arm"),
        ("FROM scratch", arm, "arm"),
        ("FROM --platform=linux/$TARGETARCH scratch", &[], host),
    ] {
        let outcome = build(from, args);
        assert_eq!(outcome.code, 0, "{from}\n{}", outcome.stderr);
        assert_eq!(bench.config(&outcome)["architecture"], architecture, "{from}");
    }
    for (from, message) in [
        ("FROM --platform=a/b/c/d/e scratch", "platform"),
        ("FROM --platform=$NONE scratch", "the platform is empty"),
        ("FROM --platform=$P$NONE/ $NONE", "platform"),
    ] {
        let outcome = build(from, &[]);
        assert_eq!(outcome.code, 1, "{from}");
        for text in [message, "Dockerfile:3"] {
            assert!(outcome.stderr.contains(text), "{from} {text}\n{}", outcome.stderr);
        }
    }
}

#[test]
fn a_build_knows_its_target() {
    let Some(bench) = Bench::new(&[]) else { return };
    let steps = "ARG TARGETSTAGE\nENV TARGET=$TARGETSTAGE\n";
    for (last, args, target) in [
        ("AS Fin", &[][..], "fin"),
        ("", &[], "default"),
        ("AS fin", &["--target", "low"], "low"),
        ("AS fin", &["--target", "0"], "0"),
    ] {
        let stages = format!("FROM scratch AS low\n{steps}FROM scratch {last}\n{steps}");
        bench.write("Dockerfile", &stages);
        let config = bench.build(args);
        let env = config["config"]["Env"].as_array().unwrap();
        assert!(env.contains(&json!(format!("TARGET={target}"))), "{last} {args:?}: {env:?}");
    }
}

/// A name that is here as one image alone is no question for a registry.
#[test]
fn a_base_for_another_platform_is_taken_with_a_warning() {
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    bench.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
    bench.build(&["--platform", "linux/s390x", "-t", "other"]);
    bench.build(&["-t", "own"]);
    for (dockerfile, base, architecture) in [
        ("FROM other\nCOPY f /g\n", "other", "linux/s390x"),
        ("FROM --platform=linux/s390x own\nCOPY f /g\n", "own", "linux/s390x"),
        ("FROM scratch\nCOPY --from=other /f /g\n", "other", "linux/s390x"),
    ] {
        bench.write("Dockerfile", dockerfile);
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let warning = format!("InvalidBaseImagePlatform: `{base}` is for linux/");
        assert!(outcome.stderr.contains(&warning), "{dockerfile}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(architecture), "{dockerfile}: {}", outcome.stderr);
    }
    bench.write("Dockerfile", "FROM --platform=linux/s390x other\nCOPY f /g\n");
    let outcome = bench.run(&[]);
    assert!(!outcome.stderr.contains("InvalidBaseImagePlatform"), "{}", outcome.stderr);
}

/// `UID:GID MODE` of a file that was exported.
fn owner(path: &std::path::Path) -> String {
    let stat = path.symlink_metadata().unwrap();
    format!("{}:{} {:o}", stat.uid(), stat.gid(), stat.mode() & 0o7777)
}

#[test]
fn owners_are_numbers_or_names_of_the_stage() {
    let accounts = "root:x:0:0::/:\nweb:x:33:34:Web:/www:/bin/sh\nodd:x:99:notanumber\n";
    let Some(bench) = Bench::new(&[
        ("f", "1"),
        ("passwd", accounts),
        ("group", "root:x:0:\nstaff:x:50:web\n"),
        (
            "Dockerfile",
            "FROM scratch\nARG U=web\nARG G=staff\nCOPY passwd group /etc/\n\
             COPY --chown=web f /name\nCOPY --chown=web:staff f /both\nCOPY --chown=5 f /number\n\
             COPY --chown=5:6 f /numbers\nCOPY --chown=web:7 f /mixed\n\
             COPY --chown=$U:$G f /variables\nCOPY --chown=${X:-8}:staff f /default\n\
             ADD --chown=web --chmod=4755 f /add\nCOPY --chmod=u=rwx,go=r f /letters\n\
             COPY --chown=web --chmod=0400 <<EOF /new/inline\nx\nEOF\n\
             ADD --chown=11:12 x.tar /made/\n",
        ),
    ]) else {
        return;
    };
    fs::write(bench.context.join("x.tar"), tar_file("implied/dir/f", b"1")).unwrap();
    let Some(files) = with_owners(&bench.davit, |output| bench.run(&["-o", output])) else {
        return;
    };
    for (name, expected) in [
        ("name", "33:34 644"),
        ("both", "33:50 644"),
        ("number", "5:5 644"),
        ("numbers", "5:6 644"),
        ("mixed", "33:7 644"),
        ("variables", "33:50 644"),
        ("default", "8:50 644"),
        ("add", "33:34 4755"),
        ("letters", "0:0 744"),
        ("new/inline", "33:34 400"),
        ("new", "33:34 400"),
        ("made", "11:12 755"),
        // The archive only implies it.
        ("made/implied", "0:0 755"),
        ("made/implied/dir", "0:0 755"),
        ("made/implied/dir/f", "11:12 644"),
    ] {
        assert_eq!(owner(&files.join(name)), expected, "{name}");
    }
    // Files that are taken out belong to whoever takes them, other bits stay.
    let files = bench.files(&[]);
    for (name, expected) in [("both", "0:0 644"), ("add", "0:0 4755"), ("new", "0:0 400")] {
        assert_eq!(owner(&files.join(name)), expected, "{name}");
    }
    for (chown, message) in [
        ("wbe", "did you mean `web`?"),
        ("web:stafff", "did you mean `staff`?"),
        ("4294967296", "4294967296"),
        ("-1", "-1"),
    ] {
        let text = format!("FROM scratch\nCOPY passwd group /etc/\nCOPY --chown={chown} f /x\n");
        bench.write("Dockerfile", &text);
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 1, "{chown}");
        for text in [message, "Dockerfile:3"] {
            assert!(outcome.stderr.contains(text), "{chown} {text}\n{}", outcome.stderr);
        }
    }
}

/// The account files of a stage are content of strangers.
#[test]
fn hostile_account_files_neither_lead_out_nor_hang() {
    let Some(bench) = alpine(
        "FROM alpine AS out\nRUN rm /etc/passwd && ln -s ../../../../../../etc/shadow /etc/passwd\n\
         COPY --chown=nobody:nobody f /x\n\
         FROM alpine AS fifo\nRUN rm /etc/passwd && mkfifo /etc/passwd\nCOPY --chown=nobody f /x\n\
         FROM alpine AS loop\nRUN rm /etc/passwd && ln -s passwd /etc/passwd\n\
         COPY --chown=nobody f /x\n\
         FROM alpine AS inside\nRUN mv /etc/passwd /kept && ln -s /kept /etc/passwd\n\
         COPY --chown=nobody:nobody f /x\n\
         FROM alpine AS long\nRUN echo \"$(yes | head -c 3000000 | tr -d '\\n')\" >> /etc/passwd\n\
         COPY --chown=nobody f /x\n",
    ) else {
        return;
    };
    bench.write("f", "1");
    for stage in ["out", "fifo", "loop"] {
        let outcome = bench.run(&["--target", stage]);
        assert_eq!(outcome.code, 1, "{stage}\n{}", outcome.stderr);
        assert!(outcome.stderr.contains("COPY --chown=nobody"), "{stage}\n{}", outcome.stderr);
    }
    for stage in ["inside", "long"] {
        let build = |output: &str| bench.run(&["--target", stage, "-o", output]);
        let Some(files) = with_owners(&bench.davit, build) else { return };
        assert_eq!(owner(&files.join("x")), "65534:65534 644", "{stage}");
    }
}
