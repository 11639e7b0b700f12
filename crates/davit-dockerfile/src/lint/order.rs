//! A rule about where an `ARG` stands: every command below it has it in its environment, and so in
//! its cache key.

use std::collections::{BTreeMap, BTreeSet};

use super::{Linter, Place, Rule};
use crate::{Kind, Stage, is_predefined, scope::is_automatic};

pub(super) fn check(linter: &mut Linter<'_>) {
    let file = linter.file;
    for stage in &file.stages {
        late_uses(linter, stage);
    }
}

/// An argument that is named for the first time behind commands that do not name it. One that is
/// named nowhere may be read by any command, and a command that does not name it may read it, too:
/// nobody can tell, so that this is only said where it is asked for.
fn late_uses<'a>(linter: &mut Linter<'a>, stage: &'a Stage) {
    // Line of each command so far; arguments that nothing has named, with how many came before.
    let mut commands: Vec<u32> = Vec::new();
    let mut unnamed: BTreeMap<&[u8], (Place<'a>, usize)> = BTreeMap::new();
    for instruction in &stage.instructions {
        for name in identifiers(instruction.span.text(linter.source)) {
            let Some((place, before)) = unnamed.remove(name) else { continue };
            let Some(first) = commands.get(before) else { continue };
            let line = instruction.span.first_line;
            let name = String::from_utf8_lossy(name);
            let detail = format!(
                "`{name}` is first used in line {line}; from line {first} on, commands run again \
                 when it changes: declare it right above its use"
            );
            linter.note(Rule::ArgTooEarly, &place, detail);
        }
        match &instruction.kind {
            Kind::Run(_) => commands.push(instruction.span.first_line),
            Kind::Arg(definitions) => {
                let names = definitions.iter().map(|definition| &definition.name);
                // They are in no key, or change with what is built and not with each build.
                let is_steady = |name: &str| is_predefined(name) || is_automatic(name);
                for name in names.filter(|name| !is_steady(&name.text)) {
                    let place = Place::of(instruction).at(name.span);
                    unnamed.insert(name.text.as_bytes(), (place, commands.len()));
                }
            }
            _ => {}
        }
    }
}

/// Words of a text that can be names of variables.
fn identifiers(text: &[u8]) -> BTreeSet<&[u8]> {
    text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dockerfile, lint::CheckOptions};

    /// Lines of the arguments that are declared too early.
    fn found(text: &str, options: &str) -> Vec<u32> {
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        let options = CheckOptions::parse(options).unwrap();
        let mut linter = Linter::new(text.as_bytes(), &file, options);
        check(&mut linter);
        linter.warnings().iter().map(|warning| warning.span.first_line).collect()
    }

    #[test]
    fn an_argument_stands_above_its_use() {
        for (steps, lines) in [
            ("ARG SHA\nRUN make\nLABEL sha=$SHA", vec![2]),
            ("ARG SHA=1\nRUN a\nRUN b\nRUN echo ${SHA}", vec![2]),
            ("ARG A B\nRUN a $A\nRUN b $B", vec![2]),
            ("ARG A\nRUN a\nRUN <<EOF\necho $A\nEOF", vec![2]),
            ("RUN a\nARG A\nARG B=$A\nRUN b\nRUN c $B", vec![4]),
            ("ARG BUILD_DATE\nRUN a\nENV B=$BUILD_DATE", vec![2]),
            // Each command below has it, or none stands between.
            ("RUN a\nARG SHA\nLABEL sha=$SHA\nRUN make", vec![]),
            ("ARG SHA\nRUN echo $SHA\nRUN make\nRUN echo $SHA", vec![]),
            ("ARG SHA\nCOPY x /\nLABEL sha=$SHA", vec![]),
            // Who reads it is not known.
            ("ARG DEBIAN_FRONTEND=x\nRUN apt\nRUN $DEBIAN", vec![]),
            ("ARG HTTP_PROXY\nARG TARGETARCH\nRUN a\nRUN b $HTTP_PROXY $TARGETARCH", vec![]),
            ("ARG A\nRUN a\nFROM x\nRUN $A", vec![]),
        ] {
            let text = format!("FROM x\n{steps}\n");
            assert_eq!(found(&text, "experimental=ArgTooEarly"), lines, "{steps}");
            assert_eq!(found(&text, ""), Vec::<u32>::new(), "it is asked for");
        }
    }
}
