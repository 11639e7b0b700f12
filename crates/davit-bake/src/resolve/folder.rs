//! Contexts that go out from the folder of the file that names them, where that is asked for.

use hcl_edit::expr::{Expression, TraversalOperator};

use crate::{
    definitions::{Definitions, Paths},
    functions::cleaned,
    source::{Attribute, Block, Source},
    target::{Target, is_remote},
};

/// The folder of a definition file; `None` for one that is in none.
pub(crate) fn of_file(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with('<') || is_remote(name) {
        return None;
    }
    Some(match name.rsplit_once('/') {
        None => ".".to_owned(),
        Some(("", _)) => "/".to_owned(),
        Some((folder, _)) => folder.to_owned(),
    })
}

/// A context as seen from the working directory; what is no relative path stays.
fn below(folder: &str, path: &str) -> Option<String> {
    let others = ["/", "cwd://", "target:", "docker-image:", "oci-layout://"];
    let is_fixed = path.is_empty() || others.iter().any(|it| path.starts_with(it));
    (!is_fixed && !is_remote(path)).then(|| cleaned(&format!("{folder}/{path}")))
}

/// Lets the contexts of a target go out from a folder.
pub(crate) fn rebase(target: &mut Target, attribute: &str, folder: &str) {
    let moved = |path: &str| Ok(below(folder, path));
    target
        .rebase(attribute, &moved)
        .unwrap_or_else(|never: std::convert::Infallible| match never {});
}

impl Definitions {
    /// The folder from which the contexts of a block go out, where it is not the working directory.
    pub(super) fn folder(&self, block: &Block) -> Option<String> {
        match self.paths() {
            Paths::OfCaller => None,
            Paths::OfFiles => of_file(&block.place.file),
        }
    }

    /// Lets the contexts of a block's target go out from its file, or from that of the target whose
    /// context it names.
    pub(super) fn rebase(&self, block: &Block, target: &mut Target) {
        let Some(own) = self.folder(block) else { return };
        rebase(target, "contexts", &own);
        let named = block.attributes.get("context").and_then(named_target);
        let other = named.and_then(|name| {
            let blocks = || self.blocks("target", Some(name)).rev();
            let with_context = blocks().find(|block| block.attributes.contains_key("context"));
            self.folder(with_context.or_else(|| blocks().next())?)
        });
        rebase(target, "context", &other.unwrap_or(own));
    }
}

/// The target of `target.NAME.context`, if the attribute is that.
fn named_target(attribute: &Attribute) -> Option<&str> {
    let Source::Hcl(Expression::Traversal(traversal)) = &attribute.source else { return None };
    let Expression::Variable(kind) = &traversal.expr else { return None };
    let mut steps = traversal.operators.iter().map(|operator| operator.value());
    match (kind.as_str(), steps.next(), steps.next(), steps.next()) {
        (
            "target",
            Some(TraversalOperator::GetAttr(name)),
            Some(TraversalOperator::GetAttr(attribute)),
            None,
        ) if attribute.as_str() == "context" => Some(name.as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_folders() {
        for (name, expected) in [
            ("docker-bake.hcl", Some(".")),
            ("/x.hcl", Some("/")),
            ("a/b/x.hcl", Some("a/b")),
            ("<standard input>", None),
            ("https://x.y/z.hcl", None),
        ] {
            assert_eq!(of_file(name).as_deref(), expected, "{name}");
        }
        for (path, expected) in [
            ("x", Some("a/x")),
            ("../x/.", Some("x")),
            ("/x", None),
            ("", None),
            ("cwd://x", None),
            ("target:x", None),
            ("git@x.y:z.git", None),
        ] {
            assert_eq!(below("a", path).as_deref(), expected, "{path}");
        }
    }
}
