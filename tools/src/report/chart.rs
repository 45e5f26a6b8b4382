//! A curve with axes, as SVG.
//!
//! Owns scales, ticks and numbers on axes. Colours are left to the page's style, by class.
//!
//! Invariant: every number that is drawn is finite and inside the frame.

use std::fmt::Write as _;

/// Most points of a drawn curve; of a longer series, neighbours are averaged.
const POINTS_MAX: usize = 800;
/// Ticks that an axis aims at.
const TICKS: f64 = 6.0;
/// Largest magnitude that is drawn: differences of two such numbers are finite.
const MAGNITUDE_MAX: f64 = 1e300;
/// Smallest part of its magnitude that an axis spans, so that its ticks differ.
const SPAN_MIN: f64 = 1e-9;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// Where a vertical axis begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Floor {
    /// At zero, or at the lowest value below it.
    Zero,
    /// At the lowest value.
    Data,
}

/// What is said of a curve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chart {
    /// What a reader hears who does not see it. Plain text, not escaped here; so the titles.
    pub(super) name: &'static str,
    /// With its unit.
    pub(super) x_title: &'static str,
    /// With its unit.
    pub(super) y_title: &'static str,
    /// Where its vertical axis begins.
    pub(super) floor: Floor,
}

/// Points of finite numbers, [`POINTS_MAX`] at most.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series(Vec<(f64, f64)>);

impl Series {
    /// The points that can be drawn; neighbours are averaged where there are too many.
    pub(super) fn of(points: &[(f64, f64)]) -> Series {
        let is_drawable = |value: f64| value.abs() <= MAGNITUDE_MAX;
        let drawable: Vec<(f64, f64)> =
            points.iter().copied().filter(|&(x, y)| is_drawable(x) && is_drawable(y)).collect();
        let together = drawable.len().div_ceil(POINTS_MAX).max(1);
        Series(drawable.chunks(together).map(mean).collect())
    }
}

fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let share = 1.0 / points.len() as f64;
    points.iter().fold((0.0, 0.0), |(x, y), point| (x + share * point.0, y + share * point.1))
}

impl Chart {
    /// The curve as an `svg` element, or a sentence where there are no points.
    pub(super) fn draw(&self, series: &Series) -> String {
        let points = &series.0;
        let (Some(x), Some(y)) = (
            Scale::over(points.iter().map(|point| point.0), Floor::Zero),
            Scale::over(points.iter().map(|point| point.1), self.floor),
        ) else {
            return "<p>no points</p>\n".to_owned();
        };
        let x = Frame { scale: x, start: LEFT, end: WIDTH - RIGHT };
        let y = Frame { scale: y, start: HEIGHT - BOTTOM, end: TOP };
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            self.name
        );
        svg += &self.axes(&x, &y);
        svg += &curve(points, &x, &y);
        svg + "</svg>\n"
    }

    fn axes(&self, x: &Frame, y: &Frame) -> String {
        let mut svg = String::new();
        for tick in y.scale.ticks() {
            let (at, label) = (y.place(tick), y.scale.label(tick));
            svg += &line("grid", [x.start, at, x.end, at]);
            svg += &text("end", x.start - 8.0, at + 4.0, &label);
        }
        for tick in x.scale.ticks() {
            let (at, label) = (x.place(tick), x.scale.label(tick));
            svg += &line("axis", [at, y.start, at, y.start + 5.0]);
            svg += &text("middle", at, y.start + 19.0, &label);
        }
        svg += &line("axis", [x.start, y.start, x.end, y.start]);
        svg += &text("middle", (x.start + x.end) / 2.0, HEIGHT - 8.0, self.x_title);
        let middle = (y.start + y.end) / 2.0;
        svg + &format!(
            "<text transform=\"translate(14 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}\
             </text>\n",
            self.y_title
        )
    }
}

fn line(class: &str, [x1, y1, x2, y2]: [f64; 4]) -> String {
    format!(
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>\n"
    )
}

fn text(anchor: &str, x: f64, y: f64, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

fn curve(points: &[(f64, f64)], x: &Frame, y: &Frame) -> String {
    if let [(only_x, only_y)] = points {
        let (x, y) = (x.place(*only_x), y.place(*only_y));
        return format!("<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>\n");
    }
    let mut svg = String::from("<polyline class=\"curve\" points=\"");
    for point in points {
        // Writing to a string cannot fail.
        let _ = write!(svg, "{:.1},{:.1} ", x.place(point.0), y.place(point.1));
    }
    svg + "\"/>\n"
}

/// An axis in the drawing: its scale, and where it begins and ends.
struct Frame {
    scale: Scale,
    start: f64,
    end: f64,
}

impl Frame {
    fn place(&self, value: f64) -> f64 {
        let Scale { low, high, .. } = self.scale;
        let share = ((value - low) / (high - low)).clamp(0.0, 1.0);
        self.start + share * (self.end - self.start)
    }
}

/// The numbers of an axis: from `low` to `high`, both whole steps.
#[derive(Clone, Copy, Debug)]
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// A scale that holds all values, or `None` where there are none.
    fn over(values: impl Iterator<Item = f64>, floor: Floor) -> Option<Scale> {
        let range = values.fold(None, |range: Option<(f64, f64)>, value| {
            let (low, high) = range.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        });
        let (mut low, mut high) = range?;
        if floor == Floor::Zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let magnitude = low.abs().max(high.abs());
        let span_min =
            if magnitude > f64::MIN_POSITIVE / SPAN_MIN { magnitude * SPAN_MIN } else { 1.0 };
        if high - low < span_min {
            (low, high) = (low - span_min / 2.0, high + span_min / 2.0);
        }
        let step = round_step((high - low) / TICKS);
        let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        Some(Scale { low, high, step })
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.high - self.low) / self.step).round() as u32;
        (0..=count).map(move |index| self.low + f64::from(index) * self.step)
    }

    /// The number of a tick, with as many digits as neighbours need to differ.
    fn label(&self, tick: f64) -> String {
        let magnitude = self.low.abs().max(self.high.abs());
        if !(1e-6..1e15).contains(&magnitude) {
            return format!("{:.3e}", if tick.abs() < self.step / 2.0 { 0.0 } else { tick });
        }
        let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
        let fits = |(size, _): &(f64, &str)| magnitude >= *size;
        let (size, unit) = units.into_iter().find(fits).unwrap_or((1.0, ""));
        let digits = (-(self.step / size).log10()).ceil().clamp(0.0, 12.0) as usize;
        let value = tick / size;
        // What is left of rounding at zero is not "-0".
        let value = if tick.abs() < self.step / 2.0 { 0.0 } else { value };
        if value == 0.0 { "0".to_owned() } else { format!("{value:.digits$}{unit}") }
    }
}

/// The next larger of 1, 2, 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|s| *s >= step * 0.999);
    step.unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64], floor: Floor) -> Vec<String> {
        let scale = Scale::over(values.iter().copied(), floor).unwrap();
        scale.ticks().map(|tick| scale.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_with_as_many_digits_as_they_need() {
        let rows = labels(&[0.0, 45_840_617.0], Floor::Zero);
        assert_eq!(rows, ["0", "10M", "20M", "30M", "40M", "50M"]);
        let loss = labels(&[0.4512, 0.6912], Floor::Data);
        assert_eq!(loss, ["0.45", "0.50", "0.55", "0.60", "0.65", "0.70"]);
        let flat = labels(&[0.5, 0.5], Floor::Data);
        assert!(flat.len() > 1);
        let distinct: std::collections::HashSet<_> = flat.iter().collect();
        assert_eq!(distinct.len(), flat.len(), "{flat:?}");
    }

    #[test]
    fn every_scale_holds_its_values_and_has_few_ticks() {
        for exponent in -290..=290 {
            for digits in [1.0, 1.9, 3.3, 9.99] {
                let value = digits * 10_f64.powi(exponent);
                for values in [[0.0, value], [-value, value], [value, value * 1.5]] {
                    for floor in [Floor::Zero, Floor::Data] {
                        let scale = Scale::over(values.into_iter(), floor).unwrap();
                        let (low, high) = (values[0], values[1]);
                        let slack = scale.step * 1e-6;
                        assert!(scale.low <= low + slack && high <= scale.high + slack);
                        let ticks = scale.ticks().count();
                        assert!((2..=12).contains(&ticks), "{ticks} of {values:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_series_is_averaged_and_what_is_not_finite_left_out() {
        let points: Vec<_> = (0..8000).map(|i| (f64::from(i), 2.0)).collect();
        let Series(drawn) = Series::of(&points);
        assert_eq!(drawn.len(), POINTS_MAX);
        assert!((drawn[0].0 - 4.5).abs() < 1e-9 && (drawn[0].1 - 2.0).abs() < 1e-9);
        assert_eq!(Series::of(&[(0.0, f64::NAN), (f64::INFINITY, 0.0)]), Series(vec![]));
    }
}
