//! What is wrong with a certificate, in words: TLS libraries name their own types.

use jiff::Timestamp;

/// What to do about an error of TLS, from the text of rustls' error. `whose` server or program shows the certificate.
/// Absent if the error is about something else, or the advice depends on the kind of server.
pub fn certificate_advice(text: &str, whose: &str) -> Option<String> {
    let says = |part: &str| text.contains(part);
    // The other side says it, of ours.
    if says("received fatal alert: CertificateExpired") {
        return Some(format!("{whose} says that the client's certificate has expired; renew it"));
    }
    let when = |before: &str| {
        let digits: String = text.split_once(before)?.1.chars().take_while(char::is_ascii_digit).collect();
        let at = Timestamp::from_second(digits.parse().ok()?).ok()?;
        Some(at.strftime(" on %Y-%m-%d at %H:%MZ").to_string())
    };
    if says("certificate expired") || says("Expired") {
        let at = when("is not valid after ").unwrap_or_default();
        return Some(format!(
            "the certificate of {whose} expired{at}; renew it there, or set the clock of this machine"
        ));
    }
    if says("certificate not valid yet") || says("NotValidYet") {
        let at = when("is not valid before ").map(|at| at.replace(" on ", " before ")).unwrap_or_default();
        return Some(format!(
            "the certificate of {whose} is not valid{at}; set the clock of this machine, or of that one"
        ));
    }
    if says("CaUsedAsEndEntity") {
        return Some(format!(
            "{whose} shows the certificate of an authority (CA:TRUE) as its own; make one for the server that the \
             authority signs (CA:FALSE), and name the authority's in tls.ca_file"
        ));
    }
    if says("Revoked") {
        return Some(format!("the certificate of {whose} was revoked; renew it there"));
    }
    const UNREADABLE: [&str; 6] = [
        "UnhandledCriticalExtension",
        "BadEncoding",
        "BadSignature",
        "UnsupportedCertVersion",
        "UnsupportedSignatureAlgorithm",
        "InvalidPurpose",
    ];
    UNREADABLE.iter().any(|word| says(word)).then(|| {
        format!(
            "the certificate of {whose} cannot be checked; make one with an RSA or ECDSA key, a SHA-2 signature and the \
             server's name as subjectAltName"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_refused_has_its_reason() {
        let advice = |text: &str| certificate_advice(text, "db:5432");
        for (text, wanted) in [
            (
                "invalid peer certificate: certificate expired: verification time 1764400000 (UNIX), but certificate is \
                 not valid after 1764313600 (86400 seconds ago)",
                "the certificate of db:5432 expired on 2025-11-28 at 07:06Z",
            ),
            ("invalid peer certificate: Expired", "the certificate of db:5432 expired; renew"),
            (
                "invalid peer certificate: certificate not valid yet: verification time 1764313600 (UNIX), but \
                 certificate is not valid before 1764400000 (86400 seconds in future)",
                "is not valid before 2025-11-29 at 07:06Z",
            ),
            ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "CA:FALSE"),
            ("received fatal alert: CertificateExpired", "the client's certificate has expired"),
            ("invalid peer certificate: BadSignature", "cannot be checked"),
        ] {
            let advice = advice(text).unwrap();
            assert!(advice.contains(wanted), "{advice}");
        }
        assert_eq!(advice("invalid peer certificate: UnknownIssuer"), None);
        assert_eq!(advice("connection refused"), None);
    }
}
