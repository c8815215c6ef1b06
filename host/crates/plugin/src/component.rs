//! A component as bytes: its manifest, its digest, what it exports. Nothing here runs or compiles it.

use crate::{
    Error,
    manifest::{Kind, Manifest, SECTION},
};
use model::limits;
use sha2::Digest;
use std::collections::BTreeSet;
use wasmparser::{Encoding, Parser, Payload};

/// What is known of a component before it is compiled.
#[derive(Clone, Debug)]
pub(crate) struct Inspected {
    pub manifest: Manifest,
    pub exports: BTreeSet<Kind>,
}

/// Reads and checks the manifest of a component, and that it exports what the manifest says.
pub fn inspect(bytes: &[u8]) -> Result<Manifest, Error> {
    inspect_all(bytes).map(|inspected| inspected.manifest)
}

/// `sha256:` and 64 hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

pub(crate) fn inspect_all(bytes: &[u8]) -> Result<Inspected, Error> {
    if bytes.len() > limits::COMPONENT_BYTES_MAX {
        return Err(Error::TooLarge { bytes: bytes.len(), max: limits::COMPONENT_BYTES_MAX });
    }
    let bad = |error: wasmparser::BinaryReaderError| Error::NotAComponent(error.to_string());
    let mut sections = Vec::new();
    let mut exports = BTreeSet::new();
    let mut depth = 0_u32;
    let mut is_component = false;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(bad)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 {
                    is_component = encoding == Encoding::Component;
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            // Only the outermost component speaks for the package; what it embeds may carry anything.
            Payload::CustomSection(section) if depth == 1 && section.name() == SECTION => sections.push(section.data()),
            Payload::ComponentExportSection(reader) if depth == 1 => {
                for export in reader {
                    exports.extend(kind_of(export.map_err(bad)?.name.name)?);
                }
            }
            _ => {}
        }
    }
    if !is_component {
        return Err(Error::NotAComponent(
            "it is a core module: turn it into a component with the SDK or `cargo xtask plugins`".into(),
        ));
    }
    let [section] = sections[..] else {
        return Err(if sections.is_empty() { Error::NoManifest } else { Error::Manifest(vec!["it is there twice".into()]) });
    };
    let manifest = Manifest::from_json(section)?;
    let missing: Vec<&str> = manifest.kinds.iter().filter(|k| !exports.contains(k)).map(|k| k.as_str()).collect();
    if !missing.is_empty() {
        return Err(Error::Incompatible(format!(
            "the manifest's kinds name {}, which the component doesn't export",
            missing.join(", ")
        )));
    }
    let undeclared: Vec<&str> = exports
        .iter()
        .filter(|k| !manifest.kinds.contains(k) && !matches!(k, Kind::Lifecycle | Kind::Verification))
        .map(|k| k.as_str())
        .collect();
    if !undeclared.is_empty() {
        return Err(Error::Incompatible(format!(
            "the component exports {}: name it in the manifest's kinds",
            undeclared.join(", ")
        )));
    }
    Ok(Inspected { manifest, exports })
}

fn kind_of(export: &str) -> Result<Option<Kind>, Error> {
    let Some(interface) = export.strip_prefix("orchestrix:plugin/") else { return Ok(None) };
    let (name, version) = interface.split_once('@').unwrap_or((interface, ""));
    if !version.starts_with("0.1.") {
        return Err(Error::Incompatible(format!(
            "it is built for orchestrix:plugin {version}, this host has 0.1: build it with an SDK of 0.1"
        )));
    }
    Ok(Kind::ALL.into_iter().find(|kind| kind.as_str() == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_refused_without_a_panic() {
        let core_module = *b"\0asm\x01\0\0\0";
        let empty_component = *b"\0asm\x0d\0\x01\0";
        assert!(matches!(inspect(&core_module), Err(Error::NotAComponent(why)) if why.contains("core module")));
        assert!(matches!(inspect(&empty_component), Err(Error::NoManifest)));
        for bad in [&b""[..], b"\0asm", b"ELF", &[0xff; 4096], &empty_component[..6], b"\0asm\x0d\0\x01\0\0\xff\xff\xff\xff\x0f"]
        {
            assert!(inspect(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(inspect(&vec![0; limits::COMPONENT_BYTES_MAX + 1]), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn another_version_of_the_contract_is_told_what_to_do() {
        let message = kind_of("orchestrix:plugin/action@0.2.0").unwrap_err().to_string();
        assert!(message.contains("built for orchestrix:plugin 0.2.0, this host has 0.1"), "{message}");
        assert_eq!(kind_of("orchestrix:plugin/action@0.1.0").unwrap(), Some(Kind::Action));
        assert_eq!(kind_of("wasi:cli/run@0.2.0").unwrap(), None);
    }
}
