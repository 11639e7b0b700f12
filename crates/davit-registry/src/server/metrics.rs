//! Counters for Prometheus, in its text format 0.0.4.

use std::{
    fmt::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    db::{DbError, Load},
    gc::GcReport,
    oci::{Operation, ROUTES},
    registry::Registry,
};

/// Upper bounds of the histogram of times, in microseconds.
const BOUNDS: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// How long the database may take to count.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counters of one server.
#[derive(Debug)]
pub struct Metrics {
    operations: Vec<Counters>,
    collections: Collections,
}

#[derive(Debug, Default)]
struct Counters {
    /// Replies by the first digit of their status, 2 to 5.
    replies: [AtomicU64; 4],
    /// Time until the head of the reply.
    microseconds: AtomicU64,
    /// Replies by that time: how many within each bound and above the one before.
    within: [AtomicU64; BOUNDS.len()],
    /// Bytes of bodies of replies, as they were announced.
    sent_bytes: AtomicU64,
}

/// What garbage collection did.
#[derive(Debug, Default)]
struct Collections {
    done: AtomicU64,
    failed: AtomicU64,
    microseconds: AtomicU64,
    /// When the last one ended well, in seconds since 1970.
    last: AtomicU64,
    manifests: AtomicU64,
    blobs: AtomicU64,
    objects: AtomicU64,
    lost: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let operations = ROUTES.iter().map(|_| Counters::default()).collect();
        Self { operations, collections: Collections::default() }
    }
}

impl Metrics {
    /// Counts a reply, with the bytes that its body has.
    pub(crate) fn count(
        &self,
        operation: Operation,
        status: http::StatusCode,
        (took, sent_bytes): (Duration, u64),
    ) {
        let Some(counters) = self.operations.get(operation as usize) else { return };
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        counters.replies[class].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counters.microseconds.fetch_add(micros, Ordering::Relaxed);
        if let Some(place) = BOUNDS.iter().position(|bound| micros <= *bound) {
            counters.within[place].fetch_add(1, Ordering::Relaxed);
        }
        counters.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
    }

    /// Counts a garbage collection; nothing is its failure.
    pub(super) fn collected(&self, report: Option<&GcReport>, took: Duration) {
        let of = &self.collections;
        let add = |to: &AtomicU64, count| {
            to.fetch_add(count, Ordering::Relaxed);
        };
        add(&of.microseconds, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let Some(report) = report else { return add(&of.failed, 1) };
        add(&of.done, 1);
        add(&of.manifests, report.manifests);
        add(&of.blobs, report.blobs);
        add(&of.objects, report.objects + report.orphans);
        add(&of.lost, report.lost);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        of.last.store(now.as_secs(), Ordering::Relaxed);
    }

    /// All counters, and what the registry has open and waiting at this moment; without what the database
    /// knows where it does not answer.
    pub(super) async fn text(&self, registry: &Registry, connections: u64) -> String {
        let mut text = Text::default();
        self.requests(&mut text);
        self.collections(&mut text);
        text.one("davit_registry_connections", "gauge", "Open connections.", connections);
        let received = registry.received_bytes();
        text.one(
            "davit_registry_received_bytes_total",
            "counter",
            "Bytes of blobs that came in.",
            received,
        );
        let waiting = registry.pulls.waiting() as u64;
        text.one(
            "davit_registry_pulls_waiting",
            "gauge",
            "Pulled manifests that are not written yet.",
            waiting,
        );
        load(&mut text, &registry.database.load());
        let counted = tokio::time::timeout(PATIENCE, rows(registry)).await;
        let up = "davit_registry_db_up";
        text.one(
            up,
            "gauge",
            "Whether the database answers.",
            u8::from(matches!(counted, Ok(Ok(_)))),
        );
        match counted {
            Ok(Ok(rows)) => text.0 += &rows.0,
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "metrics lack what the database would tell");
            }
            Err(_elapsed) => {
                tracing::warn!("metrics lack what the database would tell: it is slow")
            }
        }
        if let Some(bytes) = resident_bytes() {
            text.one("process_resident_memory_bytes", "gauge", "Memory of the process.", bytes);
        }
        text.0
    }

    fn requests(&self, text: &mut Text) {
        let all = || {
            ROUTES
                .iter()
                .map(|(_, _, operation)| (*operation, &self.operations[*operation as usize]))
        };
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let name = "davit_registry_requests_total";
        text.family(name, "counter", "Replies by operation and class of status.");
        for (operation, counters) in all() {
            for (class, count) in counters.replies.iter().enumerate() {
                let labels = format!("operation=\"{operation:?}\",status=\"{}xx\"", class + 2);
                text.sample(name, &labels, get(count));
            }
        }
        let name = "davit_registry_response_bytes_total";
        text.family(name, "counter", "Bytes of bodies of replies.");
        for (operation, counters) in all() {
            text.sample(name, &format!("operation=\"{operation:?}\""), get(&counters.sent_bytes));
        }
        let name = "davit_registry_request_duration_seconds";
        text.family(name, "histogram", "Time until the head of the reply.");
        for (operation, counters) in all() {
            let labels = format!("operation=\"{operation:?}\"");
            let mut count = 0;
            for (bound, within) in BOUNDS.iter().zip(&counters.within) {
                count += get(within);
                let labels = format!("{labels},le=\"{}\"", Seconds(*bound));
                text.sample(&format!("{name}_bucket"), &labels, count);
            }
            // Counted apart: one that is counted at this moment may be in one and not in the other.
            let all = counters.replies.iter().map(get).sum::<u64>().max(count);
            text.sample(&format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), all);
            text.sample(&format!("{name}_sum"), &labels, Seconds(get(&counters.microseconds)));
            text.sample(&format!("{name}_count"), &labels, all);
        }
    }

    fn collections(&self, text: &mut Text) {
        let of = &self.collections;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let name = "davit_registry_gc_runs_total";
        text.family(name, "counter", "Garbage collections by how they ended.");
        text.sample(name, "result=\"done\"", get(&of.done));
        text.sample(name, "result=\"failed\"", get(&of.failed));
        let name = "davit_registry_gc_removed_total";
        text.family(name, "counter", "What garbage collection removed.");
        let removed = [("manifest", &of.manifests), ("blob", &of.blobs), ("object", &of.objects)];
        for (kind, count) in removed {
            text.sample(name, &format!("kind=\"{kind}\""), get(count));
        }
        let seconds = Seconds(get(&of.microseconds));
        text.one(
            "davit_registry_gc_seconds_total",
            "counter",
            "Time of garbage collections.",
            seconds,
        );
        text.one(
            "davit_registry_gc_lost_objects_total",
            "counter",
            "Blobs whose object was found lost.",
            get(&of.lost),
        );
        text.one(
            "davit_registry_gc_last_success_timestamp_seconds",
            "gauge",
            "End of the last garbage collection that was done, since 1970.",
            get(&of.last),
        );
    }
}

fn load(text: &mut Text, load: &Load) {
    text.one(
        "davit_registry_db_writes_waiting",
        "gauge",
        "Changes that wait for SQLite's writer.",
        load.waiting,
    );
    let name = "davit_registry_db_connections";
    text.family(name, "gauge", "Connections to the database.");
    text.sample(name, "state=\"used\"", load.used);
    text.sample(name, "state=\"idle\"", load.idle);
}

/// Counts rows of what is open or waits; each table is short, or counted by an index.
async fn rows(registry: &Registry) -> Result<Text, DbError> {
    const UPLOADS: &str = "davit_registry_uploads_open";
    const COUNTS: [(&str, &str, &str); 6] = [
        (UPLOADS, "Upload sessions that are open.", "SELECT COUNT(*) FROM upload"),
        (
            "davit_registry_gc_queue",
            "Manifests that garbage collection will look at.",
            "SELECT COUNT(*) FROM gc_queue",
        ),
        (
            "davit_registry_trash_objects",
            "Objects that will be removed.",
            "SELECT COUNT(*) FROM trash",
        ),
        (
            "davit_registry_suspect_blobs",
            "Blobs that wait for a push that heals them.",
            "SELECT COUNT(*) FROM blob WHERE state = 'suspect'",
        ),
        (
            "davit_registry_events_waiting",
            "Events that nobody was told of yet.",
            "SELECT COUNT(*) FROM event_outbox",
        ),
        (
            "davit_registry_jobs_waiting",
            "Jobs that nobody has taken yet.",
            "SELECT COUNT(*) FROM job WHERE state = 'waiting'",
        ),
    ];
    let mut text = Text::default();
    let mut reader = registry.database.reader().await?;
    for (name, help, sql) in COUNTS {
        let row = reader.row(sql, Vec::new()).await?;
        let mut count: u64 = row.map_or(Ok(0), |row| row.get(0))?;
        if name == UPLOADS {
            count += registry.begun.open(registry.database.now_ms()) as u64;
        }
        text.one(name, "gauge", help, count);
    }
    Ok(text)
}

fn resident_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

/// Microseconds, shown as seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The text format; writing to memory cannot fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _written = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl fmt::Display) {
        let _written = writeln!(self.0, "{name}{{{labels}}} {value}");
    }

    /// A family of one sample.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl fmt::Display) {
        self.family(name, kind, help);
        let _written = writeln!(self.0, "{name} {value}");
    }
}
