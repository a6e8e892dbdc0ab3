//! Signatures of the Standard Webhooks specification (standardwebhooks.com), symmetric `v1`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::config::Secret;

const PREFIX: &str = "whsec_";

/// Keyed once: a clone of the prepared state costs less than setting the key for each request.
#[derive(Clone)]
pub(super) struct Signer {
    keyed: Hmac<Sha256>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not base64 after the prefix whsec_")]
pub struct MalformedSecret;

impl Signer {
    /// Takes the secret as receivers share it: `whsec_` and base64; the prefix may be absent.
    pub(super) fn new(secret: &Secret) -> Result<Self, MalformedSecret> {
        let text = secret.expose().trim();
        let key = STANDARD.decode(text.strip_prefix(PREFIX).unwrap_or(text)).map_err(|_| MalformedSecret)?;
        if key.is_empty() {
            return Err(MalformedSecret);
        }
        let keyed = Hmac::new_from_slice(&key).map_err(|_| MalformedSecret)?;
        Ok(Self { keyed })
    }

    /// The value of `webhook-signature`. `timestamp` is in seconds since the Unix epoch.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = self.keyed.clone();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the specification's libraries are tested with.
    #[test]
    fn a_signature_is_what_other_libraries_expect() {
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        for prefix in ["whsec_", ""] {
            let secret = Secret::new(format!("{prefix}MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
            let signer = Signer::new(&secret).unwrap();
            let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
            assert_eq!(signature, expected);
        }
    }

    #[test]
    fn a_secret_that_is_not_base64_is_refused() {
        for secret in ["", "whsec_", "whsec_***", "hunter2"] {
            assert_eq!(Signer::new(&Secret::new(secret)).err(), Some(MalformedSecret), "{secret}");
        }
    }
}
