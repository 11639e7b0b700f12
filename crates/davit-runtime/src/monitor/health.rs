//! Health checks: a command executed in the container from time to time.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use davit_image::Timestamp;

use super::{
    probe::{Output, Probe, ProbeLog},
    spec::HealthCheck,
    state,
};
use crate::{ExecPlan, Process, StdioPlan, Target, exec, plan::ProcessPlan};

const SIGKILL: i32 = 9;

/// The checks of one run of a container.
#[derive(Debug)]
pub(crate) struct Health {
    check: HealthCheck,
    born: Instant,
    next: Instant,
    running: Option<Running>,
    failures: u32,
    state: state::Health,
    announced: bool,
    log: ProbeLog,
}

/// A check that has not ended.
#[derive(Debug)]
struct Running {
    process: Process,
    output: Output,
    start: Timestamp,
    deadline: Instant,
}

/// Exit code of a check that has none of its own.
const NO_CODE: i32 = -1;

impl Health {
    /// The checks of a run that begins now; their results are kept in the run directory.
    pub(crate) fn new(check: HealthCheck, run_directory: &Path) -> Self {
        let born = Instant::now();
        let first =
            if check.start_period.is_zero() { check.interval } else { check.start_interval };
        let next = born + first;
        Self {
            check,
            born,
            next,
            running: None,
            failures: 0,
            state: state::Health::Starting,
            announced: false,
            log: ProbeLog::new(run_directory),
        }
    }

    /// When [`Health::turn`] has something to do at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        match &self.running {
            Some(running) => running.deadline,
            None => self.next,
        }
    }

    /// Readable once the running check has written something or ended.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let running = self.running.as_ref();
        let process = running.map(|running| running.process.as_fd());
        let output = running.and_then(|running| running.output.descriptor());
        process.into_iter().chain(output)
    }

    /// Starts a check that is due, or notes the end of one; state and failures when they changed.
    pub(crate) fn turn(
        &mut self,
        target: &Target,
        model: &ProcessPlan,
    ) -> Option<(state::Health, u32)> {
        let before = (self.state, self.failures);
        if let Some(mut running) = self.running.take() {
            running.output.drain();
            match running.process.try_wait() {
                Ok(Some(status)) => {
                    self.finish(running.start, status.code(), running.output.text())
                }
                Ok(None) if Instant::now() < running.deadline => self.running = Some(running),
                Ok(None) => {
                    // Its end comes with the next turn at once; the check has failed already.
                    drop(running.process.signal(SIGKILL));
                    drop(running.process.wait());
                    let text = running.output.text();
                    let words =
                        format!("Health check exceeded timeout ({})", go(self.check.timeout));
                    let text = if text.is_empty() { words } else { format!("{words}: {text}") };
                    self.finish(running.start, NO_CODE, text);
                }
                Err(error) => self.finish(running.start, NO_CODE, error.to_string()),
            }
        } else if Instant::now() >= self.next {
            self.begin(target, model);
        }
        let after = (self.state, self.failures);
        let news = !self.announced || before != after;
        self.announced = true;
        news.then_some(after)
    }

    fn begin(&mut self, target: &Target, model: &ProcessPlan) {
        let process =
            ProcessPlan { args: self.check.command.clone(), create_cwd: false, ..model.clone() };
        let start = Timestamp::now();
        let begun = streams().map_err(|error| error.to_string()).and_then(|(output, stdio)| {
            let executed = exec(target, ExecPlan { process, stdio });
            executed.map(|executed| (executed.process, output)).map_err(|error| error.to_string())
        });
        match begun {
            Ok((process, output)) => {
                let deadline = Instant::now() + self.check.timeout;
                self.running = Some(Running { process, output, start, deadline });
            }
            Err(reason) => self.finish(start, NO_CODE, reason),
        }
    }

    fn finish(&mut self, start: Timestamp, exit_code: i32, output: String) {
        self.log.push(Probe { start, end: Timestamp::now(), exit_code, output });
        let success = exit_code == 0;
        let starting = self.state == state::Health::Starting;
        let in_start_period = starting && self.born.elapsed() < self.check.start_period;
        if success {
            self.failures = 0;
            self.state = state::Health::Healthy;
        } else if !in_start_period {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= self.check.retries {
                self.state = state::Health::Unhealthy;
            }
        }
        let still = self.state == state::Health::Starting && in_start_period;
        let pause: Duration = if still { self.check.start_interval } else { self.check.interval };
        self.next = Instant::now() + pause;
    }
}

/// Nothing to read, and one pipe for both outputs.
fn streams() -> io::Result<(Output, StdioPlan)> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true);
    let null = fs_err::OpenOptions::from_options(options).open("/dev/null")?;
    let (output, [stdout, stderr]) = Output::new()?;
    let stdin = OwnedFd::from(null.into_parts().0);
    Ok((output, StdioPlan::Descriptors([stdin, stdout, stderr])))
}

/// A time as Go writes it.
fn go(duration: Duration) -> String {
    let (seconds, fraction) = (duration.as_secs(), duration.subsec_nanos());
    let rest = Duration::new(seconds % 60, fraction);
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{rest:?}"),
        (0, minutes) => format!("{minutes}m{}s", rest.as_secs_f64()),
        (hours, minutes) => format!("{hours}h{minutes}m{}s", rest.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_go_writes_them() {
        for (milliseconds, text) in
            [(200, "200ms"), (1500, "1.5s"), (90_000, "1m30s"), (3_600_500, "1h0m0.5s")]
        {
            assert_eq!(go(Duration::from_millis(milliseconds)), text);
        }
    }
}
