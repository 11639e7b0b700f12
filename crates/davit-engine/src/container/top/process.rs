//! One process by `/proc`, and how its facts are written.

use std::{collections::HashMap, io::Read as _, path::Path};

use davit_image::Timestamp;

use super::Field;

/// Clock ticks a second in `/proc`: fixed by the kernel's interface (`USER_HZ`).
const TICKS: u64 = 100;
const DAY: u64 = 86_400;
/// Bytes read of a file of `/proc/PID`: a process decides itself how long its arguments are.
const FACTS_LIMIT: u64 = 128 * 1024;

/// What `/proc/PID` tells.
#[derive(Debug, Default)]
pub(super) struct ProcessFacts {
    pid: i32,
    parent: i32,
    uid: u32,
    gid: u32,
    state: char,
    terminal: i32,
    used_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_kibibytes: u64,
    name: String,
    command: String,
}

impl ProcessFacts {
    /// Reads them; `None` when there is no such process any more.
    pub(super) fn read(pid: i32) -> Option<Self> {
        let directory = Path::new("/proc").join(pid.to_string());
        let text = |name: &str| {
            let mut bytes = Vec::new();
            let file = fs_err::File::open(directory.join(name)).ok()?;
            file.take(FACTS_LIMIT).read_to_end(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut facts = Self::parse(pid, &text("stat")?)?;
        for line in text("status")?.lines() {
            let Some((key, values)) = line.split_once(':') else { continue };
            let mut values = values.split_whitespace();
            // Real, effective, saved, file system; `ps` shows the effective one.
            match key {
                "Uid" => facts.uid = values.nth(1)?.parse().ok()?,
                "Gid" => facts.gid = values.nth(1)?.parse().ok()?,
                "VmRSS" => facts.resident_kibibytes = values.next()?.parse().ok()?,
                _ => {}
            }
        }
        let arguments = text("cmdline")?;
        let arguments = arguments.trim_end_matches('\0').replace('\0', " ");
        facts.command = match arguments.as_str() {
            "" => format!("[{}]", facts.name),
            // A process may call itself anything; a line stays one.
            text => text.replace(char::is_control, "?"),
        };
        Some(facts)
    }

    /// Reads the line of `/proc/PID/stat`, where the name may hold anything, parentheses too.
    fn parse(pid: i32, stat: &str) -> Option<Self> {
        let (head, rest) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.replace(char::is_control, "?");
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Numbered as in proc_pid_stat(5), where the state is field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            pid,
            name,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            terminal: fields.get(4)?.parse().ok()?,
            used_ticks: number(14)? + number(15)?,
            threads: number(20)?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
            ..Self::default()
        })
    }

    fn terminal(&self) -> String {
        // As `makedev` packs it: minor 0-7 and 20-31, major 8-19.
        let device = self.terminal.cast_unsigned();
        let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
        match major {
            0 => "?".to_owned(),
            136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
            4 if minor < 64 => format!("tty{minor}"),
            4 => format!("ttyS{}", minor - 64),
            _ => format!("{major}:{minor}"),
        }
    }
}

/// What all processes share.
#[derive(Debug)]
pub(super) struct Machine {
    now: u64,
    uptime: u64,
    memory_kibibytes: u64,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Machine {
    pub(super) fn read() -> Self {
        let first_number = |path: &str, key: &str| {
            let text = fs_err::read_to_string(path).unwrap_or_default();
            let rest = text.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
            let word = rest.and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
            let whole = word.and_then(|word| word.split('.').next()?.parse().ok());
            whole.unwrap_or(0)
        };
        Self {
            now: u64::try_from(Timestamp::now().unix_seconds()).unwrap_or(0),
            uptime: first_number("/proc/uptime", ""),
            memory_kibibytes: first_number("/proc/meminfo", "MemTotal:"),
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
        }
    }

    /// A field as `ps` writes it.
    pub(super) fn show(&self, facts: &ProcessFacts, field: Field) -> String {
        match field {
            Field::User => named(&self.users, facts.uid),
            Field::Uid => facts.uid.to_string(),
            Field::Group => named(&self.groups, facts.gid),
            Field::Pid => facts.pid.to_string(),
            Field::Parent => facts.parent.to_string(),
            Field::ProcessorInteger => (self.per_mille(facts) / 10).min(99).to_string(),
            Field::ProcessorPercent => tenths(self.per_mille(facts)),
            Field::MemoryPercent => {
                tenths(facts.resident_kibibytes * 1000 / self.memory_kibibytes.max(1))
            }
            Field::VirtualMemory => (facts.virtual_bytes / 1024).to_string(),
            Field::ResidentMemory => facts.resident_kibibytes.to_string(),
            Field::Threads => facts.threads.to_string(),
            Field::State => facts.state.to_string(),
            Field::Start => self.start(facts),
            Field::Terminal => facts.terminal(),
            Field::Time => clock(facts.used_ticks / TICKS),
            Field::Name => facts.name.clone(),
            Field::Command => facts.command.clone(),
        }
    }

    fn age_seconds(&self, facts: &ProcessFacts) -> u64 {
        self.uptime.saturating_sub(facts.start_ticks / TICKS)
    }

    /// Processor time of all its life, in thousandths of that.
    fn per_mille(&self, facts: &ProcessFacts) -> u64 {
        match self.age_seconds(facts) {
            0 => 0,
            age => facts.used_ticks * 1000 / TICKS / age,
        }
    }

    /// Hour and minute within a day, else month and day.
    fn start(&self, facts: &ProcessFacts) -> String {
        let age = self.age_seconds(facts);
        let start = i64::try_from(self.now.saturating_sub(age)).unwrap_or(0);
        let text = Timestamp::from_unix_seconds(start).map(|time| time.to_string());
        let text = text.unwrap_or_default();
        let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or("?");
        if age < DAY {
            return part(11..16).to_owned();
        }
        let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
        let month = part(5..7).parse::<usize>().unwrap_or(1).saturating_sub(1) * 3;
        format!("{}{}", months.get(month..month + 3).unwrap_or("?"), part(8..10))
    }
}

fn tenths(per_mille: u64) -> String {
    format!("{}.{}", per_mille / 10, per_mille % 10)
}

fn clock(seconds: u64) -> String {
    let clock = format!("{:02}:{:02}:{:02}", seconds % DAY / 3600, seconds / 60 % 60, seconds % 60);
    if seconds < DAY { clock } else { format!("{}-{clock}", seconds / DAY) }
}

fn named(names: &HashMap<u32, String>, number: u32) -> String {
    names.get(&number).cloned().unwrap_or_else(|| number.to_string())
}

/// Names by number of a file like `/etc/passwd`; the first of a number counts.
fn names(path: &str) -> HashMap<u32, String> {
    let text = fs_err::read_to_string(path).unwrap_or_default();
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_are_read() {
        let stat = "7 (a) S (b) R 1 7 7 34817 7 4194560 1 0 0 0 150 50 0 0 20 0 3 0 1000 4096 1";
        let facts = ProcessFacts::parse(7, stat).unwrap();
        assert_eq!((facts.name.as_str(), facts.state, facts.parent), ("a) S (b", 'R', 1));
        assert_eq!((facts.used_ticks, facts.threads, facts.start_ticks), (200, 3, 1000));
        assert_eq!(facts.terminal(), "pts/1");
        assert!(ProcessFacts::parse(7, "7 (cut) R 1").is_none());
    }

    #[test]
    fn endless_arguments_are_cut() {
        let argument = "x".repeat(100_000);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo; read line", &argument, &argument, &argument])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Its arguments are in place once it runs, a little after `spawn` returns.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let facts = ProcessFacts::read(child.id().cast_signed());
        drop(child.stdin.take());
        child.wait().unwrap();
        let length = facts.unwrap().command.len() as u64;
        assert!(length > argument.len() as u64 && length <= FACTS_LIMIT, "{length}");
    }

    #[test]
    fn times_and_shares() {
        let machine = Machine {
            now: 1_000_000_000,
            uptime: 200,
            memory_kibibytes: 1000,
            users: HashMap::new(),
            groups: HashMap::new(),
        };
        let facts = ProcessFacts { used_ticks: 2500, start_ticks: 10_000, ..Default::default() };
        assert_eq!(machine.show(&facts, Field::ProcessorPercent), "25.0");
        assert_eq!(machine.show(&facts, Field::ProcessorInteger), "25");
        assert_eq!(machine.show(&facts, Field::Time), "00:00:25");
        assert_eq!(machine.show(&facts, Field::Start), "01:45");
        assert_eq!(machine.show(&facts, Field::Terminal), "?");
        assert_eq!(machine.show(&facts, Field::User), "0");
        let old = Machine { uptime: 2 * DAY, ..machine };
        let facts = ProcessFacts::default();
        assert_eq!(old.show(&facts, Field::Start), "Sep07");
    }
}
