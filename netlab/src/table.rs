//! The demo's table: who asked, where, which pod answered, whom the pod saw, what was expected.
//! Knows only finished rows. Tests: below.

use crate::probe::Row;

/// Rows as text, one title a block, columns aligned.
pub fn print(rows: &[Row]) -> String {
    let cells: Vec<[&str; 5]> =
        rows.iter().map(|r| [r.who.as_str(), &r.to, &r.reached, &r.seen, &r.expected]).collect();
    let head = ["from", "to", "reached", "the pod saw", "expected"];
    let mut widths = head.map(str::len);
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len()).min(44);
        }
    }
    let mut text = format!("   {}\n", line(&head, &widths));
    let mut title = "";
    for (row, cells) in rows.iter().zip(&cells) {
        if row.title != title {
            title = &row.title;
            text.push_str(&format!("{title}\n"));
        }
        let mark = if row.wrong.is_none() { "ok" } else { "NO" };
        text.push_str(&format!("{mark} {}\n", line(cells, &widths)));
        if let Some(wrong) = &row.wrong {
            text.push_str(&format!("     ^ {wrong}\n"));
        }
    }
    text
}

fn line(cells: &[&str; 5], widths: &[usize; 5]) -> String {
    let padded: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    padded.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_row_says_why() {
        let row = Row {
            title: "NodePort".into(),
            who: "outside".into(),
            to: "tcp 1.2.3.4:5".into(),
            reached: "web-1,2".into(),
            seen: "9.9.9.9".into(),
            expected: "web-1".into(),
            wrong: Some("reached web-2".into()),
        };
        let text = print(&[row]);
        assert!(text.contains("NO outside  tcp 1.2.3.4:5  web-1,2  9.9.9.9"), "{text}");
        assert!(text.ends_with("^ reached web-2\n"));
    }
}
