//! Contexts of the builder's workloads.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::measure::prepare;

/// Copies the folder of small files, which the job may change, and gives it a Dockerfile.
pub(super) fn copied(source: &Path, folder: &Path, dockerfile: &str) -> Result<PathBuf> {
    let context = folder.join("context");
    prepare(Command::new("cp").arg("--archive").arg(source).arg(&context))?;
    fs_err::write(context.join("Dockerfile"), dockerfile)?;
    Ok(context)
}

/// A folder with a Dockerfile alone.
pub(super) fn empty(folder: &Path, dockerfile: &str) -> Result<PathBuf> {
    let context = folder.join("context");
    fs_err::create_dir_all(&context)?;
    fs_err::write(context.join("Dockerfile"), dockerfile)?;
    Ok(context)
}

/// Copies whole packages until the context holds `count` files.
pub(super) fn part(
    source: &Path,
    folder: &Path,
    count: usize,
    dockerfile: &str,
) -> Result<PathBuf> {
    let context = empty(folder, dockerfile)?;
    let mut packages: Vec<PathBuf> = fs_err::read_dir(source.join("app/node_modules"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    packages.sort();
    let mut files = 0;
    for package in packages {
        if files >= count {
            break;
        }
        files += walk(&package)?.len();
        prepare(Command::new("cp").arg("--archive").arg(&package).arg(&context))?;
    }
    Ok(context)
}

/// The small files twice, nine of ten packages ignored.
pub(super) fn mostly_ignored(source: &Path, folder: &Path, dockerfile: &str) -> Result<PathBuf> {
    let context = empty(folder, dockerfile)?;
    for copy in ["one", "two"] {
        prepare(Command::new("cp").arg("--archive").arg(source).arg(context.join(copy)))?;
    }
    fs_err::write(context.join(".dockerignore"), "*/app/node_modules/pkg-???[1-9]\n")?;
    Ok(context)
}

/// A file of `size` bytes, made of an archive of files, alone in a context.
pub(super) fn one_big_file(
    source: &Path,
    folder: &Path,
    size: u64,
    dockerfile: &str,
) -> Result<PathBuf> {
    let context = empty(folder, dockerfile)?;
    let mut file = fs_err::File::create(context.join("data"))?;
    let mut left = size;
    while left > 0 {
        // Repeated content at a distance that no compression sees.
        left -= std::io::copy(&mut fs_err::File::open(source)?.take(left), &mut file)?;
    }
    file.flush()?;
    Ok(context)
}

const UNITS: u32 = 60;

/// A program of sixty files in C, with what its image needs beside it.
pub(super) fn application(packages: &Path, folder: &Path, dockerfile: &str) -> Result<PathBuf> {
    let context = empty(folder, dockerfile)?;
    prepare(Command::new("cp").arg("--archive").arg(packages).arg(context.join("packages")))?;
    let sources = context.join("src");
    fs_err::create_dir_all(&sources)?;
    let mut main = "#include <stdio.h>\n".to_owned();
    let mut sum = "0".to_owned();
    for unit in 0..UNITS {
        let body = format!(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint unit{unit}(int x) {{ char t[64]; snprintf(t, sizeof t, \"%d\", x + {unit}); return (int)strlen(t) * atoi(t); }}\n"
        );
        fs_err::write(sources.join(format!("unit{unit}.c")), body)?;
        main += &format!("int unit{unit}(int);\n");
        sum += &format!(" + unit{unit}({unit})");
    }
    main += &format!("int main(void) {{ printf(\"%d\\n\", {sum}); return 0; }}\n");
    fs_err::write(sources.join("main.c"), main)?;
    fs_err::write(
        sources.join("Makefile"),
        "OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))\napplication: $(OBJECTS)\n\t$(CC) -o $@ $(OBJECTS)\n",
    )?;
    Ok(context)
}

/// Changes one file of the small ones.
pub(super) fn change_one(context: &Path) -> Result<()> {
    let mut files = walk(context)?;
    files.sort();
    let file = files.into_iter().find(|path| path.extension().is_some_and(|suffix| suffix == "js"));
    let file = file.with_context(|| format!("{} holds no file to change", context.display()))?;
    Ok(fs_err::write(&file, "changed\n")?)
}

fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}
