//! `cluster-info`: where a server is and which authority it has, for who has nothing but a bootstrap token, and knows by it that this is
//! true: as kubeadm's discovery by token has it (KEP-130).
//!
//! A ConfigMap that anybody may read has a kubeconfig, and for each token its signature: a JSON Web Signature (RFC 7515) in compact form
//! whose payload is left out, `header..signature`, by HMAC-SHA-256 with the token's secret as the key and its id as the key's.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

/// Where the ConfigMap is, in the operator's cluster.
pub const NAMESPACE: &str = "kube-public";
pub const NAME: &str = "cluster-info";
/// The entry that is signed.
pub const KUBECONFIG: &str = "kubeconfig";
/// Of a signature's entry, before the token's id.
pub const SIGNATURE: &str = "jws-kubeconfig-";

fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

/// What is signed: the header, and the payload that is not sent with it. The id is letters and digits.
fn signed(content: &str, id: &str) -> (String, String) {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    (header, input)
}

/// The signature of a content by a token.
pub fn sign(content: &str, id: &str, secret: &str) -> String {
    let (header, input) = signed(content, id);
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key(secret), input.as_bytes())))
}

/// Whether it is the token's signature of the content, and by the one algorithm that there is.
pub fn is_signed(content: &str, signature: &str, id: &str, secret: &str) -> bool {
    let (header, input) = signed(content, id);
    let tag = signature.strip_prefix(&header).and_then(|rest| rest.strip_prefix(".."));
    let tag = tag.and_then(|tag| URL_SAFE_NO_PAD.decode(tag).ok());
    tag.is_some_and(|tag| hmac::verify(&key(secret), input.as_bytes(), &tag).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_content_and_one_token() {
        let signature = sign("content", "abcdef", "0123456789abcdef");
        // {"alg":"HS256","kid":"abcdef"}
        assert!(signature.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."), "{signature}");
        let good = |content: &str, signature: &str, id: &str, secret: &str| is_signed(content, signature, id, secret);
        assert!(good("content", &signature, "abcdef", "0123456789abcdef"));
        assert!(!good("other", &signature, "abcdef", "0123456789abcdef"));
        assert!(!good("content", &signature, "abcdeg", "0123456789abcdef"));
        assert!(!good("content", &signature, "abcdef", "0123456789abcdeg"));
        let none = format!("{}..", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"abcdef"}"#));
        for bad in ["", "..", "x", &signature[..signature.len() - 1], &none] {
            assert!(!good("content", bad, "abcdef", "0123456789abcdef"), "{bad}");
        }
    }
}
