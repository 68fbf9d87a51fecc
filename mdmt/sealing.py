"""Sealed messages: whoever stores them on the way cannot read them later.

Hybrid encryption as in ECIES: X25519 (RFC 7748) with a fresh key of the sender, HKDF-SHA256
(RFC 5869), ChaCha20-Poly1305 (RFC 8439). A message is sealed to a public key that is used once.
When its private half is deleted, nobody can open the message any more.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

RECORD, KEY = "seal", "key"
"""Where an order has the public key, and a sealed reply its content."""
_SIZE = 32
"""Bytes of a public key."""
_NONCE = bytes(12)
"""Each key encrypts one message: the nonce need not change."""


def new_seal() -> tuple[X25519PrivateKey, bytes]:
    """Draw a key pair for one message.

    Returns
    -------
    X25519PrivateKey
        Opens the message. Keep it in memory only, and drop it afterwards.
    bytes
        The public key, 32 bytes.
    """
    private = X25519PrivateKey.generate()
    return private, private.public_key().public_bytes_raw()


def seal(content: bytes, key: bytes, kind: str) -> bytes:
    """Encrypt a message.

    Parameters
    ----------
    content : bytes
    key : bytes
        Public key of the receiver.
    kind : str
        Type of the message. It is authenticated, but not sent: the receiver must know it.

    Returns
    -------
    bytes
        48 bytes longer than `content`: the sender's public key and the authentication tag.

    Raises
    ------
    ValueError
        `key` is not a public key.
    """
    sender = X25519PrivateKey.generate()
    own = sender.public_key().public_bytes_raw()
    cipher = _cipher(sender, X25519PublicKey.from_public_bytes(key), own, key)
    return own + cipher.encrypt(_NONCE, content, _associated(kind, key))


def unseal(sealed: bytes, private: X25519PrivateKey, kind: str) -> bytes:
    """Decrypt a message of this kind.

    Raises
    ------
    ValueError
        The message was not sealed to this key, is of another kind, or was changed.
    """
    sender, own = sealed[:_SIZE], private.public_key().public_bytes_raw()
    cipher = _cipher(private, X25519PublicKey.from_public_bytes(sender), sender, own)
    try:
        return cipher.decrypt(_NONCE, memoryview(sealed)[_SIZE:], _associated(kind, own))
    except InvalidTag as error:
        raise ValueError("the message was changed, or sealed to another key") from error


def _cipher(
    private: X25519PrivateKey, public: X25519PublicKey, sender: bytes, receiver: bytes
) -> ChaCha20Poly1305:
    """Derive the key of one message from the secret that both sides share."""
    derive = HKDF(SHA256(), 32, salt=None, info=b"mdmt seal 1" + sender + receiver)
    return ChaCha20Poly1305(derive.derive(private.exchange(public)))


def _associated(kind: str, key: bytes) -> bytes:
    return key + kind.encode()
