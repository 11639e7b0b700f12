//! The steps of an image, as its history tells them.

use davit_image::{Descriptor, HistoryEntry};

use super::Layer;

/// Puts each layer beside the step that made it. Where the history does not fit, layers go alone.
pub(super) fn layers(blobs: &[Descriptor], history: &[HistoryEntry]) -> Vec<Layer> {
    let layer = |blob: &Descriptor, command: Option<String>| Layer {
        size_bytes: blob.size,
        command,
        digest: Some(blob.digest.to_string()),
        media_type: Some(blob.media_type.to_string()),
    };
    if history.iter().filter(|step| !step.empty_layer).count() != blobs.len() {
        return blobs.iter().map(|blob| layer(blob, None)).collect();
    }
    let mut blobs = blobs.iter();
    let step = |step: &HistoryEntry| {
        let command = step.created_by.as_deref().map(readable);
        match (
            step.empty_layer,
            step.empty_layer.then_some(()).map_or_else(|| blobs.next(), |()| None),
        ) {
            (false, Some(blob)) => layer(blob, command),
            _ => Layer { size_bytes: 0, command, digest: None, media_type: None },
        }
    };
    history.iter().map(step).collect()
}

/// A command of the history without the shell that builders write before it.
fn readable(command: &str) -> String {
    let text = command.trim();
    let text = text.strip_prefix("/bin/sh -c #(nop)").or_else(|| text.strip_prefix("#(nop)"));
    let text = text.map_or_else(
        || command.trim().replacen("/bin/sh -c ", "RUN ", 1).replacen("RUN RUN ", "RUN ", 1),
        str::to_owned,
    );
    text.trim().trim_end_matches("# buildkit").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use davit_image::MediaType;

    use super::*;

    #[test]
    fn commands_read_as_they_were_written() {
        for (text, expected) in [
            ("/bin/sh -c #(nop)  CMD [\"sh\"]", "CMD [\"sh\"]"),
            ("/bin/sh -c apt-get update", "RUN apt-get update"),
            ("RUN /bin/sh -c make # buildkit", "RUN make"),
            ("COPY a /b # buildkit", "COPY a /b"),
        ] {
            assert_eq!(readable(text), expected);
        }
    }

    #[test]
    fn layers_stand_beside_their_steps() {
        let blob = |text: &[u8]| Descriptor::of(MediaType::OCI_LAYER, text);
        let step = |command: &str, empty_layer| HistoryEntry {
            created_by: Some(command.to_owned()),
            empty_layer,
            ..HistoryEntry::default()
        };
        let history = [step("COPY a", false), step("ENV a=b", true), step("RUN b", false)];
        let both = layers(&[blob(b"1"), blob(b"22")], &history);
        let sizes: Vec<u64> = both.iter().map(|layer| layer.size_bytes).collect();
        assert_eq!(sizes, [1, 0, 2]);
        assert!(both[1].digest.is_none());
        // A history of another image says nothing.
        let alone = layers(&[blob(b"1")], &history);
        assert!(alone.len() == 1 && alone[0].command.is_none());
    }
}
