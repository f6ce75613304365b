//! An SSH agent with the keys of files, for `--ssh=ID=FILE`.
//!
//! Keys without a passphrase are read in OpenSSH's form (PROTOCOL.key) and in the PEM forms of PKCS#1,
//! SEC 1 and PKCS#8. They answer what may be asked of an agent; they are never written anywhere.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use thiserror::Error;

use super::agent::{FAILURE, REQUEST_IDENTITIES, SIGN_REQUEST};

/// Messages of draft-miller-ssh-agent, section 5.1.
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_RESPONSE: u8 = 14;

/// Flags of a request to sign with RSA, section 5.3.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Why a file is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadKey {
    /// It is in none of the forms that are read.
    #[error("it is neither a socket nor a private key in the form of OpenSSH or PEM")]
    Form,
    /// Nobody can be asked for a passphrase.
    #[error("the key has a passphrase: run an ssh-agent, ssh-add the key, and name its socket")]
    Passphrase,
    /// Its algorithm is not known, or its numbers do not fit together.
    #[error("the key is broken, or of a kind that is not supported: use Ed25519, ECDSA or RSA")]
    Kind,
}

/// Private keys that sign. They do not print.
pub struct KeyRing(Vec<Key>);

struct Key {
    /// The public key as it goes over the wire.
    public: Vec<u8>,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Ecdsa(&'static Curve, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

struct Curve {
    name: &'static str,
    algorithm: &'static str,
    signing: &'static EcdsaSigningAlgorithm,
    /// Bytes of a number of it.
    size: usize,
}

static CURVES: [Curve; 3] = [
    Curve {
        name: "nistp256",
        algorithm: "ecdsa-sha2-nistp256",
        signing: &ECDSA_P256_SHA256_FIXED_SIGNING,
        size: 32,
    },
    Curve {
        name: "nistp384",
        algorithm: "ecdsa-sha2-nistp384",
        signing: &ECDSA_P384_SHA384_FIXED_SIGNING,
        size: 48,
    },
    Curve {
        name: "nistp521",
        algorithm: "ecdsa-sha2-nistp521",
        signing: &ECDSA_P521_SHA512_FIXED_SIGNING,
        size: 66,
    },
];

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.0.len())
    }
}

impl KeyRing {
    /// The keys of one file each.
    ///
    /// # Errors
    /// A file is no key, or one that cannot be used.
    pub fn parse(files: &[Vec<u8>]) -> Result<Self, BadKey> {
        let keys = files.iter().map(|file| Signer::parse(file).map(Key::new));
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// The answer to a request, both with their lengths before them.
    pub(super) fn answer(&self, request: &[u8]) -> Vec<u8> {
        let mut fields = Fields(request.get(5..).unwrap_or_default());
        let answer = match request.get(4) {
            Some(&REQUEST_IDENTITIES) => Some(self.identities()),
            Some(&SIGN_REQUEST) => self.sign(&mut fields),
            _ => None,
        };
        match answer {
            Some(answer) => string(&answer),
            None => FAILURE.to_vec(),
        }
    }

    fn identities(&self) -> Vec<u8> {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let mut answer = [&[IDENTITIES_ANSWER][..], &count.to_be_bytes()].concat();
        for key in &self.0 {
            answer.extend([string(&key.public), string(b"")].concat());
        }
        answer
    }

    fn sign(&self, request: &mut Fields<'_>) -> Option<Vec<u8>> {
        let (public, data, flags) = (request.string()?, request.string()?, request.number()?);
        let key = self.0.iter().find(|key| key.public == public)?;
        let signature = key.signer.sign(data, flags)?;
        Some([&[SIGN_RESPONSE][..], &string(&signature)].concat())
    }
}

impl Key {
    fn new(signer: Signer) -> Self {
        Self { public: signer.public(), signer }
    }
}

impl Signer {
    fn parse(file: &[u8]) -> Result<Self, BadKey> {
        let text = std::str::from_utf8(file).map_err(|_| BadKey::Form)?;
        let (label, body) = armored(text).ok_or(BadKey::Form)?;
        if label == "ENCRYPTED PRIVATE KEY" || body.contains("ENCRYPTED") {
            return Err(BadKey::Passphrase);
        }
        let base64: String = body.split_ascii_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(base64);
        let bytes = bytes.map_err(|_| BadKey::Form)?;
        match label {
            "OPENSSH PRIVATE KEY" => openssh(&bytes),
            "RSA PRIVATE KEY" => {
                RsaKeyPair::from_der(&bytes).ok().map(Self::Rsa).ok_or(BadKey::Kind)
            }
            "EC PRIVATE KEY" => Self::ecdsa_der(&bytes).ok_or(BadKey::Kind),
            "PRIVATE KEY" => Self::pkcs8(&bytes).ok_or(BadKey::Kind),
            _ => Err(BadKey::Form),
        }
    }

    fn ecdsa_der(der: &[u8]) -> Option<Self> {
        CURVES.iter().find_map(|curve| {
            let pair = EcdsaKeyPair::from_private_key_der(curve.signing, der).ok()?;
            Some(Self::Ecdsa(curve, pair))
        })
    }

    fn pkcs8(der: &[u8]) -> Option<Self> {
        let ed25519 = || Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Self::Ed25519);
        let rsa = || RsaKeyPair::from_pkcs8(der).ok().map(Self::Rsa);
        ed25519().or_else(rsa).or_else(|| Self::ecdsa_der(der))
    }

    fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => {
                [string(b"ssh-ed25519"), string(pair.public_key().as_ref())].concat()
            }
            Self::Ecdsa(curve, pair) => [
                string(curve.algorithm.as_bytes()),
                string(curve.name.as_bytes()),
                string(pair.public_key().as_ref()),
            ]
            .concat(),
            Self::Rsa(pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref());
                [string(b"ssh-rsa"), integer(exponent), integer(modulus)].concat()
            }
        }
    }

    /// A signature with the name of its algorithm; none with SHA-1, which nobody should accept.
    fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (algorithm, signature) = match self {
            Self::Ed25519(pair) => ("ssh-ed25519", pair.sign(data).as_ref().to_vec()),
            Self::Ecdsa(curve, pair) => {
                let signature = pair.sign(&random, data).ok()?;
                let (r, s) = signature.as_ref().split_at_checked(curve.size)?;
                (curve.algorithm, [integer(r), integer(s)].concat())
            }
            Self::Rsa(pair) => {
                let (algorithm, padding) = match flags {
                    flags if flags & RSA_SHA2_512 != 0 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                    flags if flags & RSA_SHA2_256 != 0 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, data, &mut signature).ok()?;
                (algorithm, signature)
            }
        };
        Some([string(algorithm.as_bytes()), string(&signature)].concat())
    }
}

/// What is between the first `-----BEGIN X-----` and its end, and X.
fn armored(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    Some((label, body))
}

/// The first key of OpenSSH's own form.
fn openssh(bytes: &[u8]) -> Result<Signer, BadKey> {
    let rest = bytes.strip_prefix(b"openssh-key-v1\0").ok_or(BadKey::Form)?;
    let mut outer = Fields(rest);
    if outer.string().ok_or(BadKey::Form)? != b"none" {
        return Err(BadKey::Passphrase);
    }
    let private = || {
        let (_kdf, _options, _count) = (outer.string()?, outer.string()?, outer.number()?);
        let _public = outer.string()?;
        outer.string()
    };
    let mut private = Fields({ private }().ok_or(BadKey::Form)?);
    let checks = (private.number(), private.number());
    if checks.0.is_none() || checks.0 != checks.1 {
        return Err(BadKey::Form);
    }
    signer(&mut private).ok_or(BadKey::Kind)
}

fn signer(fields: &mut Fields<'_>) -> Option<Signer> {
    let kind = fields.string()?;
    match kind {
        b"ssh-ed25519" => {
            let (public, private) = (fields.string()?, fields.string()?);
            let seed = private.get(..32)?;
            let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
            Some(Signer::Ed25519(pair))
        }
        b"ssh-rsa" => {
            let mut number = || fields.string().map(unsigned);
            let (n, e, d) = (number()?, number()?, number()?);
            let (inverse, p, q) = (number()?, number()?, number()?);
            let components = KeyPairComponents {
                public_key: PublicKeyComponents { n, e },
                d,
                dP: &remainder(d, &less_one(p)),
                dQ: &remainder(d, &less_one(q)),
                p,
                q,
                qInv: inverse,
            };
            RsaKeyPair::from_components(&components).ok().map(Signer::Rsa)
        }
        _ => {
            let curve = CURVES.iter().find(|curve| curve.algorithm.as_bytes() == kind)?;
            let (_name, point, number) = (fields.string()?, fields.string()?, fields.string()?);
            let number = unsigned(number);
            let zeros = vec![0; curve.size.checked_sub(number.len())?];
            let private = [&zeros, number].concat();
            let pair =
                EcdsaKeyPair::from_private_key_and_public_key(curve.signing, &private, point);
            Some(Signer::Ecdsa(curve, pair.ok()?))
        }
    }
}

/// Modulus and exponent of an `RSAPublicKey` in DER: a sequence of two integers (RFC 8017, A.1.1).
fn rsa_numbers(der: &[u8]) -> (&[u8], &[u8]) {
    let numbers = || {
        let (sequence, _) = der_value(der, 0x30)?;
        let (modulus, rest) = der_value(sequence, 0x02)?;
        let (exponent, _) = der_value(rest, 0x02)?;
        Some((modulus, exponent))
    };
    numbers().expect("the library encodes keys that it has accepted")
}

/// The content of a value with this tag, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first().filter(|_| *found == tag)?;
    let (length, rest) = match first & 0x80 {
        0 => (usize::from(*first), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
    };
    rest.split_at_checked(length)
}

/// Fields of RFC 4251, section 5, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

/// `mpint`: no leading zeros but one where the number would look negative.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let number = unsigned(bytes);
    let negative = number.first().is_some_and(|byte| byte & 0x80 != 0);
    string(&[if negative { &[0][..] } else { &[] }, number].concat())
}

fn unsigned(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// An odd number less one.
fn less_one(odd: &[u8]) -> Vec<u8> {
    let mut even = odd.to_vec();
    if let Some(last) = even.last_mut() {
        *last &= 0xfe;
    }
    even
}

/// What is left of `number` after a division, bit by bit; both are unsigned and big-endian.
fn remainder(number: &[u8], by: &[u8]) -> Vec<u8> {
    let mut by = by.to_vec();
    by.insert(0, 0);
    let mut left = vec![0u8; by.len()];
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
        let mut carry = bit;
        for byte in left.iter_mut().rev() {
            (carry, *byte) = (*byte >> 7, *byte << 1 | carry);
        }
        if left >= by {
            let mut borrow = false;
            for (byte, by) in left.iter_mut().zip(&by).rev() {
                let (once, first) = byte.overflowing_sub(*by);
                let (twice, second) = once.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (twice, first || second);
            }
        }
    }
    unsigned(&left).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders() {
        for (number, by, want) in [
            (&[17][..], &[5][..], &[2][..]),
            (&[1, 0], &[255], &[1]),
            (&[255, 255, 255], &[1, 0], &[255]),
            (&[4], &[5], &[4]),
            (&[10], &[5], &[]),
            (&[0x12, 0x34, 0x56, 0x78], &[0x9a, 0xbc], &[0x20, 0x18]),
        ] {
            let number_of = |bytes: &[u8]| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
            let left = number_of(number) % number_of(by);
            assert_eq!(number_of(&remainder(number, by)), left, "{number:?} {by:?}");
            if number.len() < 4 {
                assert_eq!(remainder(number, by), want, "{number:?} {by:?}");
            }
        }
    }

    #[test]
    fn integers_have_no_sign_and_no_zeros() {
        for (bytes, want) in [
            (&[0, 0, 1][..], &[0, 0, 0, 1, 1][..]),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
            (&[0], &[0, 0, 0, 0]),
        ] {
            assert_eq!(integer(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn files_that_are_no_keys() {
        let pem = |label: &str, body: &str| {
            format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
        };
        for (text, want) in [
            ("nothing".to_owned(), BadKey::Form),
            (pem("CERTIFICATE", "AAAA"), BadKey::Form),
            (pem("PRIVATE KEY", "AAAA"), BadKey::Kind),
            (pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nAAAA"), BadKey::Passphrase),
            (pem("ENCRYPTED PRIVATE KEY", "AAAA"), BadKey::Passphrase),
            (pem("OPENSSH PRIVATE KEY", "AAAA"), BadKey::Form),
        ] {
            assert_eq!(KeyRing::parse(&[text.clone().into_bytes()]).err(), Some(want), "{text}");
        }
    }

    fn ssh_keygen(arguments: &[&str], input: &str, socket: &std::path::Path) -> String {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut command = Command::new("ssh-keygen");
        command.args(arguments).env("SSH_AUTH_SOCK", socket).stdin(Stdio::piped());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("ssh-keygen is missing: apt-get install openssh-client");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// OpenSSH has an agent sign, and verifies what it gets.
    #[test]
    fn openssh_accepts_the_signatures_of_all_keys() {
        use crate::step::mounts::agent::{AgentSource, Forwarder};
        use std::os::fd::AsFd as _;
        let home = tempfile::tempdir().expect("a directory");
        let path = |name: &str| home.path().join(name).display().to_string();
        let socket = home.path().join("socket");
        let names = [
            ("ed25519", "-t ed25519"),
            ("p256", "-t ecdsa -b 256"),
            ("p521", "-t ecdsa -b 521"),
            ("rsa", "-t rsa -b 2048"),
            ("rsa-pem", "-t rsa -b 2048 -m PEM"),
            ("p384-pem", "-t ecdsa -b 384 -m PEM"),
            ("p256-pkcs8", "-t ecdsa -b 256 -m PKCS8"),
        ];
        let mut files = Vec::new();
        for (name, options) in names {
            let file = path(name);
            let fixed = ["-q", "-N", "", "-f", &file];
            let options: Vec<&str> = options.split(' ').chain(fixed).collect();
            ssh_keygen(&options, "", &socket);
            files.push(std::fs::read(&file).expect("a key"));
            // Only the agent has it from here on.
            std::fs::remove_file(&file).expect("it is there");
        }
        let keys = AgentSource::Keys(std::sync::Arc::new(KeyRing::parse(&files).expect("keys")));
        let dir = std::fs::File::open(home.path()).expect("a directory");
        let started = Forwarder::start(dir.as_fd(), "socket", &keys, 0o600, (0, 0));
        let _forwarder = started.expect("a socket");
        for (name, _) in names {
            let public = path(&format!("{name}.pub"));
            let sign = ["-Y", "sign", "-n", "file", "-f", &public];
            let signature = ssh_keygen(&sign, "message", &socket);
            let file = path("signature");
            std::fs::write(&file, signature).expect("written");
            let check = ["-Y", "check-novalidate", "-n", "file", "-s", &file];
            let said = ssh_keygen(&check, "message", &socket);
            assert!(said.contains("Good \"file\" signature"), "{name}: {said}");
        }
        let encrypted = path("encrypted");
        let options = ["-q", "-t", "ed25519", "-N", "password", "-f", &encrypted];
        ssh_keygen(&options, "", &socket);
        let encrypted = std::fs::read(&encrypted).expect("a key");
        assert_eq!(KeyRing::parse(&[encrypted]).err(), Some(BadKey::Passphrase));
    }
}
