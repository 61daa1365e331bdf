//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};

use super::histogram::{Bounds, Histogram};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Name and value of each.
pub type Label<'a> = (&'a str, &'a str);

#[derive(Default)]
pub struct Text(String);

/// Writing to a text cannot fail.
macro_rules! put {
    ($text:expr, $($what:tt)*) => { let _ = write!($text.0, $($what)*); };
}

impl Text {
    /// Begins a family, of which every sample follows.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        put!(self, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        self.labelled(name, labels, None);
        put!(self, " {value}\n");
    }

    /// `unit` is what one of the observed is of what is shown.
    pub fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &[Label<'_>],
        bounds: &Bounds<N>,
        histogram: &Histogram<N>,
        unit: f64,
    ) {
        let (counts, all, sum) = histogram.read();
        let bucket = format!("{name}_bucket");
        for ((bound, _), count) in bounds.iter().zip(counts) {
            self.labelled(&bucket, labels, Some(("le", bound)));
            put!(self, " {count}\n");
        }
        self.labelled(&bucket, labels, Some(("le", "+Inf")));
        put!(self, " {all}\n");
        self.sample(&format!("{name}_sum"), labels, sum as f64 * unit);
        self.sample(&format!("{name}_count"), labels, all);
    }

    fn labelled(&mut self, name: &str, labels: &[Label<'_>], last: Option<Label<'_>>) {
        self.0.push_str(name);
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(last) {
            put!(self, "{open}{name}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
            open = ',';
        }
        if open == ',' {
            self.0.push('}');
        }
    }

    pub fn end(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{super::histogram::SIZES, *};

    #[test]
    fn samples_are_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.family("a_total", "counter", "What it is.");
        text.sample("a_total", &[], 7);
        text.sample("a_total", &[("x", "a\"\\\nb"), ("y", "")], 1.5);
        let sizes = Histogram::default();
        sizes.observe(&SIZES, 5_000_000);
        text.histogram("s", &[("z", "1")], &SIZES, &sizes, 1.0);
        let lines = text.end();
        assert!(lines.starts_with("# HELP a_total What it is.\n# TYPE a_total counter\na_total 7\n"), "{lines}");
        assert!(lines.contains("a_total{x=\"a\\\"\\\\\\nb\",y=\"\"} 1.5\n"), "{lines}");
        assert!(lines.contains("s_bucket{z=\"1\",le=\"1e+06\"} 0\ns_bucket{z=\"1\",le=\"1e+07\"} 1\n"), "{lines}");
        assert!(
            lines.ends_with("s_bucket{z=\"1\",le=\"+Inf\"} 1\ns_sum{z=\"1\"} 5000000\ns_count{z=\"1\"} 1\n"),
            "{lines}"
        );
    }
}
