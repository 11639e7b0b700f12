//! The behaviours that BuildKit's own tests of its cache are named after, where another file does
//! not have them: `NoCache`, `ImageManifestCacheImportExport` and the local and registry forms of
//! `CacheImportExport` are in `cache` and `shared_cache`.

use std::fs;

use super::bench::{Bench, alpine};
use crate::davit;

const EPOCH: &str = "--build-arg=SOURCE_DATE_EPOCH=1700000000";

fn other(bench: &Bench) -> Bench {
    Bench { davit: davit(), context: bench.context.clone() }
}

/// Builds; gives the image and what was told.
fn built(bench: &Bench, args: &[&str]) -> (String, String) {
    let outcome = bench.run(args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let id = outcome.stderr.split("Built sha256:").nth(1).unwrap()[..64].to_owned();
    (id, outcome.stderr)
}

/// `WildcardRenameCache`: the names that a pattern finds are part of what a copy reads.
#[test]
fn a_file_with_another_name_is_another_copy() {
    let Some(bench) = alpine("COPY file* /files/\nRUN ls /files/file1\n") else { return };
    bench.write("file1", "1");
    built(&bench, &[]);
    fs::rename(bench.context.join("file1"), bench.context.join("file2")).unwrap();
    let failed = bench.run(&[]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stderr.contains("/files/file1"), "{}", failed.stderr);
}

/// `CacheMountModeNoCache`: a cache mount has its mode with and without the cache.
#[test]
fn a_cache_mount_has_its_mode_without_the_cache() {
    let show = "RUN --mount=type=cache,target=/c,mode=0773 stat -c %a /c >/mode\n";
    let Some(bench) = alpine(show) else { return };
    for args in [&[][..], &["--no-cache"], &["--no-cache", "--no-cache-mounts"]] {
        let mode = fs::read_to_string(bench.files(args).join("mode")).unwrap();
        assert_eq!(mode, "773\n", "{args:?}");
    }
}

/// `ExportCacheLoop`: stages that copy from each other's bases, each result shared once.
#[test]
fn stages_that_read_each_others_bases_are_shared() {
    let dockerfile = "FROM scratch AS base\nCOPY f /f\nWORKDIR /w\nFROM base AS one\n\
                      COPY --from=base / /out/\nFROM one AS two\nCOPY --from=base /f /w/f\n\
                      FROM base\nCOPY --from=two /out /again\nCOPY --from=one / /all/\n";
    let files = [("f", "1"), ("Dockerfile", dockerfile)];
    let Some(bench) = Bench::new(&files) else { return };
    let folder = bench.davit.dir().join("cache");
    let to = format!("type=local,dest={},mode=max", folder.display());
    let from = format!("type=local,src={}", folder.display());
    let (id, _) = built(&bench, &[EPOCH, "--cache-to", &to]);
    let (again, told) = built(&other(&bench), &[EPOCH, "--cache-from", &from]);
    assert!(again == id && told.contains("(6 of 6 steps cached)"), "{told}");
}

/// `ReproducibleIDs`, `ImportExportReproducibleIDs` and `CacheMultiPlatformImportExport`: images are
/// the same wherever their results come from, for each platform.
#[test]
fn images_are_the_same_wherever_their_results_come_from() {
    let dockerfile = "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\nWORKDIR /w\n";
    let files = [("f", "1"), ("Dockerfile", dockerfile)];
    let Some(bench) = Bench::new(&files) else { return };
    let folder = bench.davit.dir().join("cache");
    let to = format!("type=local,dest={}", folder.display());
    let from = format!("type=local,src={}", folder.display());
    let several = [EPOCH, "--platform", "linux/amd64,linux/arm64"];
    let layout = |bench: &Bench, args: &[&str]| {
        let file = bench.davit.dir().join("out.tar");
        let spec = format!("type=oci,dest={}", file.display());
        let outcome = bench.run(&[&several[..], args, &["-o", &spec]].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        (fs::read(file).unwrap(), outcome.stderr)
    };
    let (first, _) = layout(&bench, &["--cache-to", &to]);
    assert!(layout(&bench, &["--no-cache"]).0 == first);
    let (imported, told) = layout(&other(&bench), &["--cache-from", &from]);
    assert!(told.contains("(4 of 4 steps cached)"), "{told}");
    assert!(imported == first);
}

/// `CacheReleased`: what builds leave is let go by a prune, whatever they read.
#[test]
fn nothing_holds_what_builds_left() {
    let files = [("f", "1"), ("d/g", "2"), ("Dockerfile", "FROM scratch\nCOPY f /\nCOPY d /d\n")];
    let Some(bench) = Bench::new(&files) else { return };
    for content in ["1", "2", "1"] {
        bench.write("f", content);
        assert_eq!(bench.run(&["-o", "type=cacheonly"]).code, 0);
    }
    bench.davit.ok(["builder", "prune", "--all", "--force"]);
    let layers = fs::read_dir(bench.davit.root().join("layers/sha256"));
    assert_eq!(layers.map_or(0, Iterator::count), 0);
    assert_eq!(bench.davit.ok(["builder", "du", "--format", "{{.ID}}"]), "");
}

/// An early cut-off: a command that runs again and gives the same leaves what follows cached, but
/// not where it was asked to run.
#[test]
fn a_command_that_gives_the_same_ends_the_miss() {
    let Some(bench) = alpine("ARG N\nRUN echo 1 > /one\nRUN echo two > /two\n") else { return };
    built(&bench, &["--build-arg", "N=1"]);
    let (_, told) = built(&bench, &["--build-arg", "N=2", "--explain"]);
    assert!(told.contains("same result as before"), "{told}");
    let (_, told) = built(&bench, &["--build-arg", "N=2", "--no-cache"]);
    assert!(!told.contains("same result as before") && told.contains("(0 of 3"), "{told}");
}
