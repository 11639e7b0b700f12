//! A form that was refused is shown again as it was sent, with the reason in it.
//!
//! This works on the finished page, for all forms alike, instead of in each field of each template. It
//! reads HTML as our templates write it: attributes in double quotes, `"`, `<`, `>` and `&` escaped in
//! all that comes from outside.

use std::fmt::Write as _;

use super::forms::Fields;
use crate::api::Problem;

/// Fields that say where a form stands, not what it asks for.
const OF_THE_PAGE: [&str; 2] = ["csrf", "from"];

/// The page with the problem in the form that was sent, and in its fields what was sent. `None` if the
/// page has no such form, or nothing that one could change in it. Passwords and keys are to be typed again.
pub(super) fn refill(
    html: &str,
    operation: &str,
    fields: &Fields,
    problem: &Problem,
) -> Option<String> {
    let action = format!("/do/{operation}");
    let is_wanted = |form: &&Form<'_>| {
        form.head.value("action").is_some_and(|value| value == action) && form.was_sent(fields)
    };
    let form = forms(html).find(|form| is_wanted(&form))?;
    let mut filled = open_around(&html[..form.start]);
    filled.push_str(form.head.text);
    let words = escape(&problem.detail);
    let _infallible = write!(filled, r#"<p class="fault" role="alert" id="fault">{words}</p>"#);
    filled.push_str(&fill(form.inner, fields, problem.field.as_deref()));
    filled.push_str(&html[form.start + form.head.text.len() + form.inner.len()..]);
    Some(filled)
}

/// A tag from `<` to `>`.
#[derive(Clone, Copy)]
struct Tag<'h> {
    text: &'h str,
}

impl<'h> Tag<'h> {
    /// The tag at the beginning of a text.
    fn at(html: &'h str) -> Self {
        let mut is_quoted = false;
        let end = html.bytes().position(|byte| {
            is_quoted ^= byte == b'"';
            byte == b'>' && !is_quoted
        });
        Self { text: &html[..end.map_or(html.len(), |end| end + 1)] }
    }

    fn is(self, name: &str) -> bool {
        let rest = self.text.strip_prefix('<').and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with([' ', '>']))
    }

    /// Tells whether it is a field that one can change.
    fn is_visible(self) -> bool {
        let is_input = self.is("input") && self.value("type").is_none_or(|kind| kind != "hidden");
        is_input || self.is("textarea") || self.is("select")
    }

    fn name(self) -> String {
        self.value("name").unwrap_or_default()
    }

    /// Where the value of an attribute is.
    fn place(self, attribute: &str) -> Option<std::ops::Range<usize>> {
        let before = format!(" {attribute}=\"");
        let from = self.text.find(&before)? + before.len();
        Some(from..from + self.text[from..].find('"')?)
    }

    fn value(self, attribute: &str) -> Option<String> {
        self.place(attribute).map(|place| unescape(&self.text[place]))
    }

    /// The tag with this value instead of the one that it has.
    fn with_value(self, value: &str) -> String {
        let before = self.place("value").map_or_else(
            || self.text.trim_end_matches('>').to_owned(),
            |place| {
                let (start, end) = (&self.text[..place.start], &self.text[place.end + 1..]);
                let start = start.trim_end_matches("\"").trim_end_matches(" value=");
                format!("{start}{}", end.trim_end_matches('>'))
            },
        );
        format!("{before} value=\"{}\">", escape(value))
    }

    /// The tag with or without an attribute that has no value.
    fn marked(self, attribute: &str, marked: Mark) -> String {
        let bare = self.text.replace(&format!(" {attribute}"), "");
        match marked {
            Mark::Set => format!("{} {attribute}>", bare.trim_end_matches('>')),
            Mark::Unset => bare,
        }
    }
}

#[derive(Clone, Copy)]
enum Mark {
    Set,
    Unset,
}

impl From<bool> for Mark {
    fn from(set: bool) -> Self {
        if set { Self::Set } else { Self::Unset }
    }
}

struct Form<'h> {
    start: usize,
    head: Tag<'h>,
    inner: &'h str,
}

impl Form<'_> {
    /// Tells whether it is this form that sent the fields, and has some to be filled.
    fn was_sent(&self, fields: &Fields) -> bool {
        let is_as_sent = |tag: Tag<'_>| {
            let (name, value) = (tag.name(), tag.value("value").unwrap_or_default());
            OF_THE_PAGE.contains(&&*name) || fields.contains(&(name, value))
        };
        let mut hidden = tags(self.inner).filter(|tag| tag.is("input") && !tag.is_visible());
        hidden.all(is_as_sent) && tags(self.inner).any(Tag::is_visible)
    }
}

fn tags(html: &str) -> impl Iterator<Item = Tag<'_>> {
    html.match_indices('<').map(|(at, _)| Tag::at(&html[at..]))
}

fn forms(html: &str) -> impl Iterator<Item = Form<'_>> {
    html.match_indices("<form ").filter_map(|(start, _)| {
        let head = Tag::at(&html[start..]);
        let inner = &html[start + head.text.len()..];
        Some(Form { start, head, inner: &inner[..inner.find("</form>")?] })
    })
}

/// What stands before a form, with the parts open that it stands in.
fn open_around(before: &str) -> String {
    let mut opened = before.to_owned();
    let mut depth = 0;
    for (at, _) in before.rmatch_indices("details") {
        if before[..at].ends_with("</") {
            depth += 1;
        } else if before[..at].ends_with('<') {
            let is_open = Tag::at(&before[at - 1..]).text.contains(" open");
            if depth == 0 && !is_open {
                opened.insert_str(at + "details".len(), " open");
            }
            depth = std::cmp::max(depth - 1, 0);
        }
    }
    opened
}

/// The fields of a form with what was sent in them. One goes on where it is wrong, else at the first.
fn fill(inner: &str, fields: &Fields, wrong: Option<&str>) -> String {
    let sent = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
    let has = |name: &str, value: &str| fields.iter().any(|(k, v)| k == name && v == value);
    let (mut filled, mut rest, mut list) = (String::new(), inner, String::new());
    let wrong =
        wrong.filter(|wrong| tags(inner).any(|tag| tag.is_visible() && tag.name() == *wrong));
    let mut is_marked = false;
    while let Some(at) = rest.find('<') {
        filled.push_str(&rest[..at]);
        let tag = Tag::at(&rest[at..]);
        rest = &rest[at + tag.text.len()..];
        let name = tag.name();
        let kind = tag.value("type").unwrap_or_default();
        let mut text = tag.text.to_owned();
        if tag.is("input") && matches!(&*kind, "checkbox" | "radio") {
            let value = tag.value("value").unwrap_or_else(|| "on".to_owned());
            text = tag.marked("checked", has(&name, &value).into());
        } else if tag.is("input") && !matches!(&*kind, "hidden" | "password") {
            text = sent(&name).map_or(text, |value| tag.with_value(value));
        } else if tag.is("select") {
            list.clone_from(&name);
        } else if tag.is("option") {
            let label = unescape(rest[..rest.find('<').unwrap_or(rest.len())].trim());
            let value = tag.value("value").unwrap_or(label);
            text = tag.marked("selected", has(&list, &value).into());
        } else if tag.is("details") {
            text = tag.marked("open", Mark::Set);
        }
        let is_next = tag.is_visible() && wrong.is_none_or(|wrong| wrong == name);
        if is_next && !std::mem::replace(&mut is_marked, true) {
            let marked = Tag { text: &text }.marked("autofocus", Mark::Set);
            let invalid = wrong.map_or("", |_| " aria-invalid=\"true\"");
            let start = marked.trim_end_matches('>');
            text = format!("{start} aria-describedby=\"fault\"{invalid}>");
        }
        filled.push_str(&text);
        let is_key = tag.value("autocomplete").is_some_and(|value| value == "off");
        if tag.is("textarea")
            && !is_key
            && let Some(value) = sent(&name)
            && let Some(end) = rest.find("</textarea>")
        {
            // The first line break of a text area is no part of it.
            let _infallible = write!(filled, "\n{}", escape(value));
            rest = &rest[end..];
        }
    }
    filled + rest
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&#38;"),
            '<' => escaped.push_str("&#60;"),
            '>' => escaped.push_str("&#62;"),
            '"' => escaped.push_str("&#34;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// What the templates have escaped.
fn unescape(text: &str) -> String {
    let plain = text.replace("&#60;", "<").replace("&#62;", ">").replace("&#34;", "\"");
    plain.replace("&#39;", "'").replace("&#10;", "\n").replace("&#38;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn about(field: Option<&str>) -> Problem {
        Problem { field: field.map(str::to_owned), ..Problem::malformed("no <b>") }
    }

    #[track_caller]
    fn check(form: &str, sent: &[(&str, &str)], expected: &str) {
        let html = format!("<form action=\"/do/x\">{form}</form>.");
        let alert = "<p class=\"fault\" role=\"alert\" id=\"fault\">no &#60;b&#62;</p>";
        let filled = refill(&html, "x", &fields(sent), &about(None)).expect("the form is there");
        assert_eq!(filled, format!("<form action=\"/do/x\">{alert}{expected}</form>."));
    }

    const FIRST: &str = " autofocus aria-describedby=\"fault\"";

    #[test]
    fn fields_have_what_was_sent() {
        for (form, sent, expected) in [
            (
                "<label>A<input name=\"a\" value=\"&#34;old\" required></label>",
                ("a", "<\"new\">&"),
                "<label>A<input name=\"a\" required value=\"&#60;&#34;new&#34;&#62;&#38;\"FIRST></label>",
            ),
            ("<input name=\"a\">", ("a", "b"), "<input name=\"a\" value=\"b\"FIRST>"),
            ("<input name=\"a\">", ("b", "b"), "<input name=\"a\"FIRST>"),
            (
                "<input type=\"password\" name=\"a\">",
                ("a", "b"),
                "<input type=\"password\" name=\"a\"FIRST>",
            ),
            (
                "<textarea name=\"a\">x</textarea>",
                ("a", "\ny<"),
                "<textarea name=\"a\"FIRST>\n\ny&#60;</textarea>",
            ),
            (
                "<textarea name=\"a\" autocomplete=\"off\"></textarea>",
                ("a", "key"),
                "<textarea name=\"a\" autocomplete=\"off\"FIRST></textarea>",
            ),
            (
                "<select name=\"a\"><option selected>x</option><option value=\"b\">B</option></select>",
                ("a", "b"),
                "<select name=\"a\"FIRST><option>x</option><option value=\"b\" selected>B</option></select>",
            ),
            (
                "<input type=\"checkbox\" name=\"a\" value=\"1\" checked><details><summary>m</summary></details>",
                ("b", "1"),
                "<input type=\"checkbox\" name=\"a\" value=\"1\"FIRST><details open><summary>m</summary></details>",
            ),
            (
                "<input type=\"checkbox\" name=\"a\" value=\"1\">",
                ("a", "1"),
                "<input type=\"checkbox\" name=\"a\" value=\"1\" checkedFIRST>",
            ),
        ] {
            check(form, &[sent], &expected.replace("FIRST", FIRST));
        }
    }

    #[test]
    fn one_goes_on_where_it_is_wrong() {
        const WRONG: &str = " autofocus aria-describedby=\"fault\" aria-invalid=\"true\"";
        let form = "<form action=\"/do/x\"><input name=\"a\"><input type=\"hidden\" name=\"h\">\
                    <textarea name=\"b\"></textarea></form>";
        for (field, expected) in [
            (Some("a"), format!("<input name=\"a\"{WRONG}>")),
            (Some("b"), format!("<textarea name=\"b\"{WRONG}>")),
            (Some("h"), format!("<input name=\"a\"{FIRST}>")),
            (Some("c"), format!("<input name=\"a\"{FIRST}>")),
            (None, format!("<input name=\"a\"{FIRST}>")),
        ] {
            let sent = fields(&[("h", "")]);
            let filled = refill(form, "x", &sent, &about(field)).unwrap();
            assert!(filled.contains(&expected), "{field:?}: {filled}");
            assert_eq!(filled.matches("autofocus").count(), 1, "{filled}");
        }
    }

    #[test]
    fn the_form_is_the_one_that_was_sent() {
        let hidden = |id: &str| format!("<input type=\"hidden\" name=\"id\" value=\"{id}\">");
        let form = |id| format!("<form action=\"/do/x\">{}<input name=\"a\"></form>", hidden(id));
        let html = format!("{}<details class=\"panel\">{}</details>", form("1"), form("2"));
        let sent = fields(&[("csrf", "t"), ("id", "2"), ("a", "b")]);
        let filled = refill(&html, "x", &sent, &about(None)).unwrap();
        let (before, after) = filled.split_once("role=\"alert\"").unwrap();
        assert!(
            before.starts_with(&form("1")) && before.contains("<details open class=\"panel\">")
        );
        assert!(after.contains("value=\"b\""), "{filled}");
        assert_eq!(refill(&html, "y", &sent, &about(None)), None);
        let unknown = fields(&[("id", "3"), ("a", "b")]);
        assert_eq!(refill(&html, "x", &unknown, &about(None)), None);
        let button = format!("<form action=\"/do/x\">{}<button>b</button></form>", hidden("2"));
        assert_eq!(refill(&button, "x", &sent, &about(None)), None, "nothing to change in it");
    }

    #[test]
    fn only_what_is_around_a_form_is_opened() {
        for (before, expected) in [
            ("<details><p>", "<details open><p>"),
            ("<details></details>", "<details></details>"),
            ("<details open>", "<details open>"),
            ("<details><details></details>details", "<details open><details></details>details"),
        ] {
            assert_eq!(open_around(before), expected);
        }
    }
}
