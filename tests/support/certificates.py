"""Certificates that live for one test run."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASS_PHRASE: Final = "pass-phrase"  # noqa: S105 - of keys that live for one test run


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives for one test run."""

    folder: Path
    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def certificate(self) -> Path:
        """The authority's own certificate, PEM."""
        path = self.folder / f"{self.name}-ca.pem"
        if not path.exists():
            path.write_bytes(self._sign(self.key, self.name, 1, None, is_authority=True))
        return path

    def issue(
        self, name: str, *, days: int = 1, host: str | None = None, pass_phrase: str | None = None
    ) -> tuple[Path, Path]:
        """Return a certificate and its key, PEM.

        Args:
            name: The common name.
            days: How long it is valid from now on; negative if it has expired.
            host: The host name or address that it is for.
            pass_phrase: Encrypts the key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate_path.write_bytes(self._sign(key, name, days, host))
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if pass_phrase is not None:
            encryption = serialization.BestAvailableEncryption(pass_phrase.encode())
        encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        key_path.write_bytes(encoded)
        return certificate_path, key_path

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        days: int,
        host: str | None,
        *,
        is_authority: bool = False,
    ) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if host is not None:
            try:
                subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                subject = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
