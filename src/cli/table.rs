//! Columns that line up.

/// Aligns rows by columns with two spaces between; colour codes do not count as width.
pub(super) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(cell))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, wanted) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', wanted - width(cell) + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Characters that are seen: everything but `ESC [ … m`.
fn width(cell: &str) -> usize {
    let mut seen = 0;
    let mut escape = false;
    for c in cell.chars() {
        match c {
            '\x1b' => escape = true,
            'm' if escape => escape = false,
            _ if escape => {}
            _ => seen += 1,
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_do_not_count() {
        let rows = [
            vec!["\x1b[1mab\x1b[0m".to_owned(), "c".to_owned()],
            vec!["abcd".to_owned(), "e".to_owned()],
        ];
        assert_eq!(align(&rows), "\x1b[1mab\x1b[0m    c\nabcd  e\n");
    }
}
