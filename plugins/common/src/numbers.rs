//! Numbers, as parameters write them.

use orka_plugin_sdk::{Error, params};

const MIB_PER_GIB: f64 = 1024.0;

pub(crate) fn count_or(name: &str, default: u32) -> Result<u32, Error> {
    let number = params::integer(name)?.unwrap_or(i64::from(default));
    u32::try_from(number).map_err(|_| Error::parameter(name, format!("is out of range: {number}")))
}

/// Memory, given in GiB; none for 0, which leaves it to the cluster.
pub(crate) fn memory_mib(text: &str) -> Result<Option<u32>, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(None),
        Ok(gib) if gib.is_finite() && gib > 0.0 && gib <= 4096.0 => {
            Ok(Some((gib * MIB_PER_GIB).round() as u32))
        }
        _ => Err(format!("is not a number of GiB: `{text}`")),
    }
}

/// Bytes, as Kubernetes writes them; a `B` after the unit is accepted.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let bare = text.strip_suffix('B').unwrap_or(text);
    let of_unit = |(unit, shift)| bare.strip_suffix(unit).map(|number| (number, shift));
    let (number, shift) = units.into_iter().find_map(of_unit).unwrap_or((text, 0));
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("is not a size such as `4Gi`: `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_in_gib() {
        assert_eq!(memory_mib("7.5").unwrap(), Some(7680));
        assert_eq!(memory_mib("0").unwrap(), None);
        assert!(memory_mib("lots").is_err());
    }

    #[test]
    fn sizes_have_a_binary_unit_or_none() {
        for (text, bytes) in [("7", 7), ("3Ki", 3072), ("1MiB", 1 << 20), ("2Ti", 2 << 40)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for wrong in ["Ki", "1G", "7B", "99999999999999Ti"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
