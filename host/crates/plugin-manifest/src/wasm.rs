//! The outside of a WebAssembly file: what kind it is, what it imports and exports, and its manifest section.
//!
//! Only the top level is looked at. Modules and components nested inside are stepped over, so a manifest that a
//! nested module carries is never mistaken for the plugin's own, and reading costs the same for any size of code.

use std::fmt;
use std::ops::Range;

use wasm_encoder::{CustomSection, Section as _};
use wasmparser::{Chunk, ComponentExternalKind, ComponentTypeRef, Parser, Payload, TypeBounds};

use crate::Error;

/// The custom section that carries a plugin's manifest.
pub const MANIFEST_SECTION: &str = "orka:plugin-manifest";

/// The longest manifest that is read or written, in bytes. Ours are under 4 KiB; the limit bounds what a foreign file
/// can make us parse.
pub const MANIFEST_BYTES_MAX: usize = 256 * 1024;

const MAGIC_ELF: &[u8; 4] = b"\x7fELF";

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WasmKind {
    /// A core module: what a compiler emits, before it becomes a component.
    CoreModule,
    /// A component, in the binary format that the tools of today write.
    Component,
    /// WebAssembly of a version or layer that is not known here.
    OtherVersion {
        /// The version field.
        version: u16,
        /// The layer field: 0 for core modules, 1 for components.
        layer: u16,
    },
    /// An ELF file: a native program, or a component compiled ahead of time.
    Elf,
    /// None of these.
    NotWasm,
}

impl fmt::Display for WasmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CoreModule => f.write_str("a core module"),
            Self::Component => f.write_str("a component"),
            Self::OtherVersion { version, layer } => {
                write!(f, "WebAssembly of unknown version {version}, layer {layer}")
            }
            Self::Elf => f.write_str("an ELF file"),
            Self::NotWasm => f.write_str("not WebAssembly"),
        }
    }
}

/// Tells what a file is from its first eight bytes.
pub fn kind(bytes: &[u8]) -> WasmKind {
    match bytes {
        [b'\0', b'a', b's', b'm', v0, v1, l0, l1, ..] => {
            match (
                u16::from_le_bytes([*v0, *v1]),
                u16::from_le_bytes([*l0, *l1]),
            ) {
                (1, 0) => WasmKind::CoreModule,
                // Version 0xd is the only encoding of components in use: component-model, `Binary.md`.
                (0xd, 1) => WasmKind::Component,
                (version, layer) => WasmKind::OtherVersion { version, layer },
            }
        }
        _ if bytes.starts_with(MAGIC_ELF) => WasmKind::Elf,
        _ => WasmKind::NotWasm,
    }
}

/// Names what a component has to be given, such as `orka:plugin/cluster@0.1.0`, in file order.
///
/// Names of types that merely repeat a type of another import are left out: nobody has to provide them.
///
/// # Errors
///
/// [`Error::NotAComponent`] or [`Error::Malformed`].
pub fn imports(component: &[u8]) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for section in sections(component)? {
        if let Payload::ComponentImportSection(imports) = section?.payload {
            for import in imports {
                let import = import?;
                if !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
                    names.push(import.name.name.to_owned());
                }
            }
        }
    }
    Ok(names)
}

/// Names what a component offers: its exported interfaces and functions, in file order.
///
/// # Errors
///
/// [`Error::NotAComponent`] or [`Error::Malformed`].
pub fn exports(component: &[u8]) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for section in sections(component)? {
        if let Payload::ComponentExportSection(exports) = section?.payload {
            for export in exports {
                let export = export?;
                if export.kind != ComponentExternalKind::Type {
                    names.push(export.name.name.to_owned());
                }
            }
        }
    }
    Ok(names)
}

/// Finds the bytes of the manifest section, if there is one.
pub(crate) fn manifest_section(component: &[u8]) -> Result<Option<&[u8]>, Error> {
    let mut found = None;
    for section in sections(component)? {
        if let Payload::CustomSection(custom) = section?.payload
            && custom.name() == MANIFEST_SECTION
            && found.replace(custom.data()).is_some()
        {
            return Err(Error::Duplicate);
        }
    }
    match found {
        Some(bytes) if bytes.len() > MANIFEST_BYTES_MAX => {
            Err(Error::TooLong { found: bytes.len() })
        }
        found => Ok(found),
    }
}

/// Copies a component byte for byte, without any manifest section it has and with `manifest` as its last section.
pub(crate) fn with_manifest_section(component: &[u8], manifest: &[u8]) -> Result<Vec<u8>, Error> {
    if manifest.len() > MANIFEST_BYTES_MAX {
        return Err(Error::TooLong {
            found: manifest.len(),
        });
    }
    let mut copy = Vec::with_capacity(component.len() + manifest.len() + 64);
    for section in sections(component)? {
        let section = section?;
        let replaced = matches!(&section.payload, Payload::CustomSection(custom) if custom.name() == MANIFEST_SECTION);
        if !replaced {
            copy.extend_from_slice(&component[section.bytes]);
        }
    }
    CustomSection {
        name: MANIFEST_SECTION.into(),
        data: manifest.into(),
    }
    .append_to(&mut copy);
    Ok(copy)
}

/// One top-level section with its header; the file's own header comes as the first.
struct Section<'a> {
    payload: Payload<'a>,
    bytes: Range<usize>,
}

/// Walks the top level of a component. Ends after the first error.
fn sections(component: &[u8]) -> Result<impl Iterator<Item = Result<Section<'_>, Error>>, Error> {
    match kind(component) {
        WasmKind::Component => Ok(Walk {
            parser: Parser::new(0),
            component,
            at: 0,
            done: false,
        }),
        found => Err(Error::NotAComponent { found }),
    }
}

struct Walk<'a> {
    parser: Parser,
    component: &'a [u8],
    at: usize,
    done: bool,
}

impl<'a> Walk<'a> {
    fn step(&mut self) -> Result<Option<Section<'a>>, Error> {
        let start = self.at;
        let Chunk::Parsed { consumed, payload } =
            self.parser.parse(&self.component[start..], true)?
        else {
            return Err(self.cut_off());
        };
        self.at += consumed;
        match &payload {
            Payload::End(_) => return Ok(None),
            // The parser has read only the header of a nested module or component and expects its bytes elsewhere.
            Payload::ModuleSection {
                unchecked_range, ..
            }
            | Payload::ComponentSection {
                unchecked_range, ..
            } => {
                let end = usize::try_from(unchecked_range.end)
                    .ok()
                    .filter(|end| *end <= self.component.len());
                self.at = end.ok_or_else(|| self.cut_off())?;
            }
            _ => {}
        }
        Ok(Some(Section {
            payload,
            bytes: start..self.at,
        }))
    }

    fn cut_off(&self) -> Error {
        Error::Malformed {
            message: "unexpected end".to_owned(),
            offset: self.component.len() as u64,
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Section<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step().transpose();
        self.done = !matches!(step, Some(Ok(_)));
        step
    }
}

#[cfg(test)]
#[path = "wasm_tests.rs"]
mod tests;
