//! How a metric is declared: a field of a struct, whose doc comment is its help.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

pub(super) const PREFIX: &str = "herald";

/// What a metric is beside its name and its help.
pub(super) struct Shape {
    labels: &'static [&'static str],
    buckets: &'static [f64],
}

pub(super) const PLAIN: Shape = by(&[]);

pub(super) const fn by(labels: &'static [&'static str]) -> Shape {
    Shape { labels, buckets: &[] }
}

impl Shape {
    pub(super) const fn buckets(self, buckets: &'static [f64]) -> Self {
        Self { buckets, ..self }
    }
}

/// Builds one kind of metric and hands a second handle of it to the registry.
pub(super) trait Family: Collector + Clone + Sized + 'static {
    fn build(opts: Opts, shape: &Shape) -> prometheus::Result<Self>;

    fn register(registry: &Registry, name: &str, help: &str, shape: &Shape) -> prometheus::Result<Self> {
        let opts = Opts::new(name, help.trim()).namespace(PREFIX);
        let family = Self::build(opts, shape)?;
        registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

impl Family for IntCounter {
    fn build(opts: Opts, _: &Shape) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Family for IntCounterVec {
    fn build(opts: Opts, shape: &Shape) -> prometheus::Result<Self> {
        Self::new(opts, shape.labels)
    }
}

impl Family for IntGauge {
    fn build(opts: Opts, _: &Shape) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Family for IntGaugeVec {
    fn build(opts: Opts, shape: &Shape) -> prometheus::Result<Self> {
        Self::new(opts, shape.labels)
    }
}

impl Family for Gauge {
    fn build(opts: Opts, _: &Shape) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Family for GaugeVec {
    fn build(opts: Opts, shape: &Shape) -> prometheus::Result<Self> {
        Self::new(opts, shape.labels)
    }
}

impl Family for Histogram {
    fn build(opts: Opts, shape: &Shape) -> prometheus::Result<Self> {
        Self::with_opts(HistogramOpts::from(opts).buckets(shape.buckets.to_vec()))
    }
}

impl Family for HistogramVec {
    fn build(opts: Opts, shape: &Shape) -> prometheus::Result<Self> {
        Self::new(HistogramOpts::from(opts).buckets(shape.buckets.to_vec()), shape.labels)
    }
}

/// Declares a struct of metrics and its `register`.
///
/// A macro, because nothing else can read a doc comment: without it every name and every help would be written twice, and
/// drift apart. It does nothing besides.
macro_rules! metrics {
    (
        $(#[doc = $about:literal])+
        pub struct $Struct:ident {
            $( $(#[doc = $help:literal])+ $field:ident: $Family:ty = $shape:expr, )+
        }
    ) => {
        $(#[doc = $about])+
        pub struct $Struct {
            $( $(#[doc = $help])+ pub $field: $Family, )+
        }

        impl $Struct {
            pub(super) fn register(registry: &prometheus::Registry) -> prometheus::Result<Self> {
                use $crate::telemetry::define::Family;
                Ok(Self {
                    $( $field: Family::register(
                        registry, stringify!($field), concat!($($help),+), &$shape,
                    )?, )+
                })
            }
        }
    };
}

pub(super) use metrics;
