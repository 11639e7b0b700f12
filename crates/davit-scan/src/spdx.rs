//! An inventory as an SPDX 2.3 document in JSON (<https://spdx.github.io/spdx-spec/v2.3/>).
//!
//! What the databases do not say is `NOASSERTION`. Nothing in it depends on when or where it was
//! written, beside the time that is given.

use std::collections::BTreeMap;

use davit_image::{Digest, Timestamp};
use serde_json::{Map, Value, json};

use crate::{Inventory, Package, PackageKind};

const UNKNOWN: &str = "NOASSERTION";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-DocumentRoot-Image";
const SYSTEM: &str = "SPDXRef-OperatingSystem";
/// Words between the licences of an expression.
const OPERATORS: [&str; 3] = ["AND", "OR", "WITH"];

/// What a document is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The image's name, or that of what else was looked at.
    pub name: String,
    /// What tells it from others of its name: it is part of the document's address.
    pub identity: Digest,
    /// When the document counts as made.
    pub created: Timestamp,
    /// Who made it, as `NAME-VERSION`.
    pub tool: String,
}

/// Writes an inventory as a document.
#[must_use]
pub fn spdx(inventory: &Inventory, subject: &Subject) -> Value {
    let mut document = Document::default();
    document.relate(DOCUMENT, "DESCRIBES", IMAGE);
    let mut root = described(IMAGE, &subject.name);
    root.insert("primaryPackagePurpose".to_owned(), json!("CONTAINER"));
    document.packages.push(Value::Object(root));
    if let Some(distro) = &inventory.distro {
        let mut system = described(SYSTEM, &distro.id);
        if !distro.version.is_empty() {
            system.insert("versionInfo".to_owned(), json!(distro.version));
        }
        if !distro.name.is_empty() {
            system.insert("summary".to_owned(), json!(distro.name));
        }
        system.insert("primaryPackagePurpose".to_owned(), json!("OPERATING-SYSTEM"));
        document.packages.push(Value::Object(system));
        document.relate(IMAGE, "CONTAINS", SYSTEM);
    }
    for package in &inventory.packages {
        document.add(inventory, package);
    }
    let address = Digest::of(format!("{} {}", subject.name, subject.identity).as_bytes());
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": subject.name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/davit-{}", address.hex()),
        "creationInfo": {
            "creators": [format!("Tool: {}", subject.tool)],
            "created": seconds(subject.created),
        },
        "packages": document.packages,
        "files": document.files.into_values().collect::<Vec<_>>(),
        "hasExtractedLicensingInfos": document.licences.into_values().collect::<Vec<_>>(),
        "relationships": document.relationships,
    })
}

/// A time in whole seconds, as SPDX wants it.
fn seconds(time: Timestamp) -> String {
    Timestamp::from_unix_seconds(time.unix_seconds()).unwrap_or(Timestamp::EPOCH).to_string()
}

#[derive(Default)]
struct Document {
    packages: Vec<Value>,
    /// By their ids, each once.
    files: BTreeMap<String, Value>,
    licences: BTreeMap<String, Value>,
    relationships: Vec<Value>,
}

impl Document {
    fn relate(&mut self, one: &str, how: &str, other: &str) {
        self.relationships.push(json!({
            "spdxElementId": one, "relationshipType": how, "relatedSpdxElement": other,
        }));
    }

    fn add(&mut self, inventory: &Inventory, package: &Package) {
        let purl = package.purl(inventory.distro.as_ref());
        let kind = package.kind.purl_type();
        let id = format!(
            "SPDXRef-Package-{kind}-{}-{}",
            id_text(&package.name),
            &Digest::of(purl.as_bytes()).hex()[..16]
        );
        let mut fields = described(&id, &package.name);
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        set("versionInfo", json!(package.version));
        let manager = match package.kind {
            PackageKind::Deb => "DPKG",
            PackageKind::Apk => "APK",
        };
        set("sourceInfo", json!(format!("{manager} database: /{}", package.database)));
        if let Some(supplier) = package.supplier.as_deref().map(supplier) {
            set("supplier", json!(supplier));
        }
        if let Some(homepage) = package.homepage.as_deref().filter(|it| is_address(it)) {
            set("homepage", json!(homepage));
        }
        if let Some(licence) = &package.licence {
            set("licenseDeclared", json!(self.licence(licence)));
        }
        set(
            "externalRefs",
            json!([{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }]),
        );
        self.packages.push(Value::Object(fields));
        self.relate(IMAGE, "CONTAINS", &id);
        for file in &package.files {
            let name = format!("/{}", file.path);
            let key = format!("{name}\0{}", file.sha1);
            let file_id = format!("SPDXRef-File-{}", &Digest::of(key.as_bytes()).hex()[..32]);
            self.relate(&id, "CONTAINS", &file_id);
            self.files.entry(file_id.clone()).or_insert_with(|| {
                json!({
                    "SPDXID": file_id,
                    "fileName": name,
                    "checksums": [{"algorithm": "SHA1", "checksumValue": file.sha1}],
                    "licenseConcluded": UNKNOWN,
                    "copyrightText": UNKNOWN,
                })
            });
        }
    }

    /// A licence expression; a text that is none becomes a licence of its own.
    fn licence(&mut self, text: &str) -> String {
        if is_expression(text) {
            return text.to_owned();
        }
        let id = format!("LicenseRef-{}", &Digest::of(text.as_bytes()).hex()[..16]);
        let extracted = json!({"licenseId": id, "extractedText": text, "name": text});
        self.licences.insert(id.clone(), extracted);
        id
    }
}

/// A package of which nothing is known but its name.
fn described(id: &str, name: &str) -> Map<String, Value> {
    let fields = [
        ("SPDXID", id),
        ("name", name),
        ("downloadLocation", UNKNOWN),
        ("licenseConcluded", UNKNOWN),
        ("licenseDeclared", UNKNOWN),
        ("copyrightText", UNKNOWN),
        ("supplier", UNKNOWN),
    ];
    let mut fields: Map<String, Value> =
        fields.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    fields.insert("filesAnalyzed".to_owned(), json!(false));
    fields
}

/// What an id may hold of a name.
fn id_text(name: &str) -> String {
    let allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-');
    name.chars().map(|it| if allowed(it) { it } else { '-' }).collect()
}

/// `NAME <ADDRESS>` in SPDX's words.
fn supplier(text: &str) -> String {
    const GROUPS: [&str; 5] = ["team", "maintainers", "developers", "group", "project"];
    let lower = text.to_ascii_lowercase();
    let kind = match GROUPS.iter().any(|word| lower.contains(word)) {
        true => "Organization",
        false => "Person",
    };
    match text.split_once('<').and_then(|(name, rest)| Some((name, rest.strip_suffix('>')?))) {
        Some((name, address)) => format!("{kind}: {} ({address})", name.trim()),
        None => format!("{kind}: {text}"),
    }
}

fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !text.contains(char::is_whitespace))
}

/// Whether a text has the form of a licence expression: ids, and operators between them.
fn is_expression(text: &str) -> bool {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let (mut depth, mut wants_id) = (0_usize, true);
    for word in spaced.split_whitespace() {
        let is_operator = OPERATORS.contains(&word);
        match word {
            "(" if wants_id => depth += 1,
            ")" if !wants_id && depth > 0 => depth -= 1,
            "(" | ")" => return false,
            _ if is_operator && !wants_id => wants_id = true,
            _ if !is_operator && wants_id && is_id(word) => wants_id = false,
            _ => return false,
        }
    }
    depth == 0 && !wants_id
}

fn is_id(word: &str) -> bool {
    let word = word.strip_suffix('+').unwrap_or(word);
    let allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-');
    !word.is_empty() && word.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Distro, PackageFile};

    #[test]
    fn expressions_have_operators() {
        for (text, expected) in [
            ("MIT", true),
            ("GPL-2.0-or-later AND (MIT OR BSD-3-Clause)", true),
            ("GPL-2.0+ WITH Classpath-exception-2.0", true),
            ("GPL2 MIT", false),
            ("custom:foo", false),
            ("", false),
            ("AND", false),
            ("MIT AND", false),
            ("(MIT", false),
            ("MIT)", false),
            ("()", false),
        ] {
            assert_eq!(is_expression(text), expected, "{text}");
        }
    }

    #[test]
    fn writes_a_document() {
        let file = PackageFile { path: "bin/a".into(), sha1: "0".repeat(40) };
        let package = Package {
            kind: PackageKind::Apk,
            name: "a_b".into(),
            version: "1".into(),
            licence: Some("GPL2 MIT".into()),
            supplier: Some("The Team <t@h>".into()),
            homepage: Some("javascript:x".into()),
            files: vec![file],
            ..Package::default()
        };
        let distro = Distro { id: "alpine".into(), version: "3.20".into(), name: "Alpine".into() };
        let inventory =
            Inventory { distro: Some(distro), packages: vec![package], ..Inventory::default() };
        let subject = Subject {
            name: "img".into(),
            identity: Digest::of(b"x"),
            created: Timestamp::from_unix(7, 5).unwrap(),
            tool: "davit-1".into(),
        };
        let document = spdx(&inventory, &subject);
        assert_eq!(document, spdx(&inventory, &subject));
        assert_eq!(document["creationInfo"]["created"], "1970-01-01T00:00:07Z");
        let packages = document["packages"].as_array().unwrap();
        assert_eq!(packages.len(), 3);
        let package = &packages[2];
        assert!(package["SPDXID"].as_str().unwrap().starts_with("SPDXRef-Package-apk-a-b-"));
        assert_eq!(package["supplier"], "Organization: The Team (t@h)");
        assert_eq!(package["homepage"], Value::Null);
        let licence = &document["hasExtractedLicensingInfos"][0];
        assert_eq!(package["licenseDeclared"], licence["licenseId"]);
        assert_eq!(licence["extractedText"], "GPL2 MIT");
        let purl = &package["externalRefs"][0]["referenceLocator"];
        assert_eq!(purl, "pkg:apk/alpine/a_b@1?distro=alpine-3.20");
        assert_eq!(document["files"][0]["fileName"], "/bin/a");
        assert_eq!(document["relationships"].as_array().unwrap().len(), 4);
    }
}
