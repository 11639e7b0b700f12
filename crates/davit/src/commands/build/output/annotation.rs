//! Annotations: of `--annotation`, and as keys of an `--output`.

use davit_engine::{
    build::{Annotation, AnnotationLevel},
    image::Platform,
};

/// Reads `[LEVEL[PLATFORM],...:]KEY=VALUE`, as `--annotation` has it: one annotation for each level.
pub(crate) fn parse(text: &str) -> Result<Vec<Annotation>, String> {
    let (key, value) = text.split_once('=').ok_or("it is not of the form KEY=VALUE")?;
    let Some((levels, key)) = key.split_once(':') else {
        return Ok(vec![annotation(AnnotationLevel::Manifest, None, (key, value))?]);
    };
    let one = |level: &str| {
        let (level, platform) = with_platform(level)?;
        let found = level_of(level).ok_or_else(|| unknown(level))?;
        annotation(found, platform, (key, value))
    };
    levels.split(',').map(one).collect()
}

/// Reads `annotation[-LEVEL][[PLATFORM]].KEY`, as `--output` has it; nothing for any other key.
pub(super) fn of_key(key: &str, value: &str) -> Result<Option<Annotation>, String> {
    let Some(rest) = key.strip_prefix("annotation") else { return Ok(None) };
    let Some((level, name)) = rest.split_once('.') else { return Ok(None) };
    let (level, platform) = with_platform(level)?;
    let found = match level.strip_prefix('-') {
        None if level.is_empty() => AnnotationLevel::Manifest,
        None => return Ok(None),
        Some(level) => level_of(level).ok_or_else(|| unknown(level))?,
    };
    annotation(found, platform, (name, value)).map(Some)
}

fn unknown(level: &str) -> String {
    format!("`{level}` is none of manifest, manifest-descriptor, index, index-descriptor")
}

fn level_of(name: &str) -> Option<AnnotationLevel> {
    Some(match name {
        "manifest" => AnnotationLevel::Manifest,
        "manifest-descriptor" => AnnotationLevel::ManifestDescriptor,
        "index" => AnnotationLevel::Index,
        "index-descriptor" => AnnotationLevel::IndexDescriptor,
        _ => return None,
    })
}

/// Splits a platform in brackets from what stands before it.
fn with_platform(text: &str) -> Result<(&str, Option<Platform>), String> {
    let Some((level, rest)) = text.split_once('[') else { return Ok((text, None)) };
    let platform = rest.strip_suffix(']').ok_or_else(|| format!("`{text}` has no `]`"))?;
    let platform = platform.parse::<Platform>().map_err(|error| error.to_string())?;
    Ok((level, Some(platform)))
}

fn annotation(
    level: AnnotationLevel,
    platform: Option<Platform>,
    (key, value): (&str, &str),
) -> Result<Annotation, String> {
    if key.is_empty() {
        return Err("an annotation needs a key".to_owned());
    }
    Ok(Annotation { level, platform, key: key.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_levels_and_platforms() {
        use AnnotationLevel::{Index, IndexDescriptor, Manifest, ManifestDescriptor};
        let found = |level, platform: Option<&str>, key: &str| {
            let platform = platform.map(|text| text.parse().unwrap());
            Annotation { level, platform, key: key.to_owned(), value: "v=1".to_owned() }
        };
        assert_eq!(parse("a.b=v=1"), Ok(vec![found(Manifest, None, "a.b")]));
        assert_eq!(
            parse("index,manifest-descriptor[linux/arm64]:a=v=1"),
            Ok(vec![found(Index, None, "a"), found(ManifestDescriptor, Some("linux/arm64"), "a")])
        );
        for bad in ["a", "=v", "other:a=v", "manifest[x:a=v", "manifest[a/b/c/d]:a=v", ":a=v"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let key = |key| of_key(key, "v=1");
        assert_eq!(key("annotation.a.b"), Ok(Some(found(Manifest, None, "a.b"))));
        assert_eq!(
            key("annotation-manifest[linux/arm64].a"),
            Ok(Some(found(Manifest, Some("linux/arm64"), "a")))
        );
        assert_eq!(
            key("annotation-index-descriptor.a"),
            Ok(Some(found(IndexDescriptor, None, "a")))
        );
        for other in ["annotation", "annotations.a", "compression"] {
            assert_eq!(key(other), Ok(None), "{other}");
        }
        assert!(key("annotation-other.a").is_err());
    }
}
