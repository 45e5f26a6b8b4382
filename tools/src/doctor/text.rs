//! The doctor's findings for a person: a column of verdicts, one of names, one of words.
//!
//! Owns the layout. Lines are at most [`COLUMNS_MAX`] wide where words allow it.

use super::finding::{Finding, Verdict};
use super::{Diagnosis, Section};

/// Columns of a line.
const COLUMNS_MAX: usize = 100;

/// Columns of the verdict, with the space before and behind it.
const VERDICT_COLUMNS: usize = 9;

/// All of it, without a line's end behind the last line.
pub(super) fn render(diagnosis: &Diagnosis) -> String {
    let findings = || diagnosis.sections.iter().flat_map(|section| &section.findings);
    let names = findings().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    let mut lines = vec![format!("gradwire {}, commit {}", diagnosis.gradwire, diagnosis.commit)];
    for Section { name, findings } in &diagnosis.sections {
        lines.extend([String::new(), name.to_string()]);
        findings.iter().for_each(|finding| render_finding(finding, names, &mut lines));
    }
    let count = |verdict| findings().filter(|finding| finding.verdict == verdict).count();
    let (notes, warnings) = (count(Verdict::Note), count(Verdict::Warning));
    let end = match count(Verdict::Unfit) {
        0 => "fit".to_owned(),
        unfit => format!("not fit: {}", plural(unfit, "finding")),
    };
    lines.extend([
        String::new(),
        format!("{end}; {}, {}", plural(warnings, "warning"), plural(notes, "note")),
    ]);
    lines.join("\n")
}

fn render_finding(finding: &Finding, names: usize, lines: &mut Vec<String>) {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Note => "note",
        Verdict::Warning => "WARN",
        Verdict::Unfit => "UNFIT",
    };
    let indent = VERDICT_COLUMNS + names + 2;
    let head = format!("  {verdict:<7}{:<names$}", finding.name);
    put(&format!("{head}  "), &finding.value, indent, lines);
    for (word, text) in [("why:  ", &finding.reason), ("mend: ", &finding.remedy)] {
        if let Some(text) = text {
            put(&format!("{:indent$}{word}", ""), text, indent + word.len(), lines);
        }
    }
}

/// Writes `text` behind `head`, and goes on below it, `indent` columns in.
fn put(head: &str, text: &str, indent: usize, lines: &mut Vec<String>) {
    let mut line = head.to_owned();
    let mut is_first = true;
    for word in text.split(' ') {
        let columns = line.chars().count() + word.chars().count() + usize::from(!is_first);
        if !is_first && columns > COLUMNS_MAX {
            lines.push(line);
            line = format!("{:indent$}{word}", "");
            continue;
        }
        if !is_first {
            line.push(' ');
        }
        line.push_str(word);
        is_first = false;
    }
    lines.push(line);
}

fn plural(count: usize, word: &str) -> String {
    match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    }
}
