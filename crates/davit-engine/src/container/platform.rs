//! The platform of a container's image, and that of this machine.

use davit_image::{ImageConfig, Platform};

use super::{ContainerError, ContainerSpec};

/// Refuses an image of another platform than the one that was asked for.
pub(super) fn check(spec: &ContainerSpec, image: &ImageConfig) -> Result<(), ContainerError> {
    let Some(wanted) = &spec.platform else { return Ok(()) };
    let actual = image.platform();
    let fits = wanted.parse::<Platform>().is_ok_and(|wanted| wanted.rank(&actual).is_some());
    if fits {
        return Ok(());
    }
    let (image, wanted) = (spec.image.clone(), wanted.clone());
    Err(ContainerError::NoPlatform { image, wanted, actual: actual.normalized().to_string() })
}

/// Docker's remark about an image that nobody asked to be for another machine (moby
/// `daemon/create.go`).
pub(super) fn warning(spec: &ContainerSpec, image: &ImageConfig) -> Option<String> {
    let (found, host) = (image.platform(), host());
    if spec.platform.is_some() || found.os.is_empty() || runs_on(&host, &found) {
        return None;
    }
    Some(format!(
        "The requested image's platform ({found}) does not match the detected host platform \
         ({host}) and no specific platform was requested"
    ))
}

/// Whether a machine runs an image: one of its own, or of its 32-bit predecessor.
fn runs_on(host: &Platform, image: &Platform) -> bool {
    let predecessor = match &*host.architecture {
        "amd64" => "386",
        "arm64" => "arm",
        _ => return host.rank(image).is_some(),
    };
    let older = Platform::new(&host.os, predecessor);
    let image = image.normalized();
    host.rank(&image).is_some() || (image.os == older.os && image.architecture == predecessor)
}

fn host() -> Platform {
    let host = Platform::host();
    Platform { variant: level().map(str::to_owned).or_else(|| host.variant.clone()), ..host }
}

/// The processor's level (x86-64 psABI § micro-architecture levels).
#[cfg(target_arch = "x86_64")]
fn level() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("ssse3");
    let v2 = v2 && has!("sse4.1") && has!("sse4.2");
    let v3 = v2 && has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2");
    let v3 = v3 && has!("f16c") && has!("fma") && has!("lzcnt") && has!("movbe");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd");
    let v4 = v4 && has!("avx512dq") && has!("avx512vl");
    Some(match (v2, v3, v4) {
        (.., true) => "v4",
        (_, true, _) => "v3",
        (true, ..) => "v2",
        _ => "v1",
    })
}

#[cfg(not(target_arch = "x86_64"))]
const fn level() -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_runs_its_own_and_its_predecessors_images() {
        let cases = [
            ("linux/amd64/v3", "linux/amd64", true),
            ("linux/amd64/v3", "linux/amd64/v2", true),
            ("linux/amd64/v2", "linux/amd64/v3", false),
            ("linux/amd64/v3", "linux/386", true),
            ("linux/amd64/v3", "linux/arm64", false),
            ("linux/arm64", "linux/arm/v7", true),
            ("linux/arm64", "windows/arm", false),
            ("linux/riscv64", "linux/riscv64", true),
        ];
        for (host, image, expected) in cases {
            let found = runs_on(&host.parse().unwrap(), &image.parse().unwrap());
            assert_eq!(found, expected, "{image} on {host}");
        }
        assert!(runs_on(&host(), &Platform::host()));
    }
}
