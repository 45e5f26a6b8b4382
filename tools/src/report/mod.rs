//! The report of a run: one page of HTML that needs nothing else.
//!
//! Owns what the page says and how it is escaped. Drawing a curve is left to `chart`, appearing
//! whole or not at all to `learn::model::write_whole_file`.
//!
//! Invariant: the page loads nothing: no script, font, image or style from elsewhere. It is
//! well-formed XML too, and no text of the run is ever markup.

mod chart;

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::Path;

use learn::model::write_whole_file;

use chart::{Chart, Floor, Series};

/// What a report shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunReport {
    /// The page's heading.
    pub(crate) title: String,
    /// The command line that made the run.
    pub(crate) command: String,
    /// Names and values, with their units.
    pub(crate) results: Vec<(String, String)>,
    /// Names and values of what was set.
    pub(crate) settings: Vec<(String, String)>,
    /// Progressive log loss in nats a row, over rows read.
    pub(crate) loss: Vec<(f64, f64)>,
    /// Rows a second, over seconds since the start.
    pub(crate) throughput: Vec<(f64, f64)>,
}

/// Writes the page to `path`, whole or not at all. Points that are not finite are left out.
pub(crate) fn write_html(path: &Path, report: &RunReport) -> io::Result<()> {
    let page = page(report);
    write_whole_file(path, |file| file.write_all(page.as_bytes()))
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --rule: #d9dce1;
 --paper: #fff; --line: #1f6feb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a0a6ae; --rule: #3a3f45;
 --paper: #16181b; --line: #6cb0ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
 max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
pre { overflow-x: auto; padding: .6rem .8rem; border: 1px solid var(--rule); }
table { border-collapse: collapse; }
th, td { padding: .2rem 1.5rem .2rem 0; border-bottom: 1px solid var(--rule);
 text-align: left; vertical-align: top; font-weight: normal; }
th { color: var(--soft); } td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); }
.curve { stroke: var(--line); fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.dot { fill: var(--line); }";

fn page(report: &RunReport) -> String {
    let title = Escaped(&report.title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    if !report.command.is_empty() {
        page += &format!("<pre><code>{}</code></pre>\n", Escaped(&report.command));
    }
    page += &table("Results", &report.results);
    page += &section("Loss over rows", &loss_chart(report));
    page += &section("Throughput over time", &throughput_chart(report));
    page += &table("Settings", &report.settings);
    page += "</body>\n</html>\n";
    page
}

fn loss_chart(report: &RunReport) -> String {
    Chart {
        name: "progressive log loss over rows read",
        x_title: "rows read",
        y_title: "log loss (nats a row)",
        floor: Floor::Data,
    }
    .draw(&Series::of(&report.loss))
}

fn throughput_chart(report: &RunReport) -> String {
    Chart {
        name: "rows a second over time",
        x_title: "time since the start (s)",
        y_title: "throughput (rows/s)",
        floor: Floor::Zero,
    }
    .draw(&Series::of(&report.throughput))
}

fn section(title: &str, body: &str) -> String {
    format!("<section>\n<h2>{title}</h2>\n{body}</section>\n")
}

fn table(title: &str, rows: &[(String, String)]) -> String {
    if rows.is_empty() {
        return section(title, "<p>none</p>\n");
    }
    let mut body = String::from("<table>\n");
    for (name, value) in rows {
        let (name, value) = (Escaped(name), Escaped(value));
        body += &format!("<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>\n");
    }
    section(title, &(body + "</table>\n"))
}

/// Text that shows as itself in an element and in a quoted attribute.
struct Escaped<'text>(&'text str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(character)?,
                // Neither HTML nor XML can hold these.
                '\u{fffe}' | '\u{ffff}' => f.write_char(char::REPLACEMENT_CHARACTER)?,
                _ if character.is_control() => f.write_char(char::REPLACEMENT_CHARACTER)?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics unless every tag is closed by its own, and nothing but tags begins with `<`.
    fn check_well_formed(page: &str) {
        let mut open = Vec::new();
        let body = page.strip_prefix("<!DOCTYPE html>").expect("a document type");
        for piece in body.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag's end");
            assert!(!text.contains('>'), "{text}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "{tag}");
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().expect("a name"));
            }
        }
        assert_eq!(open, [""; 0]);
    }

    fn report() -> RunReport {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let curve =
            |scale: f64| (1..=3000).map(move |i| (f64::from(i) * 1e3, scale / f64::from(i)));
        RunReport {
            title: "gradwire train".to_owned(),
            command: "gradwire train data/*.svm".to_owned(),
            results: vec![pair("rows", "3 000 000"), pair("log loss", "0.4512 nats a row")],
            settings: vec![pair("alpha", "0.2")],
            loss: curve(0.7).collect(),
            throughput: curve(1e6).collect(),
        }
    }

    #[test]
    fn the_page_is_well_formed_and_shows_everything() {
        let page = page(&report());
        check_well_formed(&page);
        for text in ["3 000 000", "alpha", "data/*.svm", "nats a row", "rows/s", "<polyline"] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = page(&report());
        for text in ["http", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(text), "{text}");
        }
    }

    #[test]
    fn text_of_the_run_is_never_markup() {
        let evil = "</td><script>alert('1')</script>&\"\0\u{1b}";
        let pairs = vec![(evil.to_owned(), evil.to_owned())];
        let report = RunReport {
            title: evil.to_owned(),
            command: evil.to_owned(),
            results: pairs.clone(),
            settings: pairs,
            ..report()
        };
        let page = page(&report);
        check_well_formed(&page);
        assert!(!page.contains("<script"));
        assert!(!page.contains('\0'));
        let escaped = "&lt;/td&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;";
        assert_eq!(page.matches(escaped).count(), 7);
    }

    #[test]
    fn empty_and_strange_series_make_a_page() {
        let strange = [
            vec![],
            vec![(0.0, 0.0)],
            vec![(1.0, 5.0), (1.0, 5.0)],
            vec![(f64::NAN, 1.0), (1.0, f64::INFINITY)],
            vec![(-f64::MAX, -f64::MAX), (f64::MAX, f64::MAX)],
            vec![(0.0, 1e-300), (1e-300, 2e-300)],
            vec![(1e300, -1.0), (2e300, -1.0)],
            vec![(0.0, 1.0), (1.0, 1.0 + f64::EPSILON)],
        ];
        for series in strange {
            let (loss, throughput) = (series.clone(), series);
            let page = page(&RunReport { loss, throughput, ..RunReport::default() });
            check_well_formed(&page);
            assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        }
    }

    #[test]
    fn the_page_is_written_over_the_old_one() {
        let path = std::env::temp_dir().join(format!("gradwire-report-{}", std::process::id()));
        write_html(&path, &RunReport::default()).unwrap();
        write_html(&path, &report()).unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(written, page(&report()));
    }
}
