//! Writing to standard output: listings, and what happens when nobody reads.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// A table on a terminal, tab-separated values otherwise.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The format option of commands that list something.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Listing {
    /// How the result is written: text (a table on a terminal, tab-separated values otherwise) or json (one object a line)
    #[arg(
        long,
        short = 'f',
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "text|json"
    )]
    pub format: Format,
}

impl Listing {
    /// Whether it is JSON.
    pub fn is_json(self) -> bool {
        self.format == Format::Json
    }
}

/// What became of writing: a reader that has gone away is no failure.
pub fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::failed(format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes one JSON object a line.
pub fn json_lines<T: Serialize>(rows: impl IntoIterator<Item = T>) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let write = || {
        for row in rows {
            serde_json::to_writer(&mut out, &row)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    written(write())
}

/// Writes rows as a table with headings on a terminal, and as tab-separated values without headings otherwise.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let text = if io::stdout().is_terminal() { aligned(headings, rows) } else { tab_separated(rows) };
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn tab_separated(rows: &[Vec<String>]) -> String {
    rows.iter().map(|row| row.join("\t") + "\n").collect()
}

fn aligned(headings: &[&str], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = headings.iter().map(ToString::to_string).collect();
    let all = || std::iter::once(&headings).chain(rows);
    let width =
        |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..headings.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "22".to_owned()]];
        assert_eq!(aligned(&["NAME", "N"], &rows), "NAME    N\na       1\nlonger  22\n");
        assert_eq!(tab_separated(&rows), "a\t1\nlonger\t22\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        assert_eq!(written(Err(io::ErrorKind::BrokenPipe.into())), Ok(()));
        assert!(written(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
