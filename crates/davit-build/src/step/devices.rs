//! Devices of a command: found, and allowed.

use std::io;

use davit_runtime::cdi::{CdiDevice, Devices};

use super::{Session, failed};
use crate::{
    error::BuildError,
    plan::{Node, RunSpec},
    sandbox::Entitlement,
};

impl Session<'_, '_> {
    /// The devices of a command. One that the machine does not have is left out unless it is
    /// required.
    pub(super) fn devices(
        &self,
        node: &Node,
        spec: &RunSpec,
    ) -> Result<Vec<CdiDevice>, BuildError> {
        if spec.devices.is_empty() {
            return Ok(Vec::new());
        }
        let known = Devices::read(&self.run.devices);
        let mut all: Vec<CdiDevice> = Vec::new();
        for wish in &spec.devices {
            let found = known.find(&wish.name).map_err(|error| failed(node, error))?;
            if found.is_empty() && wish.required {
                return Err(self.missing(node, &wish.name, &known));
            }
            for device in found {
                self.check_allowed(node, &wish.name, &device)?;
                if !all.contains(&device) {
                    all.push(device);
                }
            }
        }
        Ok(all)
    }

    fn missing(&self, node: &Node, name: &str, known: &Devices) -> BuildError {
        let problem = format!("required device {name} is not known to this machine");
        let error = failed(node, io::Error::other(problem));
        let places: Vec<String> =
            self.run.devices.iter().map(|path| path.display().to_string()).collect();
        let error = error.hint(format!("devices are described by files in {}", places.join(", ")));
        known.problems().iter().fold(error, |error, problem| error.hint(problem.clone()))
    }

    fn check_allowed(
        &self,
        node: &Node,
        asked: &str,
        device: &CdiDevice,
    ) -> Result<(), BuildError> {
        let allowed = &self.sandbox.entitlements;
        let is_named = |name: &str| allowed.contains(&Entitlement::Device(name.to_owned()));
        let is_allowed = device.is_for_all()
            || allowed.contains(&Entitlement::AllDevices)
            || is_named(asked)
            || is_named(&device.name);
        if is_allowed {
            return Ok(());
        }
        let problem = format!("device {} is not allowed", device.name);
        let hint = format!("`--allow device={asked}` trusts this Dockerfile with it");
        Err(failed(node, io::Error::other(problem)).hint(hint))
    }
}
