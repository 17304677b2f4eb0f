//! Steps across, sites down: what was done where.

use super::chart::{LegendEntry, Mark, legend, title};
use super::surface::{Anchor, Rect, Surface, Words};
use super::{Plot, WIDTH, font, plot_error, theme};
use crate::{MediaError, Rgb};

const MARGIN: f64 = 20.0;
const LONGEST_LABEL: f64 = 220.0;
const SHARE_COLUMN: f64 = 56.0;
const GROUP_GAP: f64 = 4.0;
/// All rows together want this height, between the limits of one row.
const ROWS_HEIGHT: f64 = 620.0;
const ROW_LIMITS: (f64, f64) = (5.0, 20.0);
const CELL_LIMITS: (f64, f64) = (3.0, 40.0);
/// Labels closer than this would touch.
const LABEL_PITCH: f64 = 13.0;

/// What was done at one step and site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// The part was computed.
    Compute,
    /// An earlier value was used again.
    Reuse,
    /// The value was extrapolated from earlier ones.
    Forecast,
    /// A blend of values.
    Mix,
    /// Nobody asked: a run of blocks around it was skipped.
    Covered,
}

impl Cell {
    /// All cells in the legend's order.
    pub const ALL: [Self; 5] = [Self::Compute, Self::Reuse, Self::Forecast, Self::Mix, Self::Covered];

    /// The word in the legend.
    pub fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Reuse => "reuse",
            Self::Forecast => "forecast",
            Self::Mix => "mix",
            Self::Covered => "covered",
        }
    }

    /// Colours that also differ in lightness, for print and for any kind of colour vision.
    pub(super) fn colour(self) -> Rgb {
        match self {
            Self::Compute => [0, 90, 156],
            Self::Reuse => [176, 212, 238],
            Self::Forecast => [230, 149, 0],
            Self::Mix => [196, 110, 164],
            Self::Covered => [232, 234, 238],
        }
    }
}

/// One site over all steps.
#[derive(Debug, Clone)]
pub struct HeatRow {
    /// The site's name.
    pub label: String,
    /// Rows of one group (a block, say) stand together, with a gap before the next.
    pub group: usize,
    /// One cell per step.
    pub cells: Vec<Cell>,
}

/// The plot.
#[derive(Debug, Clone)]
pub struct HeatMap {
    /// Heading.
    pub title: String,
    /// The rows, from top to bottom; all of the same length.
    pub rows: Vec<HeatRow>,
}

/// Sizes that follow from the table.
struct Layout {
    left: f64,
    top: f64,
    cell: f64,
    row: f64,
    gap: f64,
}

impl HeatMap {
    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.rows.first().map_or(0, |row| row.cells.len())
    }

    /// How many cells are of a kind, as a share of all.
    pub fn share(&self, cell: Cell) -> f64 {
        let all = self.rows.iter().flat_map(|row| &row.cells);
        let (count, total) =
            all.fold((0usize, 0usize), |(count, total), &other| (count + usize::from(other == cell), total + 1));
        count as f64 / total.max(1) as f64
    }

    /// The cells that occur, with their share in words.
    pub(super) fn legend(&self) -> Vec<(Cell, String)> {
        let present = Cell::ALL.into_iter().filter(|&cell| self.rows.iter().any(|row| row.cells.contains(&cell)));
        present.map(|cell| (cell, format!("{} {}", cell.name(), percent(self.share(cell))))).collect()
    }

    fn gaps_before(&self, row: usize) -> usize {
        self.rows
            .windows(2)
            .take(row)
            .filter(|pair| matches!(pair, [above, below] if above.group != below.group))
            .count()
    }

    fn layout(&self) -> Layout {
        let widest = self.rows.iter().map(|row| font::width(&row.label, theme::SMALL, false)).fold(0.0, f64::max);
        let left = MARGIN + widest.min(LONGEST_LABEL) + 10.0;
        let room = WIDTH - left - SHARE_COLUMN - MARGIN;
        let cell = (room / self.steps().max(1) as f64).clamp(CELL_LIMITS.0, CELL_LIMITS.1);
        let row = (ROWS_HEIGHT / self.rows.len().max(1) as f64).clamp(ROW_LIMITS.0, ROW_LIMITS.1);
        let gap = if row < 8.0 { GROUP_GAP / 2.0 } else { GROUP_GAP };
        let heading = if self.title.is_empty() { 8.0 } else { 40.0 };
        Layout { left, top: heading + 8.0 + 22.0 + 14.0, cell, row, gap }
    }

    fn draw_rows(&self, surface: &mut dyn Surface, layout: &Layout) {
        let mut free_from = f64::MIN;
        for (index, row) in self.rows.iter().enumerate() {
            let y = layout.top + index as f64 * layout.row + self.gaps_before(index) as f64 * layout.gap;
            draw_cells(surface, layout, &row.cells, y);
            let middle = y + layout.row / 2.0;
            // Low rows cannot all be named; every so many is.
            if middle < free_from {
                continue;
            }
            free_from = middle + LABEL_PITCH;
            let label = font::shorten(&row.label, theme::SMALL, false, LONGEST_LABEL);
            let words = Words::new(&label, (layout.left - 8.0, middle), theme::SMALL, theme::INK).anchored(Anchor::End);
            surface.words(&words.centred_vertically());
            let share = percent(row.computed());
            let right = (layout.left + self.steps() as f64 * layout.cell + SHARE_COLUMN - 8.0, middle);
            let words = Words::new(&share, right, theme::SMALL, theme::QUIET).anchored(Anchor::End);
            surface.words(&words.centred_vertically());
        }
    }

    fn draw_steps(&self, surface: &mut dyn Surface, layout: &Layout, bottom: f64) {
        let every = [1, 2, 5, 10, 20, 50, 100, 200, 500]
            .into_iter()
            .find(|&every| every as f64 * layout.cell >= 26.0)
            .unwrap_or(1000);
        for step in (0..self.steps()).step_by(every) {
            let middle = (layout.left + (step as f64 + 0.5) * layout.cell, bottom + 16.0);
            surface.words(&Words::new(&step.to_string(), middle, theme::SMALL, theme::QUIET).anchored(Anchor::Middle));
        }
        let width = self.steps() as f64 * layout.cell;
        let below = (layout.left + width / 2.0, bottom + 36.0);
        surface.words(&Words::new("step", below, theme::TEXT, theme::QUIET).anchored(Anchor::Middle));
        let computed = (layout.left + width + SHARE_COLUMN - 8.0, layout.top - 6.0);
        surface.words(&Words::new("computed", computed, theme::SMALL, theme::QUIET).anchored(Anchor::End));
    }
}

impl HeatRow {
    /// The share of steps that were computed.
    pub(super) fn computed(&self) -> f64 {
        let computed = self.cells.iter().filter(|&&cell| cell == Cell::Compute).count();
        computed as f64 / self.cells.len().max(1) as f64
    }
}

/// Neighbouring cells of one kind are one rectangle with fine seams, which keeps SVGs of long runs small.
fn draw_cells(surface: &mut dyn Surface, layout: &Layout, cells: &[Cell], y: f64) {
    let seam = if layout.cell >= 6.0 && layout.row >= 7.0 { 1.0 } else { 0.0 };
    let mut step = 0;
    for run in cells.chunk_by(|left, right| seam == 0.0 && left == right) {
        let Some(&cell) = run.first() else { continue };
        let x = layout.left + step as f64 * layout.cell;
        let rect = Rect::new(x, y, run.len() as f64 * layout.cell - seam, layout.row - seam);
        surface.rect(rect, cell.colour());
        if cell == Cell::Covered && seam > 0.0 {
            let middle = rect.y + rect.height / 2.0;
            surface.line(&[(rect.x + rect.width * 0.3, middle), (rect.x + rect.width * 0.7, middle)], 1.0, theme::AXIS);
        }
        step += run.len();
    }
}

/// A share without false precision: only 0 and 1 are "0 %" and "100 %".
pub(super) fn percent(share: f64) -> String {
    match share {
        share if share > 0.0 && share < 0.01 => "<1 %".to_owned(),
        share if share > 0.99 && share < 1.0 => ">99 %".to_owned(),
        share => format!("{:.0} %", share * 100.0),
    }
}

impl Plot for HeatMap {
    fn size(&self) -> (f64, f64) {
        let layout = self.layout();
        let rows = self.rows.len() as f64 * layout.row + self.gaps_before(self.rows.len()) as f64 * layout.gap;
        let width = layout.left + self.steps() as f64 * layout.cell + SHARE_COLUMN + MARGIN;
        (width.max(WIDTH), layout.top + rows + 48.0)
    }

    fn title(&self) -> String {
        self.title.clone()
    }

    fn check(&self) -> Result<(), MediaError> {
        let steps = self.steps();
        if steps == 0 {
            return Err(plot_error("there are no steps"));
        }
        match self.rows.iter().find(|row| row.cells.len() != steps) {
            Some(row) => {
                Err(plot_error(format!("row {:?} has {} steps, the first row {steps}", row.label, row.cells.len())))
            }
            None => Ok(()),
        }
    }

    fn draw(&self, surface: &mut dyn Surface) {
        let (width, height) = self.size();
        surface.rect(Rect::new(0.0, 0.0, width, height), theme::PAPER);
        let top = title(surface, &self.title, MARGIN);
        let entry = |(cell, name): (Cell, String)| LegendEntry { name, colour: cell.colour(), mark: Mark::Square };
        let entries: Vec<LegendEntry> = self.legend().into_iter().map(entry).collect();
        legend(surface, &entries, (MARGIN, top + 6.0), WIDTH - 2.0 * MARGIN);
        let layout = self.layout();
        self.draw_rows(surface, &layout);
        self.draw_steps(surface, &layout, height - 48.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(rows: usize, steps: usize) -> HeatMap {
        let cells = |row: usize| (0..steps).map(|step| Cell::ALL[(row * 7 + step * 3) % 5]).collect();
        let rows = (0..rows)
            .map(|row| HeatRow { label: format!("{row}.attention"), group: row / 3, cells: cells(row) })
            .collect();
        HeatMap { title: "plan".into(), rows }
    }

    #[test]
    fn ragged_and_empty_tables_are_errors() {
        assert!(map(0, 0).to_svg().is_err() && map(3, 0).to_svg().is_err());
        let mut ragged = map(3, 4);
        ragged.rows[2].cells.pop();
        let error = ragged.to_svg().unwrap_err().to_string();
        assert_eq!(error, "cannot draw the plot: row \"2.attention\" has 3 steps, the first row 4");
    }

    #[test]
    fn shares_are_honest() {
        assert_eq!([0.0, 0.001, 0.5, 0.999, 1.0].map(percent), ["0 %", "<1 %", "50 %", ">99 %", "100 %"]);
    }

    #[test]
    fn each_cell_shows_its_colour() {
        let map = map(4, 10);
        let (picture, layout) = (map.to_picture(1.0).unwrap(), map.layout());
        for (index, row) in map.rows.iter().enumerate() {
            let y = layout.top + index as f64 * layout.row + map.gaps_before(index) as f64 * layout.gap + 3.0;
            for (step, cell) in row.cells.iter().enumerate() {
                let x = layout.left + step as f64 * layout.cell + 3.0;
                assert_eq!(picture.pixel(x as u32, y as u32), cell.colour(), "{step} {index}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn any_size_can_be_drawn(rows in 1usize..200, steps in 1usize..300) {
            let svg = map(rows, steps).to_svg().unwrap();
            prop_assert!(!svg.contains("NaN") && !svg.contains("=\"-"), "negative or undefined place");
        }
    }
}
