//! Bootstrap tokens, `ID.SECRET`, as Secrets of the operator's cluster: upstream's (KEP-130).

/// Where the Secrets are.
pub const NAMESPACE: &str = "kube-system";
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Of a Secret's name, before the token's id.
pub const PREFIX: &str = "bootstrap-token-";

pub const ID_BYTES: usize = 6;
pub const SECRET_BYTES: usize = 16;

/// Whether these are such as a token has: lower-case letters and digits.
pub fn is_one(id: &str, secret: &str) -> bool {
    let word = |text: &str, bytes: usize| {
        text.len() == bytes && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    word(id, ID_BYTES) && word(secret, SECRET_BYTES)
}
