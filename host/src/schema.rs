//! `orka-step schema`: JSON Schemas of the files that people and programs write, as the repository keeps them.
//!
//! They are made from the same types that read and write the files; a test holds them together.

use crate::cli::SchemaName;

/// The schema's text.
pub fn text(name: SchemaName) -> &'static str {
    match name {
        SchemaName::Grants => include_str!("../schemas/grants.schema.json"),
        SchemaName::Guards => include_str!("../schemas/guards.schema.json"),
        SchemaName::Plugin => include_str!("../schemas/plugin.schema.json"),
        SchemaName::Report => include_str!("../schemas/report.schema.json"),
        SchemaName::Scenarios => include_str!("../schemas/scenarios.schema.json"),
        SchemaName::Session => include_str!("../schemas/session.schema.json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set, the schemas are written anew.
    const UPDATE: &str = "ORKA_UPDATE_SCHEMAS";

    #[test]
    fn the_schemas_are_those_of_the_types() {
        let grants = schemars::schema_for!(crate::grants::GrantsFile).to_value();
        let session = schemars::schema_for!(crate::session::Session).to_value();
        let made = [
            (SchemaName::Grants, "grants", grants),
            (SchemaName::Guards, "guards", crate::guard::list_schema()),
            (SchemaName::Plugin, "plugin", plugin_manifest::schema()),
            (SchemaName::Report, "report", crate::report::schema()),
            #[cfg(feature = "authoring")]
            (
                SchemaName::Scenarios,
                "scenarios",
                crate::scenario::file::schema(),
            ),
            (SchemaName::Session, "session", session),
        ];
        for (name, file, schema) in made {
            let made = format!("{schema:#}\n");
            // A link of the source leads whoever reads a schema nowhere.
            for link in ["](crate::", "](super::", "](Self::", "[`"] {
                assert!(!made.contains(link), "`{link}` in the schema `{file}`");
            }
            let path = format!("{}/schemas/{file}.schema.json", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os(UPDATE).is_some() {
                std::fs::write(&path, &made).unwrap();
                continue;
            }
            assert!(
                text(name) == made,
                "`{path}` is not what its types say; run this test with {UPDATE}=1 and look at the difference"
            );
        }
    }
}
