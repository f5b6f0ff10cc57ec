"""A locked-down Kafka: SCRAM, TLS, client certificates, and an authorizer that denies by default."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # not in __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from consumer.embedded_kafka.broker import EmbeddedKafka
from tests.support.certificates import Authority

LISTENERS: Final = {
    "SCRAM": "SASL_PLAINTEXT",  # a password
    "TLS": "SSL",  # encrypted, anonymous
    "MTLS": "SSL",  # a client certificate
    "EXPIRED": "SSL",  # the broker's certificate has expired
    "OTHERNAME": "SSL",  # the broker's certificate is for another name
}
PASSWORD: Final = "right-password"  # noqa: S105 - of a broker that lives for one test run


@dataclass(frozen=True)
class SecuredKafka:
    """The running broker. Its plain listener belongs to a super user."""

    broker: EmbeddedKafka
    authority: Authority
    admin: AdminClient

    def scram(self, user: str, password: str = PASSWORD) -> dict[str, Any]:
        """Return the client settings of a user with a password."""
        return {
            "bootstrap.servers": self.broker.listener_address("SCRAM"),
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-256",
            "sasl.username": user,
            "sasl.password": password,
        }

    def tls(self, listener: str = "TLS", **settings: str) -> dict[str, Any]:
        """Return the client settings of a TLS connection; keywords have ``_`` for ``.``."""
        own = {key.replace("_", "."): value for key, value in settings.items()}
        return {
            "bootstrap.servers": self.broker.listener_address(listener),
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.authority.certificate),
            **own,
        }

    def add_user(self, user: str, password: str = PASSWORD) -> None:
        """Add a user, or change its password."""
        mechanism = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        change = UserScramCredentialUpsertion(user, mechanism, password.encode())
        for answer in self.admin.alter_user_scram_credentials([change]).values():
            answer.result(10)

    def allow(self, user: str, *grants: tuple[str, str, str]) -> None:
        """Grant operations to a user: (``topic``, name or ``prefix*``, ``Read``)."""
        if not grants:
            return
        for answer in self.admin.create_acls([_binding(user, *grant) for grant in grants]).values():
            answer.result(10)

    def revoke(self, user: str, *grants: tuple[str, str, str]) -> None:
        """Take grants away."""
        filters = [
            AclBindingFilter(
                binding.restype,
                binding.name,
                binding.resource_pattern_type,
                binding.principal,
                binding.host,
                binding.operation,
                binding.permission_type,
            )
            for binding in (_binding(user, *grant) for grant in grants)
        ]
        for answer in self.admin.delete_acls(filters).values():
            answer.result(10)


_OPERATIONS: Final = {"DescribeConfigs": AclOperation.DESCRIBE_CONFIGS}


def _binding(user: str, resource: str, name: str, operation: str) -> AclBinding:
    kinds = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "cluster": ResourceType.BROKER,
        "transactional-id": ResourceType.TRANSACTIONAL_ID,
    }
    pattern = ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL
    return AclBinding(
        kinds[resource],
        name.removesuffix("*"),
        pattern,
        f"User:{user}",
        "*",
        _OPERATIONS.get(operation) or AclOperation[operation.upper()],
        AclPermissionType.ALLOW,
    )


@contextlib.contextmanager
def secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """Start the broker."""
    authority = Authority(folder, "authority")
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.scram.scram-sha-256.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    certificates = {
        "TLS": authority.issue("broker", host="127.0.0.1"),
        "MTLS": authority.issue("broker-mtls", host="127.0.0.1"),
        "EXPIRED": authority.issue("broker-expired", host="127.0.0.1", days=-1),
        "OTHERNAME": authority.issue("broker-othername", host="kafka.example.org"),
    }
    for listener, (certificate, key) in certificates.items():
        store = folder / f"{listener}-keystore.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        name = f"listener.name.{listener.lower()}.ssl"
        properties |= {
            f"{name}.keystore.type": "PEM",
            f"{name}.keystore.location": str(store),
            f"{name}.truststore.type": "PEM",
            f"{name}.truststore.location": str(authority.certificate),
            f"{name}.client.auth": "required" if listener == "MTLS" else "none",
        }
    with EmbeddedKafka(folder / "kafka", properties=properties, listeners=LISTENERS) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        yield SecuredKafka(broker, authority, admin)
