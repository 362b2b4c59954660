//! How fast a link is, as `tc` writes it: `1gbit`.

/// Bits per second; none if it is not such a rate.
pub(super) fn parse(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "bit" | "bit/s" => 1.0,
        "kbit" | "kbit/s" => 1e3,
        "mbit" | "mbit/s" => 1e6,
        "gbit" | "gbit/s" => 1e9,
        "tbit" | "tbit/s" => 1e12,
        _ => return None,
    };
    let rate = number.parse::<f64>().ok()? * factor;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
    (1.0..1e18).contains(&rate).then_some(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_tc_reads_it() {
        assert_eq!(parse("1gbit"), Some(1_000_000_000));
        assert_eq!(parse("2.5Gbit/s"), Some(2_500_000_000));
        assert_eq!(parse("100 mbit"), Some(100_000_000));
        assert_eq!(parse("64"), Some(64));
        for bad in ["", "fast", "-1gbit", "1gbps", "0", "1e3", "1.1.1mbit"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
