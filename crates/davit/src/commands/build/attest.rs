//! `--attest`, `--provenance` and `--sbom`: what is attested of a build.

use std::{collections::BTreeMap, str::FromStr};

use davit_engine::{
    build::{AttestationScope, Attestations, Detail, ProvenanceOptions, Sbom, SlsaVersion},
    image::Reference,
};

use super::{output::fields, variables};
use crate::error::CliError;

/// How much of the provenance stands in the metadata file.
const METADATA: &str = "BUILDX_METADATA_PROVENANCE";

// Options of attestations.
#[derive(Debug, clap::Args)]
pub(super) struct AttestArgs {
    /// Attest something of the image: type=provenance|sbom[,KEY=VALUE]...; it refers to the image,
    /// which stays as it is
    ///
    /// Keys of provenance: mode=min|max, builder-id, version=v1|v0.2, reproducible, inline-only,
    /// filename, complete-materials (fail if local files are read); of sbom: generator=IMAGE; of both: disabled. An image that is pushed has a provenance
    /// of mode=min in any case, unless BUILDX_NO_DEFAULT_ATTESTATIONS=1.
    #[arg(long = "attest", value_name = "SPEC")]
    attest: Vec<AttestSpec>,
    /// As --attest type=provenance: true, false, or its keys
    #[arg(long, value_name = "SPEC", value_parser = provenance)]
    provenance: Option<AttestSpec>,
    /// As --attest type=sbom: true, false, or its keys
    #[arg(long, value_name = "SPEC", value_parser = sbom)]
    sbom: Option<AttestSpec>,
}

/// One attestation as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AttestSpec {
    Provenance(Option<ProvenanceOptions>),
    Sbom(Option<Sbom>),
}

impl FromStr for AttestSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut fields = fields(text)?;
        let kind = fields.iter().position(|(key, _)| key == "type");
        let kind = kind.map(|position| fields.remove(position).1);
        match kind.as_deref() {
            Some("provenance") => provenance_of(&fields).map(Self::Provenance),
            Some("sbom") => sbom_of(text, &fields).map(Self::Sbom),
            Some(other) => Err(format!("type `{other}` is neither provenance nor sbom")),
            None => Err("the type is missing: provenance or sbom".to_owned()),
        }
    }
}

/// `true`, `false` or the keys of one type, as `--attest` has it.
fn canonical(kind: &str, text: &str) -> String {
    match flag(text) {
        Some(on) => format!("type={kind},disabled={}", !on),
        None => format!("type={kind},{text}"),
    }
}

fn provenance(text: &str) -> Result<AttestSpec, String> {
    canonical("provenance", text).parse()
}

fn sbom(text: &str) -> Result<AttestSpec, String> {
    canonical("sbom", text).parse()
}

/// A truth value in all of Go's words.
pub(super) fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    flag(value).ok_or_else(|| format!("`{key}={value}` is neither true nor false"))
}

fn provenance_of(fields: &[(String, String)]) -> Result<Option<ProvenanceOptions>, String> {
    // Who asks for it wants all of it, as with BuildKit.
    let mut options = ProvenanceOptions { detail: Detail::Max, ..ProvenanceOptions::default() };
    let mut disabled = false;
    for (key, value) in fields {
        match key.as_str() {
            "disabled" => disabled = switch(key, value)?,
            "mode" => options.detail = detail(value)?,
            "builder-id" => options.builder_id.clone_from(value),
            "complete-materials" => options.complete = switch(key, value)?,
            "reproducible" => options.reproducible = switch(key, value)?,
            "inline-only" => {
                options.scope = match switch(key, value)? {
                    true => AttestationScope::Images,
                    false => AttestationScope::All,
                };
            }
            "version" => {
                options.version = match value.as_str() {
                    "v1" => SlsaVersion::V1,
                    "v0.2" => SlsaVersion::V02,
                    _ => return Err(format!("version `{value}` is neither v1 nor v0.2")),
                };
            }
            "filename" => options.file_name = Some(file_name(value)?),
            _ => return Err(format!("`{key}` is no key of a provenance")),
        }
    }
    Ok((!disabled).then_some(options))
}

fn detail(value: &str) -> Result<Detail, String> {
    match value {
        "min" => Ok(Detail::Min),
        "max" => Ok(Detail::Max),
        _ => Err(format!("mode `{value}` is neither min nor max")),
    }
}

/// A name alone: it lies in the root of the result.
fn file_name(value: &str) -> Result<String, String> {
    let is_odd = value.contains('/') || value.contains(char::is_control);
    match value {
        "" | "." | ".." => Err("`filename` names no file".to_owned()),
        _ if is_odd => Err(format!("`{}` is no name of a file", value.escape_debug())),
        _ => Ok(value.to_owned()),
    }
}

fn sbom_of(text: &str, lower: &[(String, String)]) -> Result<Option<Sbom>, String> {
    let (mut sbom, mut disabled) = (Sbom::default(), false);
    let mut parameters = BTreeMap::new();
    for (key, value) in lower {
        match key.as_str() {
            "disabled" => disabled = switch(key, value)?,
            "generator" if value.is_empty() => {}
            "generator" => {
                let name = value.parse::<Reference>();
                let name = name.map_err(|error| format!("generator `{value}`: {error}"))?;
                sbom.generator = Some(name);
            }
            _ => {
                let name = written(text, key);
                parameters.insert(name, value.clone());
            }
        }
    }
    if let (None, Some(key)) = (&sbom.generator, parameters.keys().next()) {
        return Err(format!("`{key}` is for a generator, and `generator` names none"));
    }
    sbom.parameters = parameters;
    Ok((!disabled).then_some(sbom))
}

/// A key as it was written: a generator is told it so.
fn written(text: &str, key: &str) -> String {
    let names = text.split(',').filter_map(|field| field.trim_start_matches('"').split_once('='));
    let mut names = names.map(|(name, _)| name.trim());
    names.find(|name| name.eq_ignore_ascii_case(key)).unwrap_or(key).to_owned()
}

impl AttestArgs {
    /// What is attested.
    pub(super) fn read(&self, report: Report) -> Result<Attestations, CliError> {
        let asked = self.attest.iter().chain(&self.provenance).chain(&self.sbom);
        let (mut provenance, mut sbom) = (None, None);
        for spec in asked {
            let is_second = match spec {
                AttestSpec::Provenance(options) => provenance.replace(options.clone()).is_some(),
                AttestSpec::Sbom(options) => sbom.replace(options.clone()).is_some(),
            };
            if is_second {
                let kind = match spec {
                    AttestSpec::Provenance(_) => "provenance",
                    AttestSpec::Sbom(_) => "sbom",
                };
                return Err(CliError::usage(format!("duplicate attestation field {kind}")));
            }
        }
        let provenance = match provenance {
            Some(options) => options,
            None => default_provenance()?,
        };
        let reported = match report {
            Report::File => reported()?,
            Report::Nothing => None,
        };
        Ok(Attestations { provenance, sbom: sbom.flatten(), reported })
    }
}

/// Whether the provenance is told in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Report {
    Nothing,
    File,
}

/// What a pushed image has unasked.
fn default_provenance() -> Result<Option<ProvenanceOptions>, CliError> {
    if variables::is_on(variables::NO_ATTESTATIONS)? {
        return Ok(None);
    }
    let scope = AttestationScope::Pushed;
    Ok(Some(ProvenanceOptions { scope, ..ProvenanceOptions::default() }))
}

pub(in crate::commands) fn reported() -> Result<Option<Detail>, CliError> {
    let value = crate::environment::variable_text(METADATA).unwrap_or_default();
    match value.as_str() {
        "" | "min" | "true" | "1" => Ok(Some(Detail::Min)),
        "max" => Ok(Some(Detail::Max)),
        "disabled" | "false" | "0" => Ok(None),
        _ => Err(CliError::usage(format!("{METADATA}={value} is none of min, max, disabled"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_specs() {
        let max = ProvenanceOptions { detail: Detail::Max, ..ProvenanceOptions::default() };
        let of = |options| Ok(AttestSpec::Provenance(options));
        assert_eq!(provenance("true"), of(Some(max.clone())));
        assert_eq!(provenance("0"), of(None));
        assert_eq!("type=provenance,disabled=true".parse(), of(None));
        let own = ProvenanceOptions {
            detail: Detail::Min,
            builder_id: "https://b/x".into(),
            reproducible: true,
            complete: true,
            scope: AttestationScope::Images,
            version: SlsaVersion::V02,
            file_name: Some("p.json".into()),
        };
        let text = "mode=min,builder-id=https://b/x,reproducible=true,inline-only=1,version=v0.2,filename=p.json,complete-materials=1";
        assert_eq!(provenance(text), of(Some(own)));
        assert_eq!(sbom("true"), Ok(AttestSpec::Sbom(Some(Sbom::default()))));
        let Ok(AttestSpec::Sbom(Some(found))) = sbom("generator=a/b:1,EXTRA=x") else { panic!() };
        assert_eq!(found.generator.unwrap().familiar(), "a/b:1");
        assert_eq!(found.parameters["EXTRA"], "x");
        for bad in [
            "",
            "mode=min",
            "type=x",
            "type=provenance,mode=full",
            "type=provenance,version=v2",
            "type=provenance,bogus=1",
            "type=provenance,filename=../x",
            "type=provenance,filename=..",
            "type=provenance,reproducible=maybe",
            "type=sbom,EXTRA=1",
            "type=sbom,generator=A",
        ] {
            assert!(bad.parse::<AttestSpec>().is_err(), "{bad}");
        }
    }
}
