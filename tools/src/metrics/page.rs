//! Page: families of figures, written one after another.
//!
//! Owns how a family and its samples are written. Which there are is left to whoever shows them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// What tells the samples of a family apart.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Whoever has figures; asked anew by each reader.
pub(crate) trait Figures: Send + Sync + 'static {
    /// Writes them.
    fn write(&self, page: &mut Page<'_>) -> fmt::Result;
}

/// Figures, as a registry takes them.
pub(crate) struct Shown<F>(pub(crate) F);

impl<F> fmt::Debug for Shown<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl<F: Figures> Collector for Shown<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Page { encoder })
    }
}

/// A page under way.
pub(crate) struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

/// Times by ranges.
pub(crate) struct Histogram {
    /// All together, in seconds.
    pub(crate) sum_s: f64,
    /// Upper end of each range in seconds, the last `f64::MAX`, and how many are in it.
    pub(crate) ranges: Vec<(f64, u64)>,
}

impl Page<'_> {
    /// Figures that never go back while the process lives. `_total` is put behind the name.
    pub(crate) fn counters(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                family.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            } else {
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            }
        }
        Ok(())
    }

    /// Figures as they are.
    pub(crate) fn gauges(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    /// A single figure as it is.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        family.encode_gauge(&value)
    }

    /// A single figure that never goes back.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.counters(name, help, [(Vec::new(), value)])
    }

    /// Times by ranges.
    pub(crate) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, Histogram)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, Histogram { sum_s, ranges }) in samples {
            let count = ranges.iter().map(|(_, count)| count).sum();
            let mut one = family.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(sum_s, count, &ranges, None)?;
        }
        Ok(())
    }
}

/// One label.
pub(crate) fn by(name: &'static str, value: &impl ToString) -> Labels {
    vec![(name, value.to_string())]
}
