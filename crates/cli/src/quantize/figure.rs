//! What codes cost at each noise level, as a picture.

use std::error::Error as StdError;
use std::path::Path;

use plotters::prelude::*;

use super::report::{DriftRow, Report};
use crate::error::{Error, write_whole};

const SIZE: (u32, u32) = (900, 480);

/// A line: its name, and errors above zero by timestep.
type Line = (String, Vec<(f64, f64)>);

/// Draws the drift of all networks that have one.
pub(super) fn write(report: &Report, path: &Path) -> Result<(), Error> {
    let lines = lines(report);
    if lines.is_empty() {
        return Err(Error::Argument {
            argument: "--plot",
            reason:
                "there are no errors to draw: none was measured at noise levels, or all are zero"
                    .to_owned(),
        });
    }
    let drawn = drawing(&lines).map_err(|error| Error::write(path, &error))?;
    write_whole(path, |beside| std::fs::write(beside, drawn))
        .map_err(|error| Error::write(path, &error))
}

/// Two lines a network. What is exact has no place on a logarithmic axis.
fn lines(report: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    for network in &report.networks {
        let mut line = |what: &str, error: fn(&DriftRow) -> f64| {
            let points = network.drift.iter().map(|row| (row.t, error(row)));
            let points: Vec<(f64, f64)> =
                points.filter(|it| it.1.is_finite() && it.1 > 0.0).collect();
            if !points.is_empty() {
                lines.push((format!("{}: the {what} it sees", network.name), points));
            }
        };
        line("sample", |row| row.clean);
        line("noise", |row| row.noise);
    }
    lines
}

fn drawing(lines: &[Line]) -> Result<String, Box<dyn StdError>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let last = points().fold(1.0, |most: f64, it| most.max(it.0));
    let low = points().fold(f64::INFINITY, |least, it| least.min(it.1));
    let high = points().fold(low, |most, it| most.max(it.1));
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area);
        chart.margin(16).x_label_area_size(44).y_label_area_size(72);
        let mut chart = chart.build_cartesian_2d(0.0..last, (low / 2.0..high * 2.0).log_scale())?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("timestep: clean to noise");
        mesh.y_desc("relative error");
        mesh.y_label_formatter(&|error| format!("{error:.0e}"));
        mesh.draw()?;
        for ((name, points), i) in lines.iter().zip(0..) {
            let style = Palette99::pick(i).stroke_width(2);
            let series = LineSeries::new(points.iter().copied(), style).point_size(3);
            let key = move |(x, y)| Rectangle::new([(x, y - 1), (x + 18, y + 1)], style.filled());
            chart.draw_series(series)?.label(name.as_str()).legend(key);
        }
        chart.configure_series_labels().border_style(BLACK).draw()?;
        area.present()?;
    }
    Ok(text)
}
