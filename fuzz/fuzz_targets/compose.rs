//! Any texts are refused as Compose files that extend and include each other, or make one tree
//! without anything left to do.
#![no_main]

use davit_composefile::{ComposeText, Loader, Node, Shape};

fn is_settled(node: &Node) -> bool {
    node.mark.is_none()
        && match &node.shape {
            Shape::List(all) => all.iter().all(is_settled),
            Shape::Map(all) => all.values().all(is_settled),
            Shape::Plain(_) | Shape::Text(_) => true,
        }
}

libfuzzer_sys::fuzz_target!(|texts: (&str, &str, &str)| {
    let (first, second, variables) = texts;
    let read = |_: &str| Ok(second.to_owned());
    let known = |name: &str| {
        davit_composefile::read_dotenv(".env", variables, &|_| None).ok()?.remove(name)
    };
    let loader = Loader { variables: &known, read: &read };
    let file = |text: &str| ComposeText { name: "dir/c.yaml".to_owned(), text: text.to_owned() };
    if let Ok(tree) = loader.load(&[file(first), file(second)]) {
        assert!(is_settled(&tree) && tree.get("include").is_none());
    }
});
