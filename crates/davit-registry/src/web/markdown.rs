//! READMEs: Markdown to HTML that cannot do anything.
//!
//! The HTML is written here, tag by tag, from a list of what is allowed: raw HTML of the source becomes
//! text, links go to `http`, `https` and `mailto` only, and pictures become links, for a page must not
//! tell other servers who reads it.

use std::fmt::Write as _;

use pulldown_cmark::{Alignment, CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Bytes of HTML at most; what comes after is left out.
const LONGEST: usize = 1 << 20;
/// How deep lists and quotes go.
const DEEPEST: usize = 32;

/// Renders a README.
pub(crate) fn render(source: &str) -> String {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut page = Page::default();
    for event in Parser::new_ext(source, options) {
        page.add(event);
    }
    page.html
}

#[derive(Default)]
struct Page {
    html: String,
    /// Closing tags of what is open.
    open: Vec<&'static str>,
    /// Columns of the table that is open, and which one comes next.
    columns: Vec<Alignment>,
    column: usize,
    is_head: bool,
}

impl Page {
    fn add(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(end) => self.end(end),
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
            Event::Code(text) => {
                self.raw("<code>");
                self.text(&text);
                self.raw("</code>");
            }
            Event::SoftBreak => self.raw("\n"),
            Event::HardBreak => self.raw("<br>"),
            Event::Rule => self.raw("<hr>"),
            Event::TaskListMarker(is_done) => self.raw(if is_done { "☑ " } else { "☐ " }),
            // Not enabled.
            Event::FootnoteReference(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.text(&text);
            }
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        // What is deeper or beyond the end is text alone.
        if self.open.len() >= DEEPEST || self.html.len() >= LONGEST {
            self.open.push("");
            return;
        }
        let (start, end) = match tag {
            Tag::Paragraph => ("<p>", "</p>\n"),
            Tag::Heading { level, .. } => heading(*level),
            Tag::BlockQuote(_) => ("<blockquote>", "</blockquote>\n"),
            Tag::CodeBlock(CodeBlockKind::Indented | CodeBlockKind::Fenced(_)) => {
                ("<pre tabindex=\"0\"><code>", "</code></pre>\n")
            }
            Tag::List(None) => ("<ul>", "</ul>\n"),
            Tag::List(Some(_)) => ("<ol>", "</ol>\n"),
            Tag::Item => ("<li>", "</li>\n"),
            Tag::Emphasis => ("<em>", "</em>"),
            Tag::Strong => ("<strong>", "</strong>"),
            Tag::Strikethrough => ("<del>", "</del>"),
            Tag::Table(columns) => {
                self.columns.clone_from(columns);
                ("<table>", "</tbody></table>\n")
            }
            Tag::TableHead => {
                (self.column, self.is_head) = (0, true);
                ("<thead><tr>", "</tr></thead><tbody>\n")
            }
            Tag::TableRow => {
                (self.column, self.is_head) = (0, false);
                ("<tr>", "</tr>\n")
            }
            Tag::TableCell => self.cell(),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => self.link(dest_url),
            _ => ("", ""),
        };
        self.raw(start);
        self.open.push(end);
    }

    fn end(&mut self, _: TagEnd) {
        if let Some(end) = self.open.pop() {
            // Always, so that what was opened is closed.
            self.html.push_str(end);
        }
    }

    fn cell(&mut self) -> (&'static str, &'static str) {
        let alignment = self.columns.get(self.column).copied();
        self.column += 1;
        match (self.is_head, alignment) {
            (true, Some(Alignment::Right)) => ("<th class=\"number\">", "</th>"),
            (true, _) => ("<th>", "</th>"),
            (false, Some(Alignment::Right)) => ("<td class=\"number\">", "</td>"),
            (false, _) => ("<td>", "</td>"),
        }
    }

    fn link(&mut self, target: &str) -> (&'static str, &'static str) {
        let lower = target.trim().to_ascii_lowercase();
        if !["http://", "https://", "mailto:"].iter().any(|scheme| lower.starts_with(scheme)) {
            return ("", "");
        }
        // Whole, or not at all: half a tag would swallow what follows.
        let mut href = Self::default();
        href.text(target.trim());
        self.raw(&format!("<a href=\"{}\" rel=\"nofollow noopener noreferrer\">", href.html));
        ("", "</a>")
    }

    fn raw(&mut self, html: &str) {
        if self.html.len() < LONGEST {
            self.html.push_str(html);
        }
    }

    fn text(&mut self, text: &str) {
        for letter in text.chars() {
            if self.html.len() >= LONGEST {
                return;
            }
            match letter {
                '<' => self.html.push_str("&lt;"),
                '>' => self.html.push_str("&gt;"),
                '&' => self.html.push_str("&amp;"),
                '"' => self.html.push_str("&quot;"),
                '\'' => self.html.push_str("&#39;"),
                // Letters that turn the text around them could make it read as something else.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    let code = u32::from(letter);
                    write!(self.html, "\\u{code:x}").expect("a string takes what is written");
                }
                letter => self.html.push(letter),
            }
        }
    }
}

/// One level lower than written: the page has its own first heading.
const fn heading(level: HeadingLevel) -> (&'static str, &'static str) {
    match level {
        HeadingLevel::H1 => ("<h2>", "</h2>\n"),
        HeadingLevel::H2 => ("<h3>", "</h3>\n"),
        HeadingLevel::H3 => ("<h4>", "</h4>\n"),
        HeadingLevel::H4 => ("<h5>", "</h5>\n"),
        HeadingLevel::H5 | HeadingLevel::H6 => ("<h6>", "</h6>\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_is_rendered() {
        for (source, expected) in [
            ("# A", "<h2>A</h2>\n"),
            ("a *b* **c** `d<`", "<p>a <em>b</em> <strong>c</strong> <code>d&lt;</code></p>\n"),
            ("- a\n- [x] b", "<ul><li>a</li>\n<li>☑ b</li>\n</ul>\n"),
            (
                "[a](https://x.test/?a=1&b=2)",
                "<p><a href=\"https://x.test/?a=1&amp;b=2\" rel=\"nofollow noopener noreferrer\">a</a></p>\n",
            ),
            (
                "|a|b|\n|-|-:|\n|1|2|",
                "<table><thead><tr><th>a</th><th class=\"number\">b</th></tr></thead><tbody>\n<tr><td>1</td><td class=\"number\">2</td></tr>\n</tbody></table>\n",
            ),
            ("```sh\na < b\n```", "<pre tabindex=\"0\"><code>a &lt; b\n</code></pre>\n"),
        ] {
            assert_eq!(render(source), expected, "{source}");
        }
    }

    #[test]
    fn nothing_runs_and_nothing_is_fetched() {
        for source in [
            "<script>alert(1)</script>",
            "a <img src=x onerror=alert(1)> b",
            "<a href='javascript:alert(1)'>x</a>",
            "[a](javascript:alert(1))",
            "[a]( JaVaScRiPt:alert(1))",
            "[a](data:text/html,<script>alert(1)</script>)",
            "[a](//evil.test)",
            "<javascript:alert(1)>",
            "![a](javascript:alert(1))",
            "[a](https://x.test/\"onmouseover=alert(1)//)",
            "[a](https://x.test 'x\" onmouseover=\"alert(1)')",
            "```\"><script>alert(1)</script>\na\n```",
            "|<script>|\n|-|\n|<script>|",
            "<style>*{}</style>",
            "<!-- a --><iframe src=x>",
        ] {
            let html = render(source);
            let mut rest = html.as_str();
            while let Some(at) = rest.find('<') {
                rest = &rest[at + 1..];
                let tag = &rest[..rest.find('>').expect("tags end")];
                let name = tag.trim_start_matches('/').split(' ').next().unwrap();
                let allowed =
                    ["p", "a", "h2", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"];
                assert!(allowed.contains(&name), "{source}: {html}");
                let is_plain = match name {
                    "a" => {
                        tag == "/a"
                            || (tag.starts_with("a href=\"http") && tag.matches('"').count() == 4)
                    }
                    "pre" => tag == "/pre" || tag == "pre tabindex=\"0\"",
                    _ => !tag.contains(['=', '"', '\'']),
                };
                assert!(is_plain, "{source}: {html}");
            }
        }
        assert!(!render("![a](https://x.test/a.png)").contains("<img"));
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let deep = ">".repeat(20_000) + "a";
        let html = render(&deep);
        assert!(html.matches("<blockquote>").count() <= DEEPEST);
        assert_eq!(html.matches("<blockquote>").count(), html.matches("</blockquote>").count());
        let many = "&".repeat(64 << 10);
        assert!(render(&many).len() <= LONGEST + 100);
        let long = format!("[x]: https://x.test/{}\n{}", "a".repeat(30_000), "[x] ".repeat(8000));
        assert!(render(&long).len() <= LONGEST + 40_000);
    }
}
