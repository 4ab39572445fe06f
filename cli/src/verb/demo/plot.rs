// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Throughput over time, with the kill and the return marked.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::report::Report;
use super::scene::Recorded;

const WIRE: RGBColor = RGBColor(0x1f, 0x5f, 0xa8);
const LOSS: RGBColor = RGBColor(0xb0, 0x2a, 0x30);
const BACK: RGBColor = RGBColor(0x2a, 0x7d, 0x3f);

/// Draws `throughput.svg`.
pub(super) fn draw(path: &Path, recorded: &Recorded, report: &Report) -> Result<()> {
    render(path, recorded, report).map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

fn render(
    path: &Path,
    recorded: &Recorded,
    report: &Report,
) -> Result<(), Box<dyn std::error::Error>> {
    // Octets in a tenth of a second, as Mbit/s.
    let points: Vec<(f64, f64)> = recorded
        .bulk
        .series
        .points()
        .map(|(second, octets)| (second, octets as f64 * 8e-5))
        .collect();
    let top = points.iter().map(|(_, rate)| *rate).fold(1.0, f64::max) * 1.15;
    let second =
        |mark: super::scene::Mark| (mark.instant - recorded.timeline.start.instant).as_secs_f64();
    let timeline = &recorded.timeline;
    let (from, until) = (
        second(timeline.streaming).floor(),
        second(timeline.end) + 0.3,
    );

    let area = SVGBackend::new(path, (1000, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let caption = format!("TCP through the tunnel, verified: {}", report.suite);
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(from..until, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc("Mbit/s")
        .light_line_style(TRANSPARENT)
        .draw()?;
    chart.draw_series(LineSeries::new(points, WIRE.stroke_width(2)))?;
    let marks = [
        (second(timeline.killed), LOSS, "card a killed"),
        (second(timeline.card_back), BLACK, "card a back"),
        (second(timeline.returned), BACK, "SAs in the card again"),
    ];
    for (row, (at, colour, text)) in marks.into_iter().enumerate() {
        chart.draw_series(LineSeries::new(
            [(at, 0.0), (at, top)],
            colour.stroke_width(1),
        ))?;
        let height = top * (0.98 - 0.05 * row as f64);
        let style = ("sans-serif", 14).into_font().color(&colour);
        let label = Text::new(text, (at + (until - from) * 0.005, height), style);
        chart.draw_series(std::iter::once(label))?;
    }
    area.present()?;
    Ok(())
}
