// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A run as one HTML file with its plots in it; it needs nothing from elsewhere.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::case::Ptest;
use crate::report::{Cell, Report};
use crate::stats::Estimate;

/// Why a plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("a plot: {0}")]
pub struct DrawError(String);

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (960, 440);
/// Told apart by people who see colours otherwise, too.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x1f, 0x5f, 0xa8),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x80, 0x60, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x6a, 0x3d, 0x9a),
    RGBColor(0x40, 0x40, 0x40),
];

/// One line of a plot.
struct Series {
    name: String,
    points: Vec<(f64, Estimate)>,
}

/// The page.
///
/// # Errors
/// A plot can't be drawn.
pub fn page(report: &Report) -> Result<String, DrawError> {
    let mut body = String::new();
    for ptest in [Ptest::Throughput, Ptest::PmdCyclecount] {
        for (title, cells) in groups(report, ptest) {
            let cycles = series(&cells, |cell| cell.value);
            body += &figure(
                &format!("{title}: cycles a packet"),
                "cycles a packet",
                &cycles,
            )?;
            let has_rate = cells.iter().all(|cell| cell.gbps.is_some());
            if ptest == Ptest::Throughput && has_rate {
                let rate = series(&cells, |cell| {
                    let rate = cell.gbps.unwrap_or(0.0);
                    // What the interval in cycles is in octets a second.
                    let at = |cycles: f64| rate * cell.value.median / cycles.max(f64::MIN_POSITIVE);
                    Estimate {
                        median: rate,
                        low: at(cell.value.high),
                        high: at(cell.value.low),
                    }
                });
                body += &figure(&format!("{title}: Gbit/s"), "Gbit/s", &rate)?;
            }
        }
    }
    for (title, cells) in groups(report, Ptest::Latency) {
        body += &curves(&title, &cells)?;
    }
    for (title, cells) in tunnels(report) {
        body += &bars(&title, &cells)?;
    }
    Ok(wrap(report, &body))
}

/// Cells of a kind, by algorithm and direction.
fn groups(report: &Report, ptest: Ptest) -> Vec<(String, Vec<&Cell>)> {
    let mut groups: Vec<(String, Vec<&Cell>)> = Vec::new();
    for cell in report.cells.iter().filter(|cell| cell.ptest == ptest) {
        let title = format!("{ptest}, {} {}", cell.suite, cell.operation);
        match groups.iter_mut().find(|(found, _)| *found == title) {
            Some((_, cells)) => cells.push(cell),
            None => groups.push((title, vec![cell])),
        }
    }
    groups
}

/// What each tunnel moved, by traffic and size.
fn tunnels(report: &Report) -> Vec<(String, Vec<&Cell>)> {
    let mut groups: Vec<(String, Vec<&Cell>)> = Vec::new();
    let moved = |cell: &&Cell| cell.ptest == Ptest::Tunnel && cell.gbps.is_some();
    for cell in report.cells.iter().filter(moved) {
        let title = format!("tunnel, {} {} B: Gbit/s", cell.operation, cell.size);
        match groups.iter_mut().find(|(found, _)| *found == title) {
            Some((_, cells)) => cells.push(cell),
            None => groups.push((title, vec![cell])),
        }
    }
    groups
}

fn label(cell: &Cell) -> String {
    let mut label = format!("{}, burst {}", cell.backend, cell.burst);
    for (count, what) in [
        (cell.queues, "queues"),
        (cell.cores, "cores"),
        (cell.sas, "SAs"),
    ] {
        if count > 1 {
            label += &format!(", {count} {what}");
        }
    }
    label
}

fn series(cells: &[&Cell], value: impl Fn(&Cell) -> Estimate) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for cell in cells {
        let point = (cell.octets, value(cell));
        match all.iter_mut().find(|series| series.name == label(cell)) {
            Some(series) => series.points.push(point),
            None => all.push(Series {
                name: label(cell),
                points: vec![point],
            }),
        }
    }
    for series in &mut all {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    all
}

fn svg(draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, DrawError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let drawn = area
            .fill(&WHITE)
            .map_err(Into::into)
            .and_then(|()| draw(&area));
        let drawn = drawn.and_then(|()| area.present().map_err(Into::into));
        drawn.map_err(|error: Box<dyn std::error::Error>| DrawError(error.to_string()))?;
    }
    Ok(text)
}

/// Values over sizes, each with its interval.
fn figure(title: &str, unit: &str, all: &[Series]) -> Result<String, DrawError> {
    let points = || all.iter().flat_map(|series| &series.points);
    let most = points().map(|(_, value)| value.high).fold(1.0, f64::max) * 1.1;
    let (least_x, most_x) = bounds(points().map(|(x, _)| *x));
    svg(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d((least_x..most_x).log_scale().base(2.0), 0.0..most)?;
        chart
            .configure_mesh()
            .x_desc("octets of a packet")
            .y_desc(unit)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (series, colour) in all.iter().zip(COLOURS.into_iter().cycle()) {
            let line = series.points.iter().map(|(x, value)| (*x, value.median));
            chart
                .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
                .label(series.name.clone())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            chart.draw_series(line.map(|point| Circle::new(point, 3, colour.filled())))?;
            chart.draw_series(series.points.iter().map(|(x, value)| {
                PathElement::new([(*x, value.low), (*x, value.high)], colour.stroke_width(1))
            }))?;
        }
        legend(&mut chart)
    })
}

/// A bar for each tunnel.
fn bars(title: &str, cells: &[&Cell]) -> Result<String, DrawError> {
    let values: Vec<(&str, f64)> = cells
        .iter()
        .map(|cell| (cell.backend.as_str(), cell.gbps.unwrap_or(0.0)))
        .collect();
    let most = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    svg(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(110)
            .build_cartesian_2d(
                0.0..(most * 1.1).max(f64::MIN_POSITIVE),
                (0..values.len()).into_segmented(),
            )?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_desc("Gbit/s")
            .y_label_formatter(&|at| match at {
                SegmentValue::CenterOf(at) => {
                    values.get(*at).map_or("", |(name, _)| name).to_owned()
                }
                _ => String::new(),
            })
            .light_line_style(TRANSPARENT)
            .draw()?;
        let each = values.iter().zip(COLOURS.into_iter().cycle()).enumerate();
        chart.draw_series(each.map(|(at, ((_, value), colour))| {
            let ends = [
                (0.0, SegmentValue::Exact(at)),
                (*value, SegmentValue::Exact(at + 1)),
            ];
            let mut bar = Rectangle::new(ends, colour.filled());
            bar.set_margin(6, 6, 0, 0);
            bar
        }))?;
        Ok(())
    })
}

/// Latency over percentiles, in steps that each halve what is left.
fn curves(title: &str, cells: &[&Cell]) -> Result<String, DrawError> {
    let point = |(percentile, nanos): &(f64, u64)| {
        let left = (1.0 - percentile / 100.0).max(1e-9);
        (1.0 / left, (*nanos as f64).max(1.0))
    };
    let lines: Vec<(String, Vec<(f64, f64)>)> = cells
        .iter()
        .filter_map(|cell| {
            let latency = cell.latency.as_ref()?;
            let name = format!("{}, {} B", label(cell), cell.size);
            Some((name, latency.curve.iter().map(point).collect()))
        })
        .collect();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let (_, most_x) = bounds(points().map(|(x, _)| *x));
    let (least_y, most_y) = bounds(points().map(|(_, y)| *y));
    svg(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(40)
            .y_label_area_size(72)
            .build_cartesian_2d((1.0..most_x).log_scale(), (least_y..most_y).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("percentile")
            .y_desc("ns until the completion")
            .x_label_formatter(&|x| {
                format!("{:.5}", 100.0 - 100.0 / x)
                    .trim_end_matches('0')
                    .trim_end_matches('.')
                    .to_owned()
            })
            .y_label_formatter(&|y| format!("{y:.0}"))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for ((name, points), colour) in lines.iter().zip(COLOURS.into_iter().cycle()) {
            chart
                .draw_series(LineSeries::new(
                    points.iter().copied(),
                    colour.stroke_width(2),
                ))?
                .label(name.clone())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
        }
        legend(&mut chart)
    })
}

fn legend<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Drawn
where
    X: plotters::coord::ranged1d::Ranged + 'a,
    Y: plotters::coord::ranged1d::Ranged + 'a,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    Ok(())
}

/// Bounds of an axis that are apart and above 0.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = values.fold((f64::MAX, 0.0f64), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    let least = if least == f64::MAX {
        1.0
    } else {
        least.max(1.0)
    };
    (least * 0.9, (most * 1.1).max(least * 1.5))
}

fn wrap(report: &Report, body: &str) -> String {
    let machine = &report.machine;
    let mut facts = vec![
        format!("esplanade {} on Linux {}", report.version, machine.kernel),
        format!("{}, {} processors", machine.cpu, machine.processors),
        format!("{}, load {:.2}", machine.openssl, machine.load[0]),
    ];
    facts.extend(
        report
            .engines
            .iter()
            .map(|engine| format!("{}: {} {}", engine.name, engine.product, engine.firmware)),
    );
    facts.extend(
        machine
            .warnings
            .iter()
            .map(|warning| format!("Warning: {warning}")),
    );
    facts.extend(
        report
            .absent
            .iter()
            .map(|why| format!("Not measured: {why}")),
    );
    if report.interrupted {
        facts.push("Interrupted before its end.".to_owned());
    }
    let facts: String = facts
        .iter()
        .map(|fact| format!("<li>{}</li>", escape(fact)))
        .collect();
    let rows: String = report.cells.iter().map(row).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>esplanade bench</title>\n\
         <style>body{{font:14px sans-serif;max-width:980px;margin:2em auto}}\
         td,th{{padding:2px 8px;text-align:right;border-bottom:1px solid #ddd}}\
         td:first-child,th:first-child{{text-align:left}}svg{{max-width:100%;height:auto}}</style>\n\
         <h1>esplanade bench</h1>\n<ul>{facts}</ul>\n{body}\n\
         <table><tr><th>cell<th>median<th>95 %<th>unit<th>cycles/B<th>Mpps<th>Gbit/s<th>p99 ns<th>check</tr>\n\
         {rows}</table>\n\
         <p>Points are medians of rounds that were run in turn; bars, and the column 95 %, are bootstrap \
         intervals of them.</p></html>\n"
    )
}

fn row(cell: &Cell) -> String {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let check = cell
        .verify
        .as_ref()
        .map_or("", |verdict| if verdict.passed() { "pass" } else { "FAIL" });
    let columns = [
        escape(&cell.key()),
        format!("{:.1}", cell.value.median),
        format!("{:.1} to {:.1}", cell.value.low, cell.value.high),
        cell.metric.clone(),
        number(cell.cycles_per_byte),
        number(cell.mpps),
        number(cell.gbps),
        number(cell.latency.as_ref().map(|latency| latency.p99 as f64)),
        check.to_owned(),
    ];
    format!("<tr><td>{}</tr>\n", columns.join("<td>"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
