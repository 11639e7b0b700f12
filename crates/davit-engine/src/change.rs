//! `--change`: Dockerfile instructions that alter an image's config (`commit`, `import`).

use std::collections::BTreeMap;

use davit_dockerfile::{
    CommandForm, CommandLine, Dockerfile, ExpandError, ExposedPorts, HealthTest, Healthcheck,
    KeyValue, Kind, Lexer, ParseError, PortError, VariableList, Word, parse_signal,
};
use davit_image::{ContainerConfig, Empty, HealthConfig};

/// Why a `--change` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It is no Dockerfile instruction.
    #[error("change `{change}` is malformed")]
    Parse {
        /// The change.
        change: String,
        /// What is wrong.
        source: ParseError,
    },
    /// A variable in it cannot be expanded.
    #[error("change `{change}` cannot be expanded")]
    Expand {
        /// The change.
        change: String,
        /// What is wrong.
        source: ExpandError,
    },
    /// A port in it is none.
    #[error("change `{change}` has a malformed port")]
    Port {
        /// The change.
        change: String,
        /// What is wrong.
        source: PortError,
    },
    /// The instruction would need a build.
    #[error(
        "change `{0}` is not one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR"
    )]
    Instruction(String),
    /// The signal is unknown.
    #[error("change `{0}` names no signal")]
    Signal(String),
}

impl crate::Hint for ChangeError {}

/// Applies changes in order.
///
/// # Errors
/// See [`ChangeError`].
pub(crate) fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<(), ChangeError> {
    for change in changes {
        let source = format!("FROM scratch\n{change}\n");
        let parsed = Dockerfile::parse(source.as_bytes())
            .map_err(|source| ChangeError::Parse { change: change.clone(), source })?;
        let refused = || ChangeError::Instruction(change.clone());
        // A second stage is one that the change began.
        let [stage] = <[_; 1]>::try_from(parsed.stages).map_err(|_| refused())?;
        let instructions = stage.instructions;
        if instructions.is_empty() {
            return Err(refused());
        }
        for instruction in instructions {
            Change { text: change, config }.apply(instruction.kind)?;
        }
    }
    Ok(())
}

struct Change<'a> {
    text: &'a str,
    config: &'a mut ContainerConfig,
}

impl Change<'_> {
    fn apply(&mut self, kind: Kind) -> Result<(), ChangeError> {
        match kind {
            Kind::Cmd(command) => self.config.cmd = Some(self.command(&command)),
            Kind::Entrypoint(command) => self.config.entrypoint = Some(self.command(&command)),
            Kind::Env(pairs) => self.env(&pairs)?,
            Kind::Expose(words) => self.expose(&words)?,
            Kind::Healthcheck(check) => self.config.healthcheck = Some(self.health(&check)),
            Kind::Label(pairs) => self.label(&pairs)?,
            Kind::Onbuild(trigger) => {
                self.config.on_build.get_or_insert_default().push(trigger.trigger);
            }
            Kind::Shell(words) => {
                self.config.shell = Some(words.into_iter().map(|word| word.text).collect());
            }
            Kind::StopSignal(word) => {
                let signal = self.expand(&word)?;
                if parse_signal(&signal).is_none() {
                    return Err(ChangeError::Signal(self.text.to_owned()));
                }
                self.config.stop_signal = Some(signal);
            }
            Kind::User(word) => self.config.user = self.expand(&word)?,
            Kind::Volume(words) => {
                for word in &words {
                    let path = self.expand(word)?;
                    self.config.volumes.get_or_insert_default().insert(path, Empty {});
                }
            }
            Kind::Workdir(word) => self.workdir(&word)?,
            _ => return Err(ChangeError::Instruction(self.text.to_owned())),
        }
        Ok(())
    }

    fn env(&mut self, pairs: &[KeyValue]) -> Result<(), ChangeError> {
        for pair in pairs {
            let (key, value) = (self.expand(&pair.key)?, self.expand(&pair.value)?);
            let env = self.config.env.get_or_insert_default();
            let prefix = format!("{key}=");
            let entry = format!("{prefix}{value}");
            match env.iter_mut().find(|known| known.starts_with(&prefix)) {
                Some(known) => *known = entry,
                None => env.push(entry),
            }
        }
        Ok(())
    }

    fn label(&mut self, pairs: &[KeyValue]) -> Result<(), ChangeError> {
        for pair in pairs {
            let (key, value) = (self.expand(&pair.key)?, self.expand(&pair.value)?);
            self.config.labels.get_or_insert_with(BTreeMap::new).insert(key, value);
        }
        Ok(())
    }

    fn expose(&mut self, words: &[Word]) -> Result<(), ChangeError> {
        for word in words {
            let (texts, _) = Lexer::default()
                .words(&word.text, &self.variables())
                .map_err(|source| ChangeError::Expand { change: self.text.to_owned(), source })?;
            for text in texts {
                let ports = ExposedPorts::parse(&text)
                    .map_err(|source| ChangeError::Port { change: self.text.to_owned(), source })?;
                let exposed = self.config.exposed_ports.get_or_insert_default();
                exposed.extend(ports.ports.into_iter().map(|port| (port, Empty {})));
            }
        }
        Ok(())
    }

    fn workdir(&mut self, word: &Word) -> Result<(), ChangeError> {
        let path = self.expand(word)?;
        self.config.working_dir = if path.starts_with('/') {
            path
        } else {
            format!("{}/{path}", self.config.working_dir.trim_end_matches('/'))
        };
        Ok(())
    }

    fn command(&self, command: &CommandLine) -> Vec<String> {
        match &command.form {
            CommandForm::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
            CommandForm::Shell(word) => {
                let shell = self.config.shell.clone();
                let mut line = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                line.push(word.text.clone());
                line
            }
        }
    }

    fn health(&self, check: &Healthcheck) -> HealthConfig {
        let test = match &check.test {
            HealthTest::None => vec!["NONE".to_owned()],
            HealthTest::Shell(word) => vec!["CMD-SHELL".to_owned(), word.text.clone()],
            HealthTest::Exec(words) => std::iter::once("CMD".to_owned())
                .chain(words.iter().map(|word| word.text.clone()))
                .collect(),
        };
        HealthConfig {
            test: Some(test),
            interval: check.interval_ns,
            timeout: check.timeout_ns,
            start_period: check.start_period_ns,
            start_interval: check.start_interval_ns,
            retries: i64::from(check.retries),
            ..HealthConfig::default()
        }
    }

    fn expand(&self, word: &Word) -> Result<String, ChangeError> {
        Lexer::default()
            .word(&word.text, &self.variables())
            .map(|expanded| expanded.text)
            .map_err(|source| ChangeError::Expand { change: self.text.to_owned(), source })
    }

    fn variables(&self) -> VariableList {
        let mut variables = VariableList::new();
        for pair in self.config.env.iter().flatten() {
            if let Some((key, value)) = pair.split_once('=') {
                variables.set(key, value);
            }
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<String, ChangeError> {
        let mut config = ContainerConfig::default();
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        apply(&mut config, &changes)?;
        Ok(serde_json::to_string(&config).unwrap())
    }

    #[test]
    fn instructions_alter_the_config() {
        let cases: [(&[&str], &str); 10] = [
            (&["CMD [\"/bin/sh\"]"], r#"{"Cmd":["/bin/sh"]}"#),
            (&["CMD echo hi"], r#"{"Cmd":["/bin/sh","-c","echo hi"]}"#),
            (&["ENV A=1", "ENV B=$A-2 A=3"], r#"{"Env":["A=3","B=1-2"]}"#),
            (&["ENTRYPOINT [\"a\", \"b\"]"], r#"{"Entrypoint":["a","b"]}"#),
            (&["EXPOSE 80 53/udp"], r#"{"ExposedPorts":{"53/udp":{},"80/tcp":{}}}"#),
            (&["LABEL a=b \"c d\"=e"], r#"{"Labels":{"a":"b","c d":"e"}}"#),
            (&["USER nobody", "STOPSIGNAL SIGINT"], r#"{"User":"nobody","StopSignal":"SIGINT"}"#),
            (&["WORKDIR /a", "WORKDIR b"], r#"{"WorkingDir":"/a/b"}"#),
            (&["VOLUME /data"], r#"{"Volumes":{"/data":{}}}"#),
            (&["HEALTHCHECK NONE"], r#"{"Healthcheck":{"Test":["NONE"]}}"#),
        ];
        for (changes, expected) in cases {
            assert_eq!(changed(changes).unwrap(), expected, "{changes:?}");
        }
    }

    #[test]
    fn others_are_refused() {
        for change in [
            "RUN true",
            "COPY a b",
            "FROM x",
            "ENV a=b\nFROM x",
            "",
            "# ENV a=b",
            "FLY",
            "STOPSIGNAL nothing",
            "EXPOSE http",
        ] {
            assert!(changed(&[change]).is_err(), "{change}");
        }
    }
}
