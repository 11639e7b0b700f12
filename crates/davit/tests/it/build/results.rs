//! When an earlier result stands for a step that ran again: if nobody could tell the two apart.

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use super::bench::{Bench, alpine, list, tar_file};

/// The times of these files, in seconds since 1970.
fn times(bench: &Bench, names: &[&str], args: &[&str]) -> Vec<i64> {
    let files = bench.files(args);
    names.iter().map(|name| files.join(name).metadata().unwrap().mtime()).collect()
}

#[test]
fn times_that_a_command_sets_are_part_of_its_result() {
    let steps = |time: &str| {
        format!(
            "FROM scratch\nADD alpine.tar.gz /\nRUN touch -d '2020-01-01 00:00:00' /a /b\n\
             RUN touch -d '{time}-01-01 00:00:00' /b; echo {time}\n\
             RUN [ /b -nt /a ] && echo newer > /r || echo older > /r\n"
        )
    };
    let Some(bench) = alpine("") else { return };
    for (time, result) in [("2021", "newer"), ("2019", "older"), ("2021", "newer")] {
        bench.write("Dockerfile", &steps(time));
        let found = fs::read_to_string(bench.files(&[]).join("r")).unwrap();
        assert_eq!(found.trim(), result, "{time}");
    }
}

#[test]
fn a_result_of_now_is_as_good_as_an_earlier_one() {
    let Some(bench) = alpine(
        "RUN echo 1 >/dev/null; mkdir /n; touch /n/f; touch -d '2020-01-01 00:00:00' /old\nRUN touch /z\n",
    ) else {
        return;
    };
    bench.build(&[]);
    let dockerfile = fs::read_to_string(bench.context.join("Dockerfile")).unwrap();
    bench.write("Dockerfile", &dockerfile.replace("echo 1", "echo 2"));
    let again = bench.run(&[]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(again.stderr.contains("same result as before"), "{}", again.stderr);
    assert!(
        again.stderr.contains("CACHED [2/3]") || again.stderr.matches("CACHED").count() > 1,
        "{}",
        again.stderr
    );
}

#[test]
fn times_of_an_unpacked_archive_are_content() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nADD x.tar /\n")]) else { return };
    for time in [1_500_000_000, 1_400_000_000] {
        let mut tar = [tar_file("f", b"1"), vec![0; 1024]].concat();
        tar[136..148].copy_from_slice(format!("{time:011o}\0").as_bytes());
        tar[148..156].copy_from_slice(b"        ");
        let sum: u32 = tar[..512].iter().map(|&byte| u32::from(byte)).sum();
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        fs::write(bench.context.join("x.tar"), &tar).unwrap();
        assert_eq!(times(&bench, &["f"], &[]), [time]);
    }
}

#[test]
fn an_epoch_does_not_depend_on_the_cache() {
    let dockerfile = "FROM scratch\nWORKDIR /w\nCOPY f /w/\nCOPY <<x /\ny\nx\n";
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", dockerfile)]) else { return };
    let names = ["w", "w/f", "x"];
    let plain = times(&bench, &names, &[]);
    for epoch in [1000, 500] {
        let arg = format!("SOURCE_DATE_EPOCH={epoch}");
        let args = ["--build-arg", &arg];
        assert_eq!(times(&bench, &names, &args), [epoch; 3]);
        let config = bench.build(&args);
        for entry in config["history"].as_array().unwrap() {
            let created = entry["created"].as_str().unwrap();
            assert!(created.starts_with("1970-01-01T00:"), "{created}");
        }
    }
    assert_eq!(times(&bench, &names, &[]), plain);
}

#[test]
fn an_epoch_may_stand_in_the_dockerfile() {
    let dockerfile = "ARG SOURCE_DATE_EPOCH=700\nFROM scratch\nWORKDIR /w\nCOPY f /w/\n";
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", dockerfile)]) else { return };
    let names = ["w", "w/f"];
    assert_eq!(times(&bench, &names, &[]), [700; 2]);
    assert_eq!(bench.build(&[])["created"], "1970-01-01T00:11:40Z");
    let given = ["--build-arg", "SOURCE_DATE_EPOCH=800"];
    assert_eq!(times(&bench, &names, &given), [800; 2]);
    let none = ["--build-arg", "SOURCE_DATE_EPOCH="];
    assert!(times(&bench, &names, &none).iter().all(|&time| time > 1_000_000));
}

#[test]
fn every_file_that_is_put_out_has_the_epochs_time() {
    let dockerfile = "FROM scratch\nADD x.tar /\nCOPY f /w/\n";
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", dockerfile)]) else { return };
    fs::write(bench.context.join("x.tar"), tar_file("u", b"2")).unwrap();
    let names = ["u", "w", "w/f"];
    let arg = ["--build-arg", "SOURCE_DATE_EPOCH=900"];
    assert_eq!(times(&bench, &names, &arg), [900; 3]);
    let (file, folder) = (bench.context.join("out.tar"), bench.context.join("unpacked"));
    fs::create_dir(&folder).unwrap();
    let output = format!("type=tar,dest={}", file.display());
    let outcome = bench.run(&[&arg[..], &["-o", &output]].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let unpack = Command::new("tar").arg("-C").arg(&folder).arg("-xf").arg(&file).status();
    assert!(unpack.unwrap().success());
    for name in names {
        assert_eq!(folder.join(name).metadata().unwrap().mtime(), 900, "{name}");
    }
}

#[test]
fn a_reason_is_found_where_a_build_differs_from_the_last_one() {
    let dockerfile = "FROM scratch\nCOPY one /one\nADD s /s\n";
    let files = [("one", "1"), ("s/f", "1"), ("Dockerfile", dockerfile)];
    let Some(bench) = Bench::new(&files) else { return };
    for content in ["1", "2", "1"] {
        bench.write("s/f", content);
        bench.build(&[]);
    }
    bench.write("one", "2");
    let outcome = bench.run(&["--explain"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("content of s"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("s/f"), "{}", outcome.stderr);
    assert!(outcome.stderr.matches("COPY one").count() > 1, "{}", outcome.stderr);

    bench.write("Dockerfile", "FROM scratch\nCOPY . /c/\n");
    bench.build(&[]);
    bench.write("one", "3");
    let outcome = bench.run(&["--explain"]);
    assert!(outcome.stderr.contains("content of . changed"), "{}", outcome.stderr);
}

#[test]
fn root_needs_no_files_and_has_its_groups() {
    let steps = "USER root\nWORKDIR /x\nCOPY --chown=root:root f /f\n";
    let files = [("f", "1"), ("Dockerfile", &*format!("FROM scratch\n{steps}"))];
    let Some(bench) = Bench::new(&files) else { return };
    assert_eq!(list(&bench.files(&[])), ["f 644 1", "x/ 755"]);
    let Some(bench) = alpine("RUN id -G > /groups\n") else { return };
    let groups = fs::read_to_string(bench.files(&[]).join("groups")).unwrap();
    assert!(groups.starts_with("0 ") && groups.contains(" 10 "), "{groups}");
}

/// As BuildKit has it: each source is copied for itself.
#[test]
fn several_sources_need_no_slash() {
    let Some(bench) = Bench::new(&[("a", "1"), ("b", "2"), ("d/c", "3")]) else { return };
    for (steps, expected) in [
        ("WORKDIR /app\nCOPY a b /app", &["app/ 755", "app/a 644 1", "app/b 644 2"][..]),
        ("COPY a b /app", &["app 644 2"]),
        ("COPY b /app\nCOPY b a /app", &["app 644 1"]),
        ("COPY d a /app", &["app/ 755", "app/a 644 1", "app/c 644 3"]),
    ] {
        bench.write("Dockerfile", &format!("FROM scratch\n{steps}\n"));
        assert_eq!(list(&bench.files(&[])), expected, "{steps}");
    }
}
