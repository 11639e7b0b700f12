//! The layers of which the results of steps consist, in a provenance of `mode=max`.
//!
//! A layer is named as the manifest of the image names it: plain in the store, compressed in archives
//! and at registries. So they are written into a predicate when that manifest is known, and anew where
//! another one takes its place.

use std::collections::HashMap;

use davit_build::{Detail, Provenance};
use davit_image::{Descriptor, Digest, Document};
use davit_store::Store;
use serde_json::{Map, Value, json};

use crate::origin::DOCUMENT_BYTES;

const LAYERS: &str = "layers";
/// Where `BuildKit`'s own facts are, in SLSA 1 and 0.2.
const PLACES: [&str; 2] = [
    "/runDetails/metadata/buildkit_metadata",
    "/metadata/https:~1~1mobyproject.org~1buildkit@v1#metadata",
];

/// Most layers that all steps of a predicate together name: they grow by the square of the steps.
const MOST: usize = 50_000;

/// The layers of the results of a build's steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct StepChains(Vec<Chain>);

#[derive(Clone, Debug, PartialEq)]
struct Chain {
    /// The result, as `step0:0`.
    output: String,
    /// So many of the image's layers, from the bottom.
    of_image: Option<usize>,
    /// Those of a base image, as its own manifest names them.
    of_base: Vec<Descriptor>,
}

impl StepChains {
    /// Those of a build, if a provenance tells them.
    pub(super) fn of(facts: &Provenance, detail: Detail, store: &Store) -> Self {
        let details = facts.details.as_ref().filter(|_| detail == Detail::Max);
        let steps = details.into_iter().flat_map(|details| &details.steps);
        let chain = |step: &davit_build::ProvenanceStep| {
            let (of_image, base) = (step.layers.of_image, step.layers.of_base);
            let of_base = base.and_then(|digest| layers_of(store, &digest)).unwrap_or_default();
            let is_known = of_image.is_some() || !of_base.is_empty();
            is_known.then(|| Chain { output: format!("{}:0", step.id), of_image, of_base })
        };
        Self(steps.filter_map(chain).collect())
    }

    /// Adds them to a predicate about an image with these layers; about files, there are none.
    pub(super) fn add_to(&self, predicate: &mut Value, image: &[Descriptor]) {
        let chains = self.0.iter().map(|chain| {
            let own = chain.of_image.and_then(|count| image.get(..count));
            (&chain.output, own.unwrap_or(&chain.of_base))
        });
        if chains.clone().map(|(_, layers)| layers.len()).sum::<usize>() > MOST {
            return;
        }
        let chains = chains.filter(|(_, layers)| !layers.is_empty());
        let chains = chains.map(|(output, layers)| (output.clone(), json!([layers])));
        let chains: Map<String, Value> = chains.collect();
        if let Some(metadata) = metadata(predicate).filter(|_| !chains.is_empty()) {
            metadata.insert(LAYERS.to_owned(), Value::Object(chains));
        }
    }
}

/// What a manifest that is here names.
fn layers_of(store: &Store, manifest: &Digest) -> Option<Vec<Descriptor>> {
    let bytes = store.read_blob(manifest, DOCUMENT_BYTES).ok()?;
    match Document::parse(bytes, None) {
        Ok(Document::Manifest(manifest)) => Some(manifest.value().layers.clone()),
        _ => None,
    }
}

fn metadata(predicate: &mut Value) -> Option<&mut Map<String, Value>> {
    let place = PLACES.iter().find(|place| predicate.pointer(place).is_some())?;
    predicate.pointer_mut(place)?.as_object_mut()
}

/// Names the layers in a predicate as they are sent instead.
pub(super) fn rename(predicate: &mut Value, sent: &HashMap<Digest, Descriptor>) {
    let Some(chains) = metadata(predicate).and_then(|it| it.get_mut(LAYERS)) else { return };
    let lists = chains.as_object_mut().into_iter().flat_map(|chains| chains.values_mut());
    let chains = lists.filter_map(Value::as_array_mut).flatten();
    for layer in chains.filter_map(Value::as_array_mut).flatten() {
        let digest = layer["digest"].as_str().and_then(|digest| digest.parse().ok());
        if let Some(other) = digest.and_then(|digest: Digest| sent.get(&digest)) {
            *layer = json!(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use davit_image::MediaType;

    use super::*;

    fn layer(content: &[u8]) -> Descriptor {
        Descriptor::of(MediaType::OCI_LAYER, content)
    }

    #[test]
    fn layers_are_named_as_the_manifest_names_them() {
        let (one, two, base) = (layer(b"1"), layer(b"2"), layer(b"b"));
        let chain = |output: &str, of_image, of_base| {
            let output = output.to_owned();
            Chain { output, of_image, of_base }
        };
        let chains = StepChains(vec![
            chain("step0:0", Some(1), vec![base.clone()]),
            chain("step1:0", Some(2), Vec::new()),
            chain("step2:0", Some(3), Vec::new()),
            chain("step3:0", None, vec![base.clone()]),
        ]);
        for text in [
            r#"{"runDetails": {"metadata": {"buildkit_metadata": {"source": {}}}}}"#,
            r#"{"metadata": {"https://mobyproject.org/buildkit@v1#metadata": {}}}"#,
        ] {
            let plain: Value = serde_json::from_str(text).unwrap();
            let (mut image, mut files) = (plain.clone(), plain.clone());
            chains.add_to(&mut image, &[one.clone(), two.clone()]);
            let found = metadata(&mut image).unwrap()[LAYERS].clone();
            let expected = json!({
                "step0:0": [[one]], "step1:0": [[one, two]], "step3:0": [[base]],
            });
            assert_eq!(found, expected, "{text}");
            let sent = layer(b"2, compressed");
            rename(&mut image, &HashMap::from([(two.digest, sent.clone())]));
            assert_eq!(metadata(&mut image).unwrap()[LAYERS]["step1:0"], json!([[one, sent]]));
            chains.add_to(&mut files, &[]);
            let found = metadata(&mut files).unwrap()[LAYERS].clone();
            assert_eq!(found, json!({"step0:0": [[base]], "step3:0": [[base]]}));
            let mut none = plain.clone();
            StepChains::default().add_to(&mut none, std::slice::from_ref(&one));
            assert_eq!(none, plain);
        }
        rename(&mut json!({"layers": 1}), &HashMap::new());
    }
}
