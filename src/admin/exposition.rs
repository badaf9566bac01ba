//! The text that Prometheus reads: format 0.0.4, which every scraper understands.
//!
//! Invariants
//! - *well-formed*: whatever stands in a label value, the text parses; families stand together;
//! - *no surprises*: names of families and labels come from this program, never from users.

use std::fmt::{Display, Write};

/// What `Content-Type` says of it.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text that grows by families.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// A family, which samples are added to.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

/// Labels of a sample: names and values.
type Labels<'a> = &'a [(&'static str, &'a str)];

impl Exposition {
    /// A family of counters; its name ends with `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family("counter", name, help)
    }

    /// A family of values that go up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        self.family("gauge", name, help)
    }

    /// A histogram without labels. `buckets` are upper bounds and how many are not above them.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        buckets: &[(f64, u64)],
        (count, sum): (u64, f64),
    ) {
        let family = self.family("histogram", name, help);
        for (bound, total) in buckets {
            family.text.push_str(name);
            sample(family.text, "_bucket", &[("le", &bound.to_string())], total);
        }
        for (suffix, labels) in [("_bucket", &[("le", "+Inf")][..]), ("_count", &[])] {
            family.text.push_str(name);
            sample(family.text, suffix, labels, &count);
        }
        family.text.push_str(name);
        sample(family.text, "_sum", &[], &sum);
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn family(&mut self, kind: &str, name: &'static str, help: &'static str) -> Family<'_> {
        let text = &mut self.0;
        for line in [["# HELP ", name, " ", help, "\n"], ["# TYPE ", name, " ", kind, "\n"]] {
            text.extend(line);
        }
        Family { text, name }
    }
}

impl Family<'_> {
    /// One sample; no two of a family have the same labels.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.text.push_str(self.name);
        sample(self.text, "", labels, &value);
        self
    }
}

fn sample(text: &mut String, suffix: &str, labels: Labels<'_>, value: &impl Display) {
    text.push_str(suffix);
    for (index, (name, label)) in labels.iter().enumerate() {
        let before = if index == 0 { "{" } else { "," };
        text.extend([before, name, "=\""]);
        escape(text, label);
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
    // Writing to a `String` does not fail.
    writeln!(text, " {value}").ok();
}

fn escape(text: &mut String, label: &str) {
    for character in label.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_wrote_stays_inside_its_label() {
        let mut text = Exposition::default();
        let hostile = "a\"} 1\nportolan_fake{x=\"\\";
        text.gauge("portolan_x", "Help.").sample(&[("network", hostile), ("code", "y")], 7);
        let expected = "# HELP portolan_x Help.\n# TYPE portolan_x gauge\n\
            portolan_x{network=\"a\\\"} 1\\nportolan_fake{x=\\\"\\\\\",code=\"y\"} 7\n";
        assert_eq!(text.finish(), expected);
    }

    #[test]
    fn a_histogram_ends_with_all_there_were() {
        let mut text = Exposition::default();
        text.histogram("h", "Help.", &[(0.000_01, 2), (5.0, 3)], (4, 60.5));
        let expected = "# HELP h Help.\n# TYPE h histogram\n\
            h_bucket{le=\"0.00001\"} 2\nh_bucket{le=\"5\"} 3\nh_bucket{le=\"+Inf\"} 4\n\
            h_count 4\nh_sum 60.5\n";
        assert_eq!(text.finish(), expected);
    }
}
