//! Durations as parameters have them.

use orka_plugin_sdk::Error;

/// `90s`, `10m` or `1h` in milliseconds.
pub(crate) fn duration_ms(name: &str, text: Option<&str>) -> Result<Option<u64>, Error> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || Error::parameter(name, format!("is not a duration such as `10m`: `{text}`"));
    let unit_at = text.len().checked_sub(1).ok_or_else(wrong)?;
    let (number, unit) = text.split_at_checked(unit_at).ok_or_else(wrong)?;
    let factor = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .map(Some)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(
            duration_ms("capacity-wait", Some("90s")).unwrap(),
            Some(90_000)
        );
        assert_eq!(
            duration_ms("capacity-wait", Some("2h")).unwrap(),
            Some(7_200_000)
        );
        assert!(duration_ms("capacity-wait", Some("5")).is_err());
        assert!(duration_ms("capacity-wait", Some("5ä")).is_err());
        assert!(duration_ms("capacity-wait", Some("99999999999999999999h")).is_err());
    }
}
