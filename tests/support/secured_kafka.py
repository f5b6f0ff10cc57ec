"""A locked-down Kafka: SCRAM, TLS, client certificates, and an authorizer that denies by default."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterable, Iterator
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
from consumer.ops.acls import Resource
from tests.support.certificates import Authority

LISTENERS: Final = {
    "SCRAM": "SASL_PLAINTEXT",  # a password
    "TLS": "SSL",  # encrypted, anonymous
    "MTLS": "SSL",  # a client certificate
    "EXPIRED": "SSL",  # the broker's certificate has expired
    "OTHERNAME": "SSL",  # the broker's certificate is for another name
}
PASSWORD: Final = "right-password"  # noqa: S105 - of a broker that lives for one test run

Right = tuple[Resource, str, str]
"""A kind of resource, a name or ``prefix*``, and an operation: (``topic``, ``events``, ``Read``)."""

_KINDS: Final[dict[Resource, ResourceType]] = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS: Final = {"DescribeConfigs": AclOperation.DESCRIBE_CONFIGS}


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

    def allow(self, user: str, *rights: Right) -> None:
        """Grant rights to a user."""
        if not rights:
            return
        for answer in self.admin.create_acls([_binding(user, *right) for right in rights]).values():
            answer.result(10)

    def revoke(self, user: str, *rights: Right) -> None:
        """Take rights away."""
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
            for binding in (_binding(user, *right) for right in rights)
        ]
        for answer in self.admin.delete_acls(filters).values():
            answer.result(10)


def granted_by(commands: Iterable[str]) -> list[Right]:
    """Return the rights that ``kafka-acls.sh`` commands grant."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--bootstrap-server", required=True)
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--operation", action="append", required=True)
    parser.add_argument("--resource-pattern-type", choices=["literal", "prefixed"], default="literal")
    for kind in _KINDS:
        parser.add_argument(f"--{kind}", action="append", dest=kind, default=[])
    rights: list[Right] = []
    for command in commands:
        given = vars(parser.parse_args(shlex.split(command)[1:]))
        pattern = "*" if given["resource_pattern_type"] == "prefixed" else ""
        rights += [
            (kind, name + pattern, operation)
            for kind in _KINDS
            for name in given[kind]
            for operation in given["operation"]
        ]
    return rights


def _binding(user: str, kind: Resource, name: str, operation: str) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL
    return AclBinding(
        _KINDS[kind],
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
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        yield SecuredKafka(broker, authority, admin)
