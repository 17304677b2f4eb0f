//! The heat map for a terminal: one letter per step, on its colour where there are colours.

use super::heat_map::{Cell, HeatMap, percent};
use crate::terminal::{Colours, palette_index};
use std::fmt::Write as _;

/// How the text may look.
#[derive(Debug, Clone, Copy)]
pub struct TextStyle {
    /// The colours that the terminal has; [`Colours::None`] for files and pipes.
    pub colours: Colours,
    /// Columns of the terminal; more steps than fit go into further panels below.
    pub columns: usize,
}

impl Default for TextStyle {
    fn default() -> Self {
        Self { colours: Colours::None, columns: 80 }
    }
}

const NARROWEST: usize = 8;
/// " 100 %" after each row.
const SHARE: usize = 7;
const LONGEST_LABEL: usize = 28;

impl Cell {
    /// A letter that is told from the others without colour.
    pub(super) fn letter(self) -> char {
        match self {
            Self::Compute => '#',
            Self::Reuse => '.',
            Self::Forecast => '~',
            Self::Mix => '%',
            Self::Covered => '-',
        }
    }
}

impl HeatMap {
    /// The heat map as lines of text, ending with a legend.
    pub fn to_text(&self, style: TextStyle) -> String {
        let label = self.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0).min(LONGEST_LABEL);
        let steps = style.columns.saturating_sub(label + 1 + SHARE).max(NARROWEST);
        let mut text = String::new();
        if !self.title.is_empty() {
            let _ = writeln!(text, "{}", clean(&self.title));
        }
        for from in (0..self.steps()).step_by(steps) {
            let to = (from + steps).min(self.steps());
            let _ = writeln!(text, "{:label$} {}", "", ruler(from, to));
            for row in &self.rows {
                let name: String = clean(&row.label).chars().take(label).collect();
                let _ = write!(text, "{name:>label$} ");
                for cell in row.cells.iter().take(to).skip(from) {
                    push_letter(&mut text, *cell, style.colours);
                }
                let share = if to == self.steps() { percent(row.computed()) } else { String::new() };
                let _ = writeln!(text, "{reset} {share:>6}", reset = reset(style.colours));
            }
        }
        for (index, (cell, name)) in self.legend().into_iter().enumerate() {
            text.push_str(if index == 0 { "" } else { "   " });
            push_letter(&mut text, cell, style.colours);
            let _ = write!(text, "{} {name}", reset(style.colours));
        }
        text.push('\n');
        text
    }
}

/// Step numbers, one every ten steps, each beginning at its step.
fn ruler(from: usize, to: usize) -> String {
    let mut line = String::new();
    for step in from..to {
        if step % 10 == 0 && line.len() <= step - from {
            let _ = write!(line, "{:pad$}{step}", "", pad = step - from - line.len());
        }
    }
    line
}

fn push_letter(text: &mut String, cell: Cell, colours: Colours) {
    let [red, green, blue] = cell.colour();
    // White letters on dark paper, black on light.
    let ink = if cell == Cell::Compute { 97 } else { 30 };
    let _ = match colours {
        Colours::None => write!(text, "{}", cell.letter()),
        Colours::Palette256 => write!(text, "\x1b[{ink};48;5;{}m{}", palette_index([red, green, blue]), cell.letter()),
        Colours::True => write!(text, "\x1b[{ink};48;2;{red};{green};{blue}m{}", cell.letter()),
    };
}

fn reset(colours: Colours) -> &'static str {
    if colours == Colours::None { "" } else { "\x1b[0m" }
}

/// Labels come from files; they must not talk to the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::HeatRow;
    use Cell::{Compute, Covered, Forecast, Reuse};

    fn map() -> HeatMap {
        let row = |label: &str, cells: [Cell; 4]| HeatRow { label: label.into(), group: 0, cells: cells.repeat(3) };
        HeatMap {
            title: "fora, 12 steps".into(),
            rows: vec![
                row("0.attention", [Compute, Reuse, Reuse, Forecast]),
                row("0.feed_forward", [Compute; 4]),
                row("1.attention\x1b[2J", [Covered; 4]),
            ],
        }
    }

    #[test]
    fn plain_text_is_for_pipes() {
        assert_eq!(
            map().to_text(TextStyle::default()),
            "fora, 12 steps\n                0         10\n    0.attention #..~#..~#..~   25 %\n 0.feed_forward ############  100 %\n\
             1.attention?[2J ------------    0 %\n# compute 42 %   . reuse 17 %   ~ forecast 8 %   - covered 33 %\n"
        );
    }

    #[test]
    fn narrow_terminals_get_panels() {
        let text = map().to_text(TextStyle { columns: 31, ..TextStyle::default() });
        assert!(text.lines().take(9).all(|line| line.chars().count() <= 31), "{text}");
        assert_eq!(text.matches("0.attention").count(), 2);
        assert!(text.contains("     10\n"), "{text}");
    }

    #[test]
    fn colours_end_with_every_line() {
        for colours in [Colours::True, Colours::Palette256] {
            let text = map().to_text(TextStyle { colours, columns: 80 });
            assert!(
                text.lines()
                    .filter(|line| line.contains("\x1b["))
                    .all(|line| line.rfind("\x1b[0m") > line.rfind(";48;"))
            );
        }
    }
}
