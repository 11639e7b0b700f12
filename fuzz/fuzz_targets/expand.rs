//! Any text is refused as a word, or expands within bounds.
#![no_main]

use davit_dockerfile::{Lexer, Quotes, VariableList};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let variables = VariableList::from_entries(["a=x*y/z", "b=", "c=one two"]);
    for quotes in [Quotes::Resolve, Quotes::Keep, Quotes::KeepAll, Quotes::Plain] {
        let lexer = Lexer { quotes, ..Lexer::default() };
        let one = lexer.word(text, &variables);
        let many = lexer.words(text, &variables);
        assert_eq!(one.is_ok(), many.is_ok());
    }
});
