//! The bench's table, on the terminal and in bench/results.

use std::{fmt, path::PathBuf};

use anyhow::Result;

use super::measure::{Measured, median};
use crate::process;

/// All results of one workload; davit's first.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) promise: &'static str,
    pub(crate) results: Vec<(String, Vec<Measured>)>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = self.results.first().map_or(f64::NAN, |(_, measured)| value(measured));
        for (name, measured) in &self.results {
            let theirs = value(measured);
            let (low, high) = range(measured);
            let peak = measured.iter().map(|m| m.peak_bytes).max().unwrap_or(0);
            let peak = if peak == 0 { "–".to_owned() } else { format!("{:.1}", mib(peak)) };
            let mut cpu: Vec<f64> = measured.iter().map(|m| m.cpu_seconds).collect();
            let cpu = median(&mut cpu);
            let cpu = if cpu > 0.0 { format!("{cpu:.2}") } else { "–".to_owned() };
            writeln!(
                f,
                "| {} | {name} | {theirs:.4} | {low:.4}–{high:.4} | {} | {peak} | {cpu} | {:.2} |",
                self.name,
                measured.len(),
                theirs / ours,
            )?;
        }
        Ok(())
    }
}

fn value(measured: &[Measured]) -> f64 {
    median(&mut measured.iter().map(|m| m.value).collect::<Vec<_>>())
}

fn range(measured: &[Measured]) -> (f64, f64) {
    let values = measured.iter().map(|m| m.value);
    (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max))
}

#[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

const HEAD: &str = "| workload | program | median | min–max | n | peak RSS MiB | CPU s | times davit's |\n\
                    |---|---|---|---|---|---|---|---|\n";

/// Prints the table and, unless it was a smoke run, writes it to bench/results/DATE.md.
pub(crate) fn write(rows: &[Row], quick: bool) -> Result<()> {
    let table: String = rows.iter().map(ToString::to_string).collect();
    println!("\n{HEAD}{table}");
    if quick || rows.is_empty() {
        return Ok(());
    }
    let now = time::OffsetDateTime::now_utc();
    let path = PathBuf::from(format!("bench/results/{}.md", now.date()));
    fs_err::create_dir_all("bench/results")?;
    let earlier = fs_err::read_to_string(&path).unwrap_or_default();
    let promises: String =
        rows.iter().map(|row| format!("- {}: {}\n", row.name, row.promise)).collect();
    let clock = format!("{:02}:{:02}", now.hour(), now.minute());
    let text = format!(
        "{earlier}## {} {clock} UTC, commit {}\n\n{}\n\nMedians in seconds unless the promise says otherwise; the \
         last column is the program's figure divided by davit's.\n\n{promises}\n{HEAD}{table}\n",
        now.date(),
        process::output(std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]))?
            .trim(),
        machine()?,
    );
    fs_err::write(&path, text)?;
    println!("written to {}", path.display());
    Ok(())
}

/// One sentence about the machine: figures mean nothing without it.
fn machine() -> Result<String> {
    let cpus = fs_err::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let memory = fs_err::read_to_string("/proc/meminfo")?;
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let gib = kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
    Ok(format!(
        "{cores} cores of {}, {gib} GiB, Linux {}.",
        model.unwrap_or("an unknown processor"),
        rustix::system::uname().release().to_string_lossy()
    ))
}
