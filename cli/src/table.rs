//! Tables of the operator's verbs, in the style of spec/control-and-proxy.md 4.1: `+---+` borders, one
//! space of padding, left aligned. Sorting is the caller's.

/// Draws a table; every row has as many cells as `head`.
pub(crate) fn draw(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([head[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let border: String =
        widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+\n";
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let body: String = rows.iter().map(|row| line(row, &widths)).collect();
    let foot = if rows.is_empty() { "" } else { &border };
    format!("{border}{}{border}{body}{foot}", line(&head, &widths))
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cells: String = cells.iter().zip(widths).map(|(cell, width)| format!("| {cell:<width$} ")).collect();
    cells + "|\n"
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["reviews".to_owned(), "ü".to_owned()], vec!["a".to_owned(), String::new()]];
        let expected = "\
+---------+----+
| Service | No |
+---------+----+
| reviews | ü  |
| a       |    |
+---------+----+
";
        assert_eq!(super::draw(&["Service", "No"], &rows), expected);
        assert_eq!(super::draw(&["A"], &[]), "+---+\n| A |\n+---+\n");
    }
}
