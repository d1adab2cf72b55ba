//! The table as pictures.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::path::Path;

use plotters::prelude::*;

use super::table::Row;
use crate::error::{Error, write_whole};

const SIZE: (u32, u32) = (900, 560);

/// A point of a line: where, how much, and its interval.
type Point = (f64, f64, [f64; 2]);

/// Writes `success_by_steps.svg`, and `success_by_latency.svg` where plans were timed.
pub(super) fn write(rows: &[Row], folder: &Path) -> Result<(), Error> {
    let by_steps = lines(rows, |row| Some(row.steps as f64));
    draw(
        &folder.join("success_by_steps.svg"),
        "denoising steps",
        &by_steps,
    )?;
    let by_latency = lines(rows, |row| row.plan_ms.map(|it| it[0]));
    if by_latency.is_empty() {
        return Ok(());
    }
    draw(
        &folder.join("success_by_latency.svg"),
        "one plan, ms (p50)",
        &by_latency,
    )
}

/// A line for each policy with its solver and precision, in the table's order.
fn lines(rows: &[Row], place: impl Fn(&Row) -> Option<f64>) -> Vec<(String, Vec<Point>)> {
    let mut lines: Vec<(String, Vec<Point>)> = Vec::new();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        let Some(x) = place(row) else { continue };
        let name = format!("{}, {}, {}", row.name, row.solver, row.precision);
        let at = *found.entry(name.clone()).or_insert_with(|| {
            lines.push((name, Vec::new()));
            lines.len() - 1
        });
        lines[at].1.push((x, row.success, row.success_interval));
    }
    for (_, points) in &mut lines {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

fn draw(path: &Path, axis: &str, lines: &[(String, Vec<Point>)]) -> Result<(), Error> {
    let drawn = drawing(axis, lines).map_err(|error| Error::write(path, &error))?;
    write_whole(path, |beside| std::fs::write(beside, drawn))
        .map_err(|error| Error::write(path, &error))
}

/// Success against something that spans orders of magnitude.
fn drawing(axis: &str, lines: &[(String, Vec<Point>)]) -> Result<String, Box<dyn StdError>> {
    let mut text = String::new();
    {
        let xs = || {
            lines
                .iter()
                .flat_map(|(_, points)| points.iter().map(|it| it.0))
        };
        let (least, greatest) = (xs().fold(f64::INFINITY, f64::min), xs().fold(0.0, f64::max));
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d((least / 1.2..greatest * 1.2).log_scale(), 0.0..1.0)?;
        chart
            .configure_mesh()
            .x_desc(axis)
            .y_desc("success")
            .light_line_style(WHITE)
            .draw()?;
        for (i, (name, points)) in lines.iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            let line = points.iter().map(|it| (it.0, it.1));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
                .label(name.as_str())
                .legend(move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            chart.draw_series(points.iter().map(|&(x, y, [low, high])| {
                ErrorBar::new_vertical(x, low, y, high, colour.filled(), 6)
            }))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.4))
            .draw()?;
        root.present()?;
    }
    Ok(text)
}
