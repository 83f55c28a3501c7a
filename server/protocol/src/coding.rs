//! Content coding of an answer (RFC 9110 §12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// A content coding of catalogues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// No coding.
    Identity,
    /// gzip (RFC 1952).
    Gzip,
    /// zstd (RFC 8878).
    Zstd,
}

impl Coding {
    /// Best compression first.
    const PREFERENCE: [Self; 3] = [Self::Zstd, Self::Gzip, Self::Identity];

    /// Returns the name in `Content-Encoding` and `Accept-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the coding that a request prefers; of equals, the one that compresses best. Without
    /// the field, returns the identity: a client that does not ask may be unable to decode. Also
    /// returns the identity if no coding is acceptable, which is allowed (RFC 9110 §12.5.3) and
    /// serves better than 406.
    pub fn preferred(fields: &HeaderMap) -> Self {
        let mut weights = Weights::default();
        for line in fields.get_all(ACCEPT_ENCODING) {
            let Ok(line) = line.to_str() else {
                return Self::Identity;
            };
            for member in line
                .split(',')
                .map(str::trim)
                .filter(|text| !text.is_empty())
            {
                let Some((name, weight)) = read(member) else {
                    return Self::Identity;
                };
                weights.set(name, weight);
            }
        }
        let mut best = (Self::Identity, 0);
        for coding in Self::PREFERENCE {
            let weight = weights.of(coding);
            if weight > best.1 {
                best = (coding, weight);
            }
        }
        best.0
    }
}

/// Weights in thousandths; `None` if the field states none.
#[derive(Debug, Default)]
struct Weights {
    zstd: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    others: Option<u16>,
}

impl Weights {
    fn set(&mut self, name: &str, weight: u16) {
        let slot = match name.to_ascii_lowercase().as_str() {
            "zstd" => &mut self.zstd,
            "gzip" | "x-gzip" => &mut self.gzip,
            "identity" => &mut self.identity,
            "*" => &mut self.others,
            _ => return,
        };
        *slot = Some(weight);
    }

    fn of(&self, coding: Coding) -> u16 {
        match coding {
            Coding::Zstd => self.zstd.or(self.others).unwrap_or(0),
            Coding::Gzip => self.gzip.or(self.others).unwrap_or(0),
            // The identity is acceptable unless excluded, with the least weight if unstated.
            Coding::Identity => self.identity.or(self.others).unwrap_or(1),
        }
    }
}

/// Reads a coding and its weight: `gzip`, `gzip;q=0.5`.
fn read(member: &str) -> Option<(&str, u16)> {
    let Some((name, parameter)) = member.split_once(';') else {
        return Some((member, 1000));
    };
    let (key, value) = parameter.trim().split_once('=')?;
    if !key.eq_ignore_ascii_case("q") {
        return None;
    }
    // `0` or `1` and at most three digits (RFC 9110 §12.4.2).
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some((name.trim(), thousandths)),
        "1" if thousandths == 0 => Some((name.trim(), 1000)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_client_chooses() {
        use Coding::{Gzip, Identity, Zstd};
        for (field, coding) in [
            ("", Identity),
            ("gzip", Gzip),
            ("x-gzip", Gzip),
            ("GZip, deflate, br", Gzip),
            ("gzip, deflate, br, zstd", Zstd),
            ("zstd;q=0.5, gzip", Gzip),
            ("zstd; q=0.501, gzip;q=0.5", Zstd),
            ("zstd;q=0, *", Gzip),
            ("*", Zstd),
            ("*;q=0", Identity),
            ("br", Identity),
            ("identity, gzip;q=0.9", Identity),
            ("identity;q=0", Identity),
            ("identity;q=0, gzip;q=0.001", Gzip),
            ("gzip;q=2", Identity),
            ("gzip;q=0.1234", Identity),
            ("gzip;level=9", Identity),
        ] {
            let fields =
                HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_str(field).unwrap())]);
            assert_eq!(Coding::preferred(&fields), coding, "{field:?}");
        }
        assert_eq!(Coding::preferred(&HeaderMap::new()), Identity);
    }

    #[test]
    fn lines_are_one_list() {
        let mut fields = HeaderMap::new();
        fields.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip;q=0.5"));
        fields.append(ACCEPT_ENCODING, HeaderValue::from_static("zstd"));
        assert_eq!(Coding::preferred(&fields), Coding::Zstd);
    }
}
