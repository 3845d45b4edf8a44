//! Aligned tables for the terminal, which are Markdown at the same time.

/// A table under construction: the first column is text, the others are figures.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column headings.
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Table { rows: vec![headings.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row; cells that are missing stay empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as Markdown, first column to the left and the others to the right.
    pub fn markdown(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], at: usize| row.get(at).cloned().unwrap_or_default();
        let width = |at: usize| {
            let widths = self.rows.iter().map(|row| cell(row, at).chars().count());
            widths.max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (at, &width) in widths.iter().enumerate() {
                let cell = cell(row, at);
                text += &match at {
                    0 => format!("| {cell:<width$} "),
                    _ => format!("| {cell:>width$} "),
                };
            }
            text += "|\n";
            if number == 0 {
                for (at, &width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width);
                    text += &if at == 0 { format!("|-{dashes}-") } else { format!("|-{dashes}:") };
                }
                text += "|\n";
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["name", "ratio"]);
        table.row(["é", "1.25"]);
        table.row(["longer"]);
        let expected = "\
            | name   | ratio |\n\
            |--------|------:|\n\
            | é      |  1.25 |\n\
            | longer |       |\n";
        assert_eq!(table.markdown(), expected);
    }
}
