//! Reading the members of a body: type checks in one place.

use serde_json::{Map, Value};

use crate::cluster::PortMapping;

/// What is wrong with a body; the text goes into the answer.
pub(super) type Wrong = String;

/// The members of one body.
#[derive(Clone, Copy)]
pub(super) struct Members<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Members<'a> {
    fn present(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Text that must be there and not be empty.
    pub(super) fn required_text(self, name: &str) -> Result<&'a str, Wrong> {
        self.text(name)?
            .ok_or_else(|| format!("{name} is required"))
    }

    /// Text; empty text counts as absent.
    pub(super) fn text(self, name: &str) -> Result<Option<&'a str>, Wrong> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(format!("{name} must be a string")),
        }
    }

    pub(super) fn owned_text(self, name: &str) -> Result<Option<String>, Wrong> {
        self.text(name).map(|text| text.map(str::to_owned))
    }

    pub(super) fn boolean(self, name: &str) -> Result<Option<bool>, Wrong> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(format!("{name} must be a boolean")),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn integer(self, name: &str) -> Result<Option<u32>, Wrong> {
        let Some(value) = self.present(name) else {
            return Ok(None);
        };
        let whole = value.as_u64().and_then(|number| u32::try_from(number).ok());
        whole
            .map(Some)
            .ok_or_else(|| format!("{name} must be an integer"))
    }

    /// A number of GiB; 0 counts as absent.
    pub(super) fn memory(self) -> Result<Option<f64>, Wrong> {
        match self.present("memory") {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(0.0) => Ok(None),
                Some(number) if number > 0.0 => Ok(Some(number)),
                _ => Err("memory must be a positive number".to_owned()),
            },
        }
    }

    /// `default`, `most-allocated`, or nothing.
    pub(super) fn scheduler(self) -> Result<Option<String>, Wrong> {
        match self.owned_text("scheduler")? {
            Some(word) if word != "default" && word != "most-allocated" => {
                Err("scheduler must be one of default, most-allocated".to_owned())
            }
            scheduler => Ok(scheduler),
        }
    }

    /// `vm_metadata`: `{"items": [{"key": "…", "value": "…"}]}`.
    pub(super) fn metadata(self) -> Result<Map<String, Value>, Wrong> {
        let Some(value) = self.present("vm_metadata") else {
            return Ok(Map::new());
        };
        let shape = || "vm_metadata must be an object with an array named items".to_owned();
        let items = value
            .get("items")
            .and_then(Value::as_array)
            .ok_or_else(shape)?;
        items.iter().map(metadata_item).collect()
    }

    /// `reserved_ports`: `["NODE_PORT:VM_PORT", …]`.
    pub(super) fn reserved_ports(self) -> Result<Vec<PortMapping>, Wrong> {
        let Some(value) = self.present("reserved_ports") else {
            return Ok(Vec::new());
        };
        let shape = || "reserved_ports must be an array of strings NODE_PORT:VM_PORT".to_owned();
        let pairs = value.as_array().ok_or_else(shape)?;
        pairs
            .iter()
            .map(|pair| port_mapping(pair.as_str().ok_or_else(shape)?))
            .collect()
    }
}

fn metadata_item(item: &Value) -> Result<(String, Value), Wrong> {
    let key = item
        .get("key")
        .and_then(Value::as_str)
        .filter(|key| !key.is_empty());
    let key = key.ok_or("each item of vm_metadata needs a key")?;
    if key.starts_with("orka_") {
        return Err(format!("the metadata key {key} is reserved"));
    }
    let value = item.get("value").filter(|value| value.is_string());
    let value =
        value.ok_or_else(|| format!("the value of the metadata key {key} must be a string"))?;
    Ok((key.to_owned(), value.clone()))
}

fn port_mapping(pair: &str) -> Result<PortMapping, Wrong> {
    let wrong = || format!("{pair} is not of the form NODE_PORT:VM_PORT");
    let (host, guest) = pair.split_once(':').ok_or_else(wrong)?;
    let port = |text: &str| {
        text.trim()
            .parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)
    };
    let mapping = PortMapping {
        host: port(host)?,
        guest: port(guest)?,
        protocol: "TCP",
    };
    if is_node_port(mapping.host) {
        return Err(format!("port {} is reserved", mapping.host));
    }
    Ok(mapping)
}

/// Ports of a node that VMs cannot reserve.
fn is_node_port(port: u16) -> bool {
    matches!(port, 22 | 443 | 6443 | 5000..=5014 | 5999..=6013 | 8822..=8836)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn ports_of_the_node_itself_cannot_be_reserved() {
        for port in [22, 443, 6443, 5000, 5014, 5999, 6013, 8822, 8836] {
            let body = map(json!({ "reserved_ports": [format!("{port}:80")] }));
            assert!(Members(&body).reserved_ports().is_err(), "{port}");
        }
        for port in [23, 5015, 6014, 8821, 8837] {
            let body = map(json!({ "reserved_ports": [format!("{port}:80")] }));
            assert_eq!(Members(&body).reserved_ports().unwrap()[0].host, port);
        }
    }

    #[test]
    fn metadata_keys_of_the_cluster_are_refused() {
        let body =
            map(json!({ "vm_metadata": { "items": [{ "key": "orka_vm_id", "value": "1" }] } }));
        assert!(Members(&body).metadata().is_err());
        let body = map(json!({ "vm_metadata": { "items": [{ "key": "job", "value": "1" }] } }));
        assert_eq!(Members(&body).metadata().unwrap()["job"], "1");
        let body = map(json!({ "vm_metadata": { "items": [{ "key": "job", "value": 1 }] } }));
        assert!(Members(&body).metadata().is_err());
    }

    #[test]
    fn empty_text_and_zero_memory_count_as_absent() {
        let body = map(json!({ "scheduler": "", "memory": 0.0, "tag": null }));
        assert_eq!(Members(&body).scheduler(), Ok(None));
        assert_eq!(Members(&body).memory(), Ok(None));
        assert_eq!(Members(&body).text("tag"), Ok(None));
    }
}
