//! How figures look in a table: digits in groups, columns aligned.

/// A count in groups of three digits: `1 871 340`.
pub(crate) fn grouped(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Rows of cells below a header, the first column left-aligned and the others right-aligned, two
/// spaces apart.
///
/// Panics: if the rows are not of one length.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    assert!(rows.iter().all(|row| row.len() == count), "{count} cells a row");
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 => line.push_str(&format!("{cell:<width$}")),
                _ => line.push_str(&format!("  {cell:>width$}")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_groups_of_three() {
        let texts = [0.0, 999.0, 1000.0, 18_713_400.4].map(grouped);
        assert_eq!(texts, ["0", "999", "1 000", "18 713 400"]);
    }

    #[test]
    fn columns_align_under_their_header() {
        let rows = [["what", "keys_per_s"], ["push", "1 000"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "what  keys_per_s\npush       1 000\n");
    }
}
