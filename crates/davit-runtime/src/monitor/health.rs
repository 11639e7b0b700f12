//! Health checks: a command executed in the container from time to time.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{spec::HealthCheck, state};
use crate::{ExecPlan, Process, StdioPlan, Target, exec, plan::ProcessPlan, process::ExitStatus};

const SIGKILL: i32 = 9;

/// The checks of one run of a container.
#[derive(Debug)]
pub(crate) struct Health {
    check: HealthCheck,
    born: Instant,
    next: Instant,
    running: Option<(Process, Instant)>,
    failures: u32,
    state: state::Health,
    announced: bool,
}

impl Health {
    pub(crate) fn new(check: HealthCheck) -> Self {
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
        }
    }

    /// When [`Health::turn`] has something to do at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        match &self.running {
            Some((_, deadline)) => *deadline,
            None => self.next,
        }
    }

    /// Readable once the running check has ended.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(process, _)| process.as_fd())
    }

    /// Starts a check that is due, or notes the end of one; state and failures when they changed.
    pub(crate) fn turn(
        &mut self,
        target: &Target,
        model: &ProcessPlan,
    ) -> Option<(state::Health, u32)> {
        let before = (self.state, self.failures);
        if let Some((process, deadline)) = &self.running {
            match process.try_wait() {
                Ok(Some(status)) => self.finish(status == ExitStatus::Exited(0)),
                Ok(None) if Instant::now() < *deadline => {}
                Ok(None) => {
                    // Its end comes with the next turn at once; the check has failed already.
                    drop(process.signal(SIGKILL));
                    drop(process.wait());
                    self.finish(false);
                }
                Err(_) => self.finish(false),
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
        let executed =
            null_streams().and_then(|stdio| exec(target, ExecPlan { process, stdio }).ok());
        match executed {
            Some(executed) => {
                self.running = Some((executed.process, Instant::now() + self.check.timeout));
            }
            None => self.finish(false),
        }
    }

    fn finish(&mut self, success: bool) {
        self.running = None;
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

fn null_streams() -> Option<StdioPlan> {
    let open = || -> Option<OwnedFd> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true);
        let file = fs_err::OpenOptions::from_options(options).open("/dev/null").ok()?;
        Some(file.into_parts().0.into())
    };
    Some(StdioPlan::Descriptors([open()?, open()?, open()?]))
}
