//! The table as a picture: quality against fraction and time against fraction, in SVG.

use limbeck::plan::{Calibration, QualityKind};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::output::Failure;

const SIZE: (u32, u32) = (1040, 460);
const HEADING: i32 = 48;
const FONT: &str = "sans-serif";
/// Perplexities beyond this multiple of the best are left out: they would flatten the others.
const MOST_PERPLEXITY: f64 = 4.0;
/// Share of the range of values that is left free above and below.
const MARGIN: f64 = 0.05;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// The picture.
pub fn draw(table: &Calibration, student: &str) -> Result<String, Failure> {
    let mut svg = String::new();
    draw_into(&mut svg, table, student).map_err(|e| Failure::new(format!("the plot: {e}")))?;
    Ok(svg)
}

fn draw_into(svg: &mut String, table: &Calibration, student: &str) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let heading = format!("{}: compute, quality and time", printable(student));
    root.draw(&Text::new(heading, (24, 14), (FONT, 22)))?;
    let on = format!("{}, {} tokens", printable(&table.data), table.tokens);
    let grey = TextStyle::from((FONT, 14).into_font()).color(&RGBColor(90, 90, 90));
    root.draw(&Text::new(on, (24, 42), grey))?;
    let (_, panels) = root.split_vertically(HEADING + 16);
    let (left, right) = panels.split_horizontally(SIZE.0 / 2);
    let quality = table.points.iter().map(|p| (p.fraction, p.quality));
    let times = table.points.iter().filter_map(|p| Some((p.fraction, p.ms_per_token?)));
    panel(&left, quality_label(table.quality), shown(table.quality, quality.collect()), BLUE)?;
    panel(&right, "time per token (ms)", times.collect(), RED)?;
    root.present()
}

fn quality_label(kind: QualityKind) -> &'static str {
    match kind {
        QualityKind::Perplexity => "perplexity (less is better)",
        QualityKind::Cosine => "mean cosine to full compute",
        QualityKind::Agreement => "agreement with full compute",
        _ => "accuracy",
    }
}

/// The points that the picture has room for.
fn shown(kind: QualityKind, mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if kind == QualityKind::Perplexity {
        let best = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
        points.retain(|p| p.1 <= best * MOST_PERPLEXITY);
    }
    points
}

/// Text without characters that XML does not know.
fn printable(text: &str) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.truncate(text.floor_char_boundary(60));
    text
}

fn panel(area: &Area<'_>, label: &str, mut points: Vec<(f64, f64)>, colour: RGBColor) -> Drawn {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (least, most) = range(points.iter().map(|p| p.1));
    let start = points.first().map_or(0.0, |p| (p.0 * 10.0).floor() / 10.0).min(0.9);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .margin_right(28)
        .x_label_area_size(46)
        .y_label_area_size(72)
        .build_cartesian_2d(start..1.0, least..most)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(6)
        .y_labels(7)
        .x_desc("fraction of full compute (multiply-adds)")
        .y_desc(label)
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 16))
        .x_label_formatter(&|v| format!("{v:.1}"))
        .y_label_formatter(&|v| number(*v, most - least))
        .draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|p| Circle::new(*p, 4, colour.filled())))?;
    Ok(())
}

/// The range of values with a margin, never empty.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    let (least, most) = if ends.0 <= ends.1 { ends } else { (0.0, 1.0) };
    let margin = ((most - least) * MARGIN).max(most.abs() * 1e-3).max(1e-6);
    (least - margin, most + margin)
}

/// A number with the digits that tell labels of this range apart.
fn number(value: f64, range: f64) -> String {
    let digits = (1.5 - range.log10()).ceil().clamp(0.0, 8.0) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use limbeck::plan::CalibrationPoint;

    fn table(quality: QualityKind, values: &[(f64, f64, Option<f64>)]) -> Calibration {
        let point = |(i, v): (usize, &(f64, f64, Option<f64>))| CalibrationPoint {
            price: i as f64,
            fraction: v.0,
            site_fraction: v.0,
            quality: v.1,
            ms_per_token: v.2,
        };
        Calibration {
            quality,
            data: "a <b> & \"c\"\u{1}.txt".into(),
            tokens: 9,
            machine: None,
            points: values.iter().enumerate().map(point).collect(),
        }
    }

    #[test]
    fn pictures_are_xml_whatever_names_and_numbers_are() {
        let tables = [
            table(QualityKind::Cosine, &[(1.0, 1.0, Some(0.2)), (0.5, 0.9, Some(0.1))]),
            table(QualityKind::Perplexity, &[(1.0, 12.0, None), (0.4, 1e6, None)]),
            table(QualityKind::Accuracy, &[(0.7, 0.5, Some(0.0)), (0.7, 0.5, Some(0.0))]),
        ];
        for table in tables {
            let svg = draw(&table, "<student> & ]]> \u{8}").unwrap();
            let document = roxmltree::Document::parse(&svg).unwrap_or_else(|e| panic!("{e}"));
            let text: Vec<&str> = document.descendants().filter_map(|n| n.text()).collect();
            let has = |word: &str| text.iter().any(|t| t.contains(word));
            assert!(has("<student> &") && has("a <b> & \"c\".txt"), "{text:?}");
            assert!(has("fraction of full compute") && has("time per token (ms)"));
            assert!(has(quality_label(table.quality)) && !svg.contains("NaN"));
        }
    }

    #[test]
    fn absurd_perplexities_are_left_out() {
        let kept = shown(QualityKind::Perplexity, vec![(1.0, 10.0), (0.6, 30.0), (0.3, 900.0)]);
        assert_eq!(kept, [(1.0, 10.0), (0.6, 30.0)]);
    }
}
