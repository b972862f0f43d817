//! A picture as SVG: lines over two axes, stages shaded behind them. It knows nothing of runs.
//!
//! Colours come from the page's style, so that one picture serves light, dark and paper. Lines of one
//! colour differ by their dashes.

use super::axis::{self, Axis, Unit};
use maud::{Markup, html};
use std::fmt::Write as _;

/// The picture's own size; the page scales it.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 236.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 44.0;
/// Room that a letter takes, generously.
const LETTER: f64 = 6.6;
/// Colours of the page's style.
const TONES: usize = 8;
const DASHES: [&str; 4] = ["none", "7 4", "2 3", "9 3 2 3"];
/// Boxes that tell their numbers under the pointer: more would only make the page heavy.
const HINTS_MAX: usize = 400;

/// What is to be drawn.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) title: String,
    /// What stands out, in words and figures.
    pub(super) about: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// Stages, as spans of the x axis.
    pub(super) bands: Vec<Band>,
    pub(super) lines: Vec<Line>,
}

/// A span of the x axis that has a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Band {
    pub(super) name: String,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) tone: usize,
    pub(super) dash: usize,
    /// From left to right.
    pub(super) points: Vec<(f64, f64)>,
    /// Points to stand out, each with what it says.
    pub(super) dots: Vec<((f64, f64), String)>,
    /// From a point the line goes up or down first, then right: it tells of all up to a share.
    pub(super) in_steps: bool,
}

impl Picture {
    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.at(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.at(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// With its title, and a legend when there is more than one line.
    pub(super) fn draw(&self) -> Markup {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        html! {
            figure {
                figcaption { strong { (self.title) } @if !self.about.is_empty() { span { (self.about) } } }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.title) {
                    (self.draw_bands())
                    @for (at, text) in self.y.marks() {
                        @let y = bottom - at * (bottom - TOP);
                        line class="grid" x1=(LEFT) x2=(right) y1=(short(y)) y2=(short(y)) {}
                        text x=(LEFT - 6.0) y=(short(y + 4.0)) text-anchor="end" { (text) }
                    }
                    @for (at, text) in self.x_marks() {
                        @let x = LEFT + at * (right - LEFT);
                        line class="grid" x1=(short(x)) x2=(short(x)) y1=(TOP) y2=(bottom + 4.0) {}
                        text x=(short(x)) y=(bottom + 17.0) text-anchor="middle" { (text) }
                    }
                    line class="frame" x1=(LEFT) x2=(right) y1=(bottom) y2=(bottom) {}
                    text class="label" x=(f64::midpoint(LEFT, right)) y=(HEIGHT - 8.0) text-anchor="middle" { (self.x.label) }
                    text class="label" transform=(format!("translate(11 {}) rotate(-90)", f64::midpoint(TOP, bottom)))
                        text-anchor="middle" { (self.y.label) }
                    @for line in &self.lines { (self.draw_line(line)) }
                    @if self.x.unit == Unit::Time { (self.draw_hints()) }
                }
                @if self.lines.len() > 1 { (self.draw_legend()) }
            }
        }
    }

    /// Marks of the x axis without those whose words would run into the one before.
    fn x_marks(&self) -> Vec<(f64, String)> {
        let mut kept: Vec<(f64, String)> = Vec::new();
        let mut free_from = f64::NEG_INFINITY;
        for (at, text) in self.x.marks() {
            let (middle, half) = (at * (WIDTH - LEFT - RIGHT), room(&text) / 2.0);
            if middle - half >= free_from {
                free_from = middle + half + LETTER;
                kept.push((at, text));
            }
        }
        kept
    }

    /// Each is named by its name if that fits, else by its number.
    fn draw_bands(&self) -> Markup {
        html! {
            @for (index, band) in self.bands.iter().enumerate() {
                @let (from, to) = (self.x(band.from), self.x(band.to));
                @let number = (index + 1).to_string();
                rect class={ "band b" (index % 2) } x=(short(from)) y=(TOP) width=(short((to - from).max(0.0)))
                    height=(HEIGHT - TOP - BOTTOM) { title { (band.name) } }
                @let name = [band.name.as_str(), &number].into_iter().find(|it| room(it) <= to - from);
                @if let Some(name) = name {
                    text class="stage" x=(short(f64::midpoint(from, to))) y=(TOP - 6.0) text-anchor="middle" { (name) }
                }
            }
        }
    }

    fn draw_line(&self, line: &Line) -> Markup {
        let mut path = String::new();
        let mut before = None;
        for (x, y) in line.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
            let (x, y) = (self.x(*x), self.y(*y));
            // Writing to a string does not fail.
            let _ = match before {
                None => write!(path, "M{} {}", short(x), short(y)),
                Some(_) if line.in_steps => write!(path, "V{}H{}", short(y), short(x)),
                Some(_) => write!(path, "L{} {}", short(x), short(y)),
            };
            before = Some((x, y));
        }
        html! {
            path class={ "line t" (line.tone % TONES) } d=(path) stroke-dasharray=(DASHES[line.dash % DASHES.len()]) {}
            @for ((x, y), says) in &line.dots {
                circle class={ "dot t" (line.tone % TONES) } cx=(short(self.x(*x))) cy=(short(self.y(*y))) r="2.6" {
                    title { (line.name) " " (says) }
                }
            }
        }
    }

    /// What each line says at a time, for a pointer that rests there.
    fn draw_hints(&self) -> Markup {
        let mut times: Vec<f64> =
            self.lines.iter().flat_map(|it| it.points.iter().map(|(x, _)| *x)).collect();
        times.retain(|it| it.is_finite());
        times.sort_by(f64::total_cmp);
        times.dedup();
        let every = times.len().div_ceil(HINTS_MAX).max(1);
        let times: Vec<f64> = times.into_iter().step_by(every).collect();
        let said = |line: &Line, time: f64| {
            let found =
                line.points.iter().find(|(x, y)| x.total_cmp(&time).is_eq() && y.is_finite())?;
            let value = self.y.written_in_full(found.1);
            Some(if line.name.is_empty() { value } else { format!("{} {value}", line.name) })
        };
        html! {
            @for (index, time) in times.iter().enumerate() {
                @let from = self.x(*time);
                @let to = times.get(index + 1).map_or(WIDTH - RIGHT, |next| self.x(*next));
                rect class="hint" x=(short(from)) y=(TOP) width=(short((to - from).max(1.0)))
                    height=(HEIGHT - TOP - BOTTOM) {
                    title {
                        (axis::clock(*time))
                        @for text in self.lines.iter().filter_map(|line| said(line, *time)) { "\n" (text) }
                    }
                }
            }
        }
    }

    fn draw_legend(&self) -> Markup {
        html! {
            ul class="legend" {
                @for line in &self.lines {
                    li {
                        svg viewBox="0 0 26 10" aria-hidden="true" {
                            path class={ "line t" (line.tone % TONES) } d="M1 5H25"
                                stroke-dasharray=(DASHES[line.dash % DASHES.len()]) {}
                        }
                        (line.name)
                    }
                }
            }
        }
    }
}

fn room(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

/// A coordinate, to a tenth.
fn short(value: f64) -> String {
    axis::trimmed(value, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(lines: Vec<Line>, bands: Vec<Band>) -> Picture {
        let points = || lines.iter().flat_map(|it| it.points.iter());
        let x = Axis::over(Unit::Time, "time", points().map(|it| it.0));
        let y = Axis::over(Unit::Count, "count", points().map(|it| it.1));
        Picture { title: "t".into(), about: String::new(), x, y, bands, lines }
    }

    fn line(points: Vec<(f64, f64)>) -> Line {
        Line { name: "a".into(), tone: 0, dash: 0, points, dots: Vec::new(), in_steps: false }
    }

    #[test]
    fn a_line_goes_through_its_points_in_the_frame() {
        let drawn = picture(vec![line(vec![(0.0, 0.0), (5.0, 2.0), (10.0, 4.0)])], Vec::new());
        // Left bottom, the middle, right top.
        let svg = drawn.draw().into_string();
        assert!(svg.contains("d=\"M74 192L244 107L414 22\""), "{svg}");
    }

    #[test]
    fn what_is_no_number_is_not_drawn() {
        let odd = vec![(0.0, 1.0), (1.0, f64::NAN), (f64::INFINITY, 1.0), (2.0, 2.0)];
        let svg = picture(vec![line(odd)], Vec::new()).draw().into_string();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn a_stage_too_short_for_its_name_shows_its_number() {
        let band = |name: &str, from, to| Band { name: name.into(), from, to };
        let bands = vec![band("warm up the house", 0.0, 1.0), band("steady", 1.0, 10.0)];
        let svg = picture(vec![line(vec![(0.0, 1.0), (10.0, 1.0)])], bands).draw().into_string();
        assert!(!svg.contains(">warm up the house</text>") && svg.contains(">1</text>"), "{svg}");
        assert!(svg.contains(">steady</text>"), "{svg}");
    }

    #[test]
    fn words_below_the_axis_do_not_run_into_each_other() {
        let mut drawn = picture(vec![line(vec![(0.0, 1.0)])], Vec::new());
        drawn.x = Axis::over(Unit::Share, "", [1.0 - 1e-9].into_iter());
        let marks = drawn.x_marks();
        for pair in marks.windows(2) {
            let apart = (pair[1].0 - pair[0].0) * (WIDTH - LEFT - RIGHT);
            assert!(apart >= f64::midpoint(room(&pair[0].1), room(&pair[1].1)), "{marks:?}");
        }
        assert!(marks.len() > 3, "{marks:?}");
    }
}
