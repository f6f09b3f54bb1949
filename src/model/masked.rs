//! Addresses as they may be shown: user and password before the host are nobody's business.
//! It knows no protocol. Tests: below.

/// What stands for a user and a password.
const MASK: &str = "***";

/// One address (a URL, or a host alone) without what stands before its host.
pub fn without_user(address: &str) -> String {
    let scheme = address.find("://").map_or(0, |at| at + 3);
    match address.rfind('@') {
        Some(at) if at >= scheme => format!("{}{MASK}{}", &address[..scheme], &address[at..]),
        _ => address.to_owned(),
    }
}

/// A text with the same done to every URL in it.
pub fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at);
        // Who writes a password with a slash in it has not escaped it, and wants it shown no more.
        let end = url.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(url.len());
        shown.push_str(before);
        shown.push_str(&without_user(&url[..end]));
        rest = &url[end..];
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_a_host_is_not_shown() {
        for (given, shown) in [
            ("https://10.0.0.1:6443", "https://10.0.0.1:6443"),
            ("https://u:p@h:6443/x", "https://***@h:6443/x"),
            ("https://u:p@ss/w@h", "https://***@h"),
            ("u:p@h", "***@h"),
            ("", ""),
        ] {
            assert_eq!(without_user(given), shown);
        }
    }

    #[test]
    fn every_url_of_a_text_is_masked() {
        for (given, shown) in [
            ("nothing to see, a@b", "nothing to see, a@b"),
            (
                "API server https://u:p@h: \"http://é:x@proxy:1\" refused a@b",
                "API server https://***@h: \"http://***@proxy:1\" refused a@b",
            ),
            ("://://a@b", "://***@b"),
            ("at the end ://", "at the end ://"),
        ] {
            assert_eq!(masked(given), shown);
        }
    }
}
