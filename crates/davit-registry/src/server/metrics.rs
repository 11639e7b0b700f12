//! Counters for Prometheus, in its text format.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::oci::{Operation, ROUTES};

/// Counters of one server.
#[derive(Debug)]
pub struct Metrics {
    operations: Vec<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    /// Replies by the first digit of their status, 2 to 5.
    replies: [AtomicU64; 4],
    /// Time until the head of the reply.
    microseconds: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { operations: ROUTES.iter().map(|_| Counters::default()).collect() }
    }
}

impl Metrics {
    /// Counts a reply.
    pub(crate) fn count(&self, operation: Operation, status: http::StatusCode, took: Duration) {
        let Some(counters) = self.operations.get(operation as usize) else { return };
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        counters.replies[class].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counters.microseconds.fetch_add(micros, Ordering::Relaxed);
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = || ROUTES.iter().map(|(_, _, operation)| *operation);
        let of = |operation: Operation| &self.operations[operation as usize];
        writeln!(
            f,
            "# HELP davit_registry_requests_total Replies by operation and class of status."
        )?;
        writeln!(f, "# TYPE davit_registry_requests_total counter")?;
        for operation in all() {
            for (class, count) in of(operation).replies.iter().enumerate() {
                let (count, class) = (count.load(Ordering::Relaxed), class + 2);
                if count > 0 {
                    writeln!(
                        f,
                        "davit_registry_requests_total{{operation=\"{operation:?}\",status=\"{class}xx\"}} {count}"
                    )?;
                }
            }
        }
        writeln!(
            f,
            "# HELP davit_registry_request_seconds_total Time until the head of the reply."
        )?;
        writeln!(f, "# TYPE davit_registry_request_seconds_total counter")?;
        for operation in all() {
            let micros = of(operation).microseconds.load(Ordering::Relaxed);
            let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
            writeln!(
                f,
                "davit_registry_request_seconds_total{{operation=\"{operation:?}\"}} {seconds}.{rest:06}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_counter() {
        let metrics = Metrics::default();
        for (_, _, operation) in ROUTES {
            metrics.count(
                *operation,
                http::StatusCode::NOT_FOUND,
                Duration::from_micros(1_500_000),
            );
        }
        let text = metrics.to_string();
        for (_, _, operation) in ROUTES {
            let line = format!("requests_total{{operation=\"{operation:?}\",status=\"4xx\"}} 1\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("request_seconds_total{operation=\"Ping\"} 1.500000\n"));
    }
}
