//! What a command wrote goes, whoever removes it.

use std::fs;

use super::bench::alpine;
use crate::machine::until;

#[test]
fn a_great_many_files_are_removed_behind_the_build() {
    let step = "RUN mkdir /d && cd /d && for i in $(seq 1500); do : > f$i; done\n";
    let Some(bench) = alpine(step) else { return };
    let files = bench.files(&[]);
    assert_eq!(fs::read_dir(files.join("d")).unwrap().count(), 1500);
    let unfinished = bench.davit.root().join("tmp");
    until("nothing is left", || fs::read_dir(&unfinished).unwrap().count() == 0);
}
