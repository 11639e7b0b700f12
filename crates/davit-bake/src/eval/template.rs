//! Texts with `${…}` and `%{…}`.

use hcl_edit::template::{Directive, Element, ForDirective, Strip, Template};
use serde_json::Value;

use super::Scope;
use crate::{
    error::ValueError,
    value::{boolean, entries, text},
};

impl Scope<'_> {
    /// The value of a template: of `${x}` alone that of x, else a text.
    pub(super) fn template(self, template: &Template) -> Result<Value, ValueError> {
        self.elements(template.iter())
    }

    pub(super) fn elements<'e>(
        self,
        elements: impl Iterator<Item = &'e Element>,
    ) -> Result<Value, ValueError> {
        let elements: Vec<&Element> = elements.collect();
        if let [Element::Interpolation(only)] = &elements[..] {
            return self.expression(&only.expr);
        }
        let mut out = String::new();
        self.parts(&elements, (Strip::None, Strip::None), &mut out)?;
        Ok(Value::String(out))
    }

    pub(super) fn heredoc(self, template: &Template) -> Result<Value, ValueError> {
        let elements: Vec<&Element> = template.iter().collect();
        let mut out = String::new();
        self.parts(&elements, (Strip::None, Strip::None), &mut out)?;
        Ok(Value::String(out))
    }

    fn parts(
        self,
        elements: &[&Element],
        outer: (Strip, Strip),
        out: &mut String,
    ) -> Result<(), ValueError> {
        for (at, element) in elements.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| elements.get(at));
            let before = before.map_or(outer.0, |element| ends(element).1);
            let after = elements.get(at + 1).map_or(outer.1, |element| ends(element).0);
            let length = out.len();
            match element {
                Element::Literal(literal) => out.push_str(stripped(literal, before, after)),
                Element::Interpolation(it) => out.push_str(&text(&self.expression(&it.expr)?)?),
                Element::Directive(directive) => self.directive(directive, out)?,
            }
            self.names.spent().take(16 + out.len().saturating_sub(length) as u64)?;
        }
        Ok(())
    }

    fn directive(self, directive: &Directive, out: &mut String) -> Result<(), ValueError> {
        let directive = match directive {
            Directive::For(directive) => return self.repeat(directive, out),
            Directive::If(directive) => directive,
        };
        let (yes, end) = (&directive.if_expr, directive.endif_expr.strip);
        let no = directive.else_expr.as_ref();
        let holds = boolean(&self.expression(&yes.cond_expr)?)?;
        let (template, strips) = match no {
            _ if holds => (&yes.template, (yes.strip, no.map_or(end, |no| no.strip))),
            Some(no) => (&no.template, (no.strip, end)),
            None => return Ok(()),
        };
        let elements: Vec<&Element> = template.iter().collect();
        self.names.spent().within(|| self.parts(&elements, strips, out))
    }

    fn repeat(self, directive: &ForDirective, out: &mut String) -> Result<(), ValueError> {
        let it = &directive.for_expr;
        let elements: Vec<&Element> = it.template.iter().collect();
        let strips = (it.strip, directive.endfor_expr.strip);
        for (key, value) in entries(&self.expression(&it.collection_expr)?)? {
            let mut bindings = vec![(it.value_var.as_str(), value)];
            bindings.extend(it.key_var.as_ref().map(|name| (name.as_str(), key)));
            self.with(&bindings, &mut |scope| {
                scope.names.spent().within(|| scope.parts(&elements, strips, out))
            })?;
        }
        Ok(())
    }
}

/// What an element strips before and behind itself.
fn ends(element: &Element) -> (Strip, Strip) {
    match element {
        Element::Literal(_) => (Strip::None, Strip::None),
        Element::Interpolation(it) => (it.strip, it.strip),
        Element::Directive(directive) => match directive.as_ref() {
            Directive::If(it) => (it.if_expr.strip, it.endif_expr.strip),
            Directive::For(it) => (it.for_expr.strip, it.endfor_expr.strip),
        },
    }
}

/// Without the white space, up to one line end, that neighbours with a `~` take.
fn stripped(text: &str, before: Strip, after: Strip) -> &str {
    let is_space = |letter: char| letter.is_whitespace() && !matches!(letter, '\r' | '\n');
    let mut text = text;
    if before.strip_end() {
        text = text.trim_start_matches(is_space);
        text = text.strip_prefix("\r\n").or_else(|| text.strip_prefix('\n')).unwrap_or(text);
    }
    if after.strip_start() {
        text = text.trim_end_matches(is_space);
        text = text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(text);
    }
    text
}
