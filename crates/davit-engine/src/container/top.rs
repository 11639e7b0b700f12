//! `top`: a container's processes, as the host's `ps` would show them.

mod process;

use davit_runtime::Cgroups;

use self::process::{Machine, ProcessFacts};
use super::{ContainerError, Phase};
use crate::Engine;

/// Processes of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// Heads of the columns.
    pub titles: Vec<String>,
    /// One row a process, by number.
    pub processes: Vec<Vec<String>>,
}

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    User,
    Uid,
    Group,
    Pid,
    Parent,
    ProcessorInteger,
    ProcessorPercent,
    MemoryPercent,
    VirtualMemory,
    ResidentMemory,
    Threads,
    State,
    Start,
    Terminal,
    Time,
    Name,
    Command,
}

/// A column: its name in `-o`, its head, what it shows.
type Column = (&'static str, &'static str, Field);

const FULL: [(&str, Field); 8] = [
    ("UID", Field::User),
    ("PID", Field::Pid),
    ("PPID", Field::Parent),
    ("C", Field::ProcessorInteger),
    ("STIME", Field::Start),
    ("TTY", Field::Terminal),
    ("TIME", Field::Time),
    ("CMD", Field::Command),
];

const SHORT: [(&str, Field); 4] =
    [("PID", Field::Pid), ("TTY", Field::Terminal), ("TIME", Field::Time), ("CMD", Field::Name)];

const BSD: [(&str, Field); 5] = [
    ("PID", Field::Pid),
    ("TTY", Field::Terminal),
    ("STAT", Field::State),
    ("TIME", Field::Time),
    ("COMMAND", Field::Command),
];

const USER_ORIENTED: [(&str, Field); 11] = [
    ("USER", Field::User),
    ("PID", Field::Pid),
    ("%CPU", Field::ProcessorPercent),
    ("%MEM", Field::MemoryPercent),
    ("VSZ", Field::VirtualMemory),
    ("RSS", Field::ResidentMemory),
    ("TTY", Field::Terminal),
    ("STAT", Field::State),
    ("START", Field::Start),
    ("TIME", Field::Time),
    ("COMMAND", Field::Command),
];

/// Names that `-o` knows, with the heads that `ps` gives them.
const COLUMNS: [Column; 28] = [
    ("user", "USER", Field::User),
    ("euser", "EUSER", Field::User),
    ("uname", "USER", Field::User),
    ("uid", "UID", Field::Uid),
    ("euid", "EUID", Field::Uid),
    ("group", "GROUP", Field::Group),
    ("pid", "PID", Field::Pid),
    ("ppid", "PPID", Field::Parent),
    ("c", "C", Field::ProcessorInteger),
    ("pcpu", "%CPU", Field::ProcessorPercent),
    ("%cpu", "%CPU", Field::ProcessorPercent),
    ("pmem", "%MEM", Field::MemoryPercent),
    ("%mem", "%MEM", Field::MemoryPercent),
    ("vsz", "VSZ", Field::VirtualMemory),
    ("rss", "RSS", Field::ResidentMemory),
    ("nlwp", "NLWP", Field::Threads),
    ("s", "S", Field::State),
    ("state", "S", Field::State),
    ("stat", "STAT", Field::State),
    ("stime", "STIME", Field::Start),
    ("tty", "TT", Field::Terminal),
    ("tt", "TT", Field::Terminal),
    ("time", "TIME", Field::Time),
    ("cputime", "TIME", Field::Time),
    ("comm", "COMMAND", Field::Name),
    ("args", "COMMAND", Field::Command),
    ("cmd", "CMD", Field::Command),
    ("command", "COMMAND", Field::Command),
];

impl Engine {
    /// Shows a running container's processes, those of `exec` included. `options` are those of
    /// `ps`: `-ef` (also when empty), `-e`, `aux`, `ax`, or `-o` (`axo`) with names of columns.
    ///
    /// Numbers and names of users are the host's; times are UTC.
    ///
    /// # Errors
    /// [`ContainerError::Conflict`] when it does not run; [`ContainerError::Invalid`] for options
    /// that are not understood.
    pub fn top_container(&self, name: &str, options: &[String]) -> Result<Top, ContainerError> {
        let columns = columns(options)?;
        let container = self.container(name)?;
        match container.status.phase {
            Phase::Running | Phase::Paused => {}
            Phase::Restarting => {
                let id = &container.id;
                let text = format!("container {id} is restarting, wait until it is running");
                return Err(ContainerError::Conflict(text));
            }
            _ => {
                let text = format!("container {} is not running", container.id);
                return Err(ContainerError::Conflict(text));
            }
        }
        let pids = Cgroups::discover()?.open(&self.cgroup_of(&container.id))?.processes()?;
        let machine = Machine::read();
        let row = |facts: ProcessFacts| {
            columns.iter().map(|(_, field)| machine.show(&facts, *field)).collect()
        };
        // One that has ended since is not shown.
        let found = pids.into_iter().filter_map(ProcessFacts::read);
        let processes = found.map(row).collect();
        Ok(Top { titles: columns.iter().map(|(title, _)| title.clone()).collect(), processes })
    }
}

/// Columns that `ps` options ask for. Letters after a hyphen are those of Unix, without one BSD's;
/// which processes are shown is not theirs to choose.
fn columns(options: &[String]) -> Result<Vec<(String, Field)>, ContainerError> {
    let mut words = options.iter().flat_map(|option| option.split_whitespace());
    let mut chosen: Vec<(String, Field)> = Vec::new();
    let mut base: Option<&[(&str, Field)]> = None;
    while let Some(word) = words.next() {
        let (is_unix, letters) = match word.strip_prefix('-') {
            // Many who mean BSD's write a hyphen.
            Some("aux") => (false, "aux"),
            Some(letters) => (true, letters),
            None => (false, word),
        };
        let (letters, list) = match letters.strip_prefix("-format=") {
            Some(list) => ("", Some(list)),
            None => match letters.split_once('o') {
                Some((letters, list)) => (letters, Some(list)),
                None if letters.is_empty() => return Err(unknown(word)),
                None => (letters, None),
            },
        };
        for letter in letters.chars() {
            match (is_unix, letter) {
                (true, 'e' | 'A' | 'a' | 'd') => base = base.or(Some(&SHORT)),
                (true, 'f') => base = Some(&FULL),
                (false, 'a' | 'x') => base = base.or(Some(&BSD)),
                (false, 'u') => base = Some(&USER_ORIENTED),
                // Lines are never cut.
                (_, 'w') => {}
                _ => return Err(unknown(word)),
            }
        }
        if let Some(list) = list {
            let list = match list.trim_start_matches('=') {
                "" => words.next().ok_or_else(|| unknown(word))?,
                list => list,
            };
            parse_list(list, &mut chosen)?;
        }
    }
    if chosen.is_empty() {
        let base = base.unwrap_or(&FULL).iter();
        return Ok(base.map(|(title, field)| ((*title).to_owned(), *field)).collect());
    }
    if !chosen.iter().any(|(_, field)| *field == Field::Pid) {
        return Err(ContainerError::invalid("Couldn't find PID field in ps output"));
    }
    Ok(chosen)
}

fn parse_list(list: &str, chosen: &mut Vec<(String, Field)>) -> Result<(), ContainerError> {
    for item in list.split(',').filter(|item| !item.is_empty()) {
        let (name, title) = item.split_once('=').map_or((item, None), |(n, t)| (n, Some(t)));
        let found = COLUMNS.iter().find(|(known, ..)| *known == name);
        let (_, own, field) = found.ok_or_else(|| {
            let known: Vec<&str> = COLUMNS.iter().map(|(known, ..)| *known).collect();
            ContainerError::invalid(format!(
                "unknown column {name:?}: davit knows {}",
                known.join(", ")
            ))
        })?;
        chosen.push((title.unwrap_or(own).to_owned(), *field));
    }
    Ok(())
}

fn unknown(word: &str) -> ContainerError {
    ContainerError::invalid(format!(
        "ps option {word:?} is not understood: use -ef, aux, ax, -e, or -o COLUMN[=TITLE],…"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(options: &[&str]) -> Result<String, String> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let columns = columns(&options).map_err(|error| error.to_string())?;
        Ok(columns.into_iter().map(|(title, _)| title).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn options_choose_columns() {
        let cases: [(&[&str], &str); 10] = [
            (&["axo", "pid,comm"], "PID COMMAND"),
            (&["auxww"], "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            (&["ax"], "PID TTY STAT TIME COMMAND"),
            (&["-e"], "PID TTY TIME CMD"),
            (&[], "UID PID PPID C STIME TTY TIME CMD"),
            (&["-ef"], "UID PID PPID C STIME TTY TIME CMD"),
            (&["aux"], "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
            (&["-o", "pid,comm"], "PID COMMAND"),
            (&["-eo", "pid,args=WHAT"], "PID WHAT"),
            (&["-e -opid", "-o", "user"], "PID USER"),
        ];
        for (options, expected) in cases {
            assert_eq!(titles(options).unwrap(), expected, "{options:?}");
        }
    }

    #[test]
    fn others_are_refused() {
        for options in [
            &["-o", "comm"][..],
            &["-o", "pid,nothing"],
            &["-o"],
            &["--forest"],
            &["-u", "root"],
            &["-"],
        ] {
            assert!(titles(options).is_err(), "{options:?}");
        }
    }
}
