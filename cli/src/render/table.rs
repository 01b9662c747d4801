//! Tables: columns as wide as what stands in them, no lines, made for eyes and for `awk`.

/// Rows under a heading.
#[derive(Debug, Default)]
pub(crate) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Columns that hold numbers, aligned to the right.
    right: Vec<bool>,
}

impl Table {
    /// A table with these columns; a heading that begins with `>` is aligned to the right.
    pub(crate) fn new(heading: &[&'static str]) -> Table {
        Table {
            heading: heading.iter().map(|name| name.trim_start_matches('>')).collect(),
            rows: Vec::new(),
            right: heading.iter().map(|name| name.starts_with('>')).collect(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heading.len());
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, without a line end behind the last row.
    pub(crate) fn text(&self) -> String {
        let mut widths: Vec<usize> = self.heading.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let heading: Vec<String> = self.heading.iter().map(|name| name.to_uppercase()).collect();
        let mut lines = vec![self.line(&heading, &widths)];
        lines.extend(self.rows.iter().map(|row| self.line(row, &widths)));
        lines.join("\n")
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), right) in cells.iter().zip(widths).zip(&self.right) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let pad = " ".repeat(width - cell.chars().count());
            let cell = if cell.is_empty() && pad.is_empty() { "" } else { cell.as_str() };
            match right {
                true => line.extend([pad.as_str(), cell]),
                false => line.extend([cell, pad.as_str()]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// The text without control characters, cut to `max` characters.
pub(crate) fn clip(text: &str, max: usize) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= max {
        return text.chars().map(clean).collect();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).map(clean).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let mut table = Table::new(&["name", ">n"]);
        table.row(vec!["eu".to_owned(), "7".to_owned()]);
        table.row(vec!["america".to_owned(), "123".to_owned()]);
        assert_eq!(table.text(), "NAME       N\neu         7\namerica  123");
    }

    #[test]
    fn what_is_printed_moves_no_cursor() {
        assert_eq!(clip("a\x1b[2Jb\nc", 80), "a [2Jb c");
        assert_eq!(clip("abcdef", 4), "abc…");
    }
}
