//! Names that stand for images of several platforms: what each verb takes, and what it leaves.

use davit_engine::image::{Digest, Platform};
use davit_test::{Content, Davit, HttpServer, Outcome, need_root};

use super::{davit, layer, serve};

const OTHERS: [&str; 4] = ["linux/arm64", "linux/arm/v6", "linux/arm/v7", "linux/riscv64"];

/// A registry with an index of this machine's platform and four others; their images' IDs.
fn registry() -> (HttpServer, String, Vec<(Platform, Digest)>) {
    let mut content = Content::default();
    let others = OTHERS.map(|text| text.parse::<Platform>().unwrap());
    let platforms = [vec![Platform::host()], others.to_vec()].concat();
    let images: Vec<_> = platforms
        .iter()
        .map(|platform| {
            let name = platform.to_string().replace('/', "-");
            (platform, content.add_image(&name, platform, &[layer(&name)]))
        })
        .collect();
    let entries: Vec<_> = images.iter().map(|(platform, image)| (*platform, image)).collect();
    content.add_index("all", &entries);
    let ids = images.iter().map(|(platform, image)| ((*platform).clone(), image.id)).collect();
    let server = serve(content);
    let name = format!("{}/x:all", server.host());
    (server, name, ids)
}

fn id(davit: &Davit, name: &str) -> String {
    davit.ok(["inspect", "--type", "image", "--format", "{{.Id}}", name])
}

fn image_of(davit: &Davit, container: &str) -> String {
    davit.ok(["inspect", "--format", "{{.Image}}", container])
}

fn build(davit: &Davit, dockerfile: &str, pull: &str) -> Outcome {
    let folder = davit.dir().join("context");
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("Dockerfile"), dockerfile).unwrap();
    davit.run(["build", &format!("--pull={pull}"), "-t", "built", folder.to_str().unwrap()])
}

#[test]
fn a_pull_takes_the_best_of_an_index() {
    let (_server, name, ids) = registry();
    let davit = davit();
    let of = |text: &str| {
        let platform: Platform = text.parse().unwrap();
        ids.iter().find(|(known, _)| *known == platform).unwrap().1.to_string()
    };
    for (asked, given) in [
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v8", "linux/arm/v7"),
    ] {
        davit.ok(["pull", "-q", "--platform", asked, &name]);
        assert_eq!(id(&davit, &name), of(given), "{asked}");
    }
    let again = davit.run(["pull", "--platform", "linux/arm/v8", &name]);
    assert!(again.stderr.contains("Image is up to date"), "{}", again.stderr);
}

/// Nothing but a pull moves a tag, and what is here needs no network.
#[test]
fn what_is_here_for_a_platform_is_taken() {
    if !need_root() {
        return;
    }
    let (server, name, ids) = registry();
    let (host, arm) = (ids[0].1.to_string(), ids[1].1.to_string());
    let davit = davit();
    davit.ok(["pull", "-q", "--platform", "linux/arm64", &name]);
    let foreign = davit.run(["create", &name, "x"]);
    let expected = "WARNING: The requested image's platform (linux/arm64) does not match the \
                    detected host platform (";
    assert!(foreign.stderr.starts_with(expected), "{}", foreign.stderr);
    let end = ") and no specific platform was requested\n";
    assert!(foreign.stderr.ends_with(end), "{}", foreign.stderr);
    // A build brings what is missing, and names nothing by it.
    let built =
        build(&davit, &format!("FROM --platform=linux/riscv64 {name}\nCOPY . /new\n"), "missing");
    assert_eq!(built.code, 0, "{}", built.stderr);
    assert_eq!(id(&davit, &name), arm);
    // Where there is no other, it says which one is here.
    let local = name.replace("/x:all", "/local:1");
    davit.ok(["tag", &name, &local]);
    for policy in ["missing", "never"] {
        let refused = build(&davit, &format!("FROM {local}\nCOPY . /new\n"), policy);
        let told = format!("{local} is here for linux/arm64 and not for linux/");
        assert_eq!(refused.code, 1, "{policy}");
        for text in [&told, "`FROM --platform=linux/arm64`"] {
            assert!(refused.stderr.contains(text), "{policy}: {}", refused.stderr);
        }
    }
    davit.ok(["rmi", &local]);
    davit.ok(["pull", "-q", &name]);
    assert_eq!(id(&davit, &name), host);
    let own = davit.run(["create", &name, "x"]);
    assert_eq!(own.stderr, "");
    drop(server);
    let created = davit.run(["create", "--platform", "linux/arm64", &name, "x"]);
    assert_eq!((created.code, created.stderr.as_str()), (0, ""));
    assert_eq!(image_of(&davit, created.stdout.trim()), arm);
    for platform in ["linux/arm64", "linux/riscv64"] {
        let text = format!("FROM --platform={platform} {name}\nCOPY . /newer\n");
        let built = build(&davit, &text, "missing");
        assert_eq!(built.code, 0, "{platform}: {}", built.stderr);
    }
    assert_eq!(id(&davit, &name), host);
    let known = davit.ok(["inspect", "--type", "image", "-f", "{{len .RepoDigests}}", &name]);
    assert_eq!(known, "1");
    davit.ok(["system", "check"]);
}

#[test]
fn a_base_of_another_platform_gets_no_name() {
    if !need_root() {
        return;
    }
    let (_server, name, _) = registry();
    let davit = davit();
    let built =
        build(&davit, &format!("FROM --platform=linux/arm64 {name}\nCOPY . /new\n"), "missing");
    assert_eq!(built.code, 0, "{}", built.stderr);
    let names = davit.ok(["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(names, "built:latest");
}

#[test]
fn a_loaded_index_serves_all_its_platforms() {
    let (_server, name, ids) = registry();
    let (saver, davit) = (davit(), davit());
    let archive = davit.dir().join("multi.tar");
    let archive = archive.to_str().unwrap();
    for (platform, _) in &ids {
        saver.ok(["pull", "-q", "--platform", &platform.to_string(), &name]);
    }
    saver.ok(["save", "-o", archive, &name]);
    for refused in ["linux/s390x", "windows/amd64"] {
        let outcome = davit.run(["load", "-i", archive, "--platform", refused]);
        assert_eq!(outcome.code, 1, "{}", outcome.stdout);
        let told = format!("has no image for {refused} (it has {}, ", Platform::host());
        assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
        assert_eq!(davit.ok(["images", "-q"]), "");
    }
    davit.ok(["load", "-i", archive]);
    assert_eq!(id(&davit, &name), ids[0].1.to_string());
    for (platform, expected) in &ids {
        let platform = platform.to_string();
        let created = davit.ok(["create", "--platform", &platform, "--pull", "never", &name, "x"]);
        assert_eq!(image_of(&davit, &created), expected.to_string(), "{platform}");
    }
    for (platform, expected) in &ids {
        let platform = platform.to_string();
        let inspect = ["image", "inspect", "-f", "{{.Id}} {{.RepoTags}}", "--platform"];
        let shown = davit.ok([&inspect[..], &[&platform, &name]].concat());
        assert_eq!(shown, format!("{expected} [{name}]"));
        let told = davit.ok(["history", "--platform", &platform, "-q", "--no-trunc", &name]);
        assert_eq!(told, expected.to_string());
    }
    let absent = davit.run(["history", "--platform", "linux/s390x", &name]);
    assert!(absent.stderr.contains("does not provide the specified platform"), "{absent:?}");
    // A container needs the image; without one it goes alone.
    let other = ids[1].0.to_string();
    let rmi = |more: &[&str]| davit.run([&["rmi", "--platform", &other, &name], more].concat());
    let refused = rmi(&[]);
    assert!(refused.stderr.contains("is being used by stopped container"), "{refused:?}");
    // Several go together or not at all.
    let with = |next: &str| davit.run(["rmi", "--platform", &format!("{other},{next}"), &name]);
    let (own, third) = (ids[0].0.to_string(), ids[2].0.to_string());
    for container in davit.ok(["ps", "-aq"]).lines() {
        if image_of(&davit, container) != ids[2].1.to_string() {
            davit.ok(["rm", container]);
        }
    }
    let refused = with(&third);
    assert!(refused.stderr.contains("is being used by stopped container"), "{refused:?}");
    davit.ok(["rm", &davit.ok(["ps", "-aq"])]);
    let refused = with(&own);
    assert!(refused.stderr.contains("cannot go alone"), "{refused:?}");
    let removed = rmi(&[]).stdout;
    assert!(removed.starts_with(&format!("Deleted: {}\nDeleted: sha256:", ids[1].1)), "{removed}");
    assert_eq!(rmi(&[]).code, 1, "it is gone");
    let removed = davit.ok(["rmi", "--platform", &format!("{third},{third}"), &name]);
    assert!(removed.starts_with(&format!("Deleted: {}\nDeleted: sha256:", ids[2].1)), "{removed}");
    assert_eq!(id(&davit, &name), ids[0].1.to_string());
    davit.ok(["system", "check"]);
    davit.ok(["load", "-i", archive, "--platform", "linux/arm/v8"]);
    assert_eq!(id(&davit, &name), ids[3].1.to_string());
}
