//! Line charts as inline SVG: scale, grid, lines with gaps, legend.

use super::html::escape;
use super::{Chart, Series};

/// The drawing, in SVG units; the page scales it.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;
/// Colours in the style sheet; with more series they repeat, dashed.
const COLOURS: usize = 8;

/// A figure with its legend.
pub(super) fn render(chart: &Chart) -> String {
    let finite: Vec<(f64, f64)> = chart.series.iter().flat_map(|series| finite(series).copied()).collect();
    let drawing = if finite.is_empty() {
        format!("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">no finite points</text>\n", WIDTH / 2.0, HEIGHT / 2.0)
    } else {
        let x = Scale::new(finite.iter().map(|point| point.0), LEFT, WIDTH - RIGHT);
        let y = Scale::new(finite.iter().map(|point| point.1), HEIGHT - BOTTOM, TOP);
        let lines = chart.series.iter().enumerate().map(|(i, series)| line(i, series, &x, &y));
        grid(chart, &x, &y) + &lines.collect::<String>()
    };
    let legend = chart.series.iter().enumerate().map(|(i, series)| legend(i, series));
    format!(
        "<figure>\n<figcaption>{0}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">\n\
         {drawing}</svg>\n<ul class=\"legend\">\n{1}</ul>\n</figure>\n",
        escape(&chart.title),
        legend.collect::<String>()
    )
}

fn finite(series: &Series) -> impl Iterator<Item = &(f64, f64)> {
    series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite())
}

/// A linear map from values to a stretch of the drawing, and round values to mark on it.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    step: f64,
}

impl Scale {
    /// Over finite values, at least one; a single value gets room around it.
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let (mut low, mut high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        // The difference of two finite values may be infinite; half of each is compared instead.
        if high / 2.0 - low / 2.0 <= f64::EPSILON * low.abs().max(high.abs()) {
            let room = (low.abs() * 0.1).clamp(0.5, f64::MAX / 4.0);
            (low, high) = ((low - room).max(f64::MIN), (high + room).min(f64::MAX));
        }
        let step = round_step((high / 6.0 - low / 6.0).max(f64::MIN_POSITIVE));
        let first = (low / step).ceil();
        let end = high + step * 1e-9;
        let ticks = (0..16).map(|i| (first + f64::from(i)) * step).take_while(|tick| tick.is_finite() && *tick <= end);
        Scale { low, high, from, to, ticks: ticks.collect(), step }
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0);
        self.from + share * (self.to - self.from)
    }

    /// A tick's text: as many decimals as its step has; large and small numbers in powers of ten.
    fn label(&self, tick: f64) -> String {
        let tick = if tick.abs() < self.step * 1e-6 { 0.0 } else { tick };
        let largest = self.low.abs().max(self.high.abs());
        if largest >= 1e7 || (self.step < 1e-5) {
            return if tick == 0.0 { "0".into() } else { format!("{tick:.1e}") };
        }
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{tick:.decimals$}")
    }
}

/// 1, 2 or 5 times a power of ten, at least the rough step.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|step| *step >= rough * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

fn grid(chart: &Chart, x: &Scale, y: &Scale) -> String {
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut out = String::new();
    for &tick in &y.ticks {
        let (at, label) = (y.place(tick), y.label(tick));
        out += &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\n");
        out += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n", LEFT - 6.0, at + 4.0);
    }
    for &tick in &x.ticks {
        let (at, label) = (x.place(tick), x.label(tick));
        out +=
            &format!("<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{}\"/>\n", bottom + 4.0);
        out += &format!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>\n", bottom + 17.0);
    }
    out += &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\n");
    let (middle, foot) = ((LEFT + right) / 2.0, HEIGHT - 10.0);
    out += &format!("<text x=\"{middle}\" y=\"{foot}\" text-anchor=\"middle\">{}</text>\n", escape(&chart.x_label));
    let middle = (TOP + bottom) / 2.0;
    out += &format!(
        "<text transform=\"translate(14 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
        escape(&chart.y_label)
    );
    out
}

/// Attributes by which a series is told from the others.
fn look(index: usize) -> String {
    let dash = if index / COLOURS == 0 { "" } else { " stroke-dasharray=\"5 3\"" };
    format!("class=\"series s{}\"{dash}", index % COLOURS)
}

/// The runs of finite points; a run of one point is a dot.
fn line(index: usize, series: &Series, x: &Scale, y: &Scale) -> String {
    let mut out = format!("<g><title>{}</title>\n", escape(&series.name));
    for run in series.points.split(|(x, y)| !(x.is_finite() && y.is_finite())).filter(|run| !run.is_empty()) {
        let places: Vec<(f64, f64)> = run.iter().map(|point| (x.place(point.0), y.place(point.1))).collect();
        if let [(x, y)] = places[..] {
            out += &format!("<circle class=\"dot s{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>\n", index % COLOURS);
            // A series that is one point has its name beside it, on the side where there is room.
            if series.points.len() == 1 {
                let (at, anchor) = if x > WIDTH / 2.0 { (x - 6.0, "end") } else { (x + 6.0, "start") };
                let name = escape(&series.name);
                out += &format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name}</text>\n", y - 5.0);
            }
        } else {
            let points: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            out += &format!("<polyline {} points=\"{}\"/>\n", look(index), points.join(" "));
        }
    }
    out + "</g>\n"
}

fn legend(index: usize, series: &Series) -> String {
    let left_out = series.points.len() - finite(series).count();
    let count = match left_out {
        0 if series.points.is_empty() => " (no points)".to_owned(),
        0 => String::new(),
        n => format!(" ({n} not finite)"),
    };
    format!(
        "<li><svg viewBox=\"0 0 24 10\" aria-hidden=\"true\"><polyline {} points=\"0,5 24,5\"/></svg> {}{count}</li>\n",
        look(index),
        escape(&series.name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[&[(f64, f64)]]) -> Chart {
        let series = points.iter().enumerate();
        let series = series.map(|(i, points)| Series { name: format!("s{i}"), points: points.to_vec() }).collect();
        Chart { series, ..Chart::default() }
    }

    #[test]
    fn points_land_on_the_corners_of_the_frame() {
        let svg = render(&chart(&[&[(0.0, 1.0), (10.0, 3.0)]]));
        assert!(svg.contains("points=\"64.0,254.0 548.0,14.0\""), "{svg}");
    }

    #[test]
    fn what_is_not_finite_makes_a_gap_and_is_counted() {
        let svg = render(&chart(&[&[(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 1.5), (4.0, f64::INFINITY)]]));
        assert_eq!(
            (svg.matches("<polyline class=\"series s0\" points=\"6").count(), svg.matches("<circle").count()),
            (1, 1)
        );
        assert!(svg.contains("s0 (2 not finite)") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn empty_and_degenerate_charts_are_drawn_without_strange_numbers() {
        let nothing: [&[&[(f64, f64)]]; 3] = [&[], &[&[]], &[&[(f64::NAN, 1.0)]]];
        for points in nothing {
            let svg = render(&chart(points));
            assert!(svg.contains("no finite points") && !svg.contains("NaN"), "{svg}");
        }
        let odd: [&[(f64, f64)]; 6] = [
            &[(3.0, 0.0)],
            &[(0.0, 5.0), (1.0, 5.0)],
            &[(0.0, f64::MAX), (1.0, f64::MIN)],
            &[(0.0, 1e-300), (1.0, -1e-300)],
            &[(1e9, 1e-9), (2e9, 3e-9)],
            &[(f64::MAX, 1.0)],
        ];
        for points in odd {
            let svg = render(&chart(&[points]));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}: {svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::new([0.0, 0.97].into_iter(), 0.0, 1.0);
        let labels: Vec<String> = scale.ticks.iter().map(|tick| scale.label(*tick)).collect();
        assert_eq!(labels, ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        let scale = Scale::new([-3.0, 1234.0].into_iter(), 0.0, 1.0);
        let labels: Vec<String> = scale.ticks.iter().map(|tick| scale.label(*tick)).collect();
        assert_eq!(labels, ["0", "500", "1000"]);
    }

    #[test]
    fn more_series_than_colours_are_dashed() {
        let points: &[(f64, f64)] = &[(0.0, 1.0), (1.0, 2.0)];
        let svg = render(&chart(&[points; COLOURS + 1]));
        assert_eq!(svg.matches("class=\"series s0\" stroke-dasharray").count(), 2, "line and legend");
    }
}
