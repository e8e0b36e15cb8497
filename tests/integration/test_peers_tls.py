"""Peers over TLS: reached by the IP of a hello, believed by the name in the peer URL."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.peer_members import TestMember, open_raw, running, until

from oarlock.peers.client import PeerUnreachable
from oarlock.peers.hello import HelloKind
from oarlock.raft.messages import Heartbeat
from oarlock.raft.types import Member


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("*.peers.invalid")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "test.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_the_name_is_verified_and_the_ip_is_dialled(certificate: Path) -> None:
    a, b = TestMember("a", certificate=certificate), TestMember("b", certificate=certificate)
    async with running(a, b):
        # No name here resolves: a member is reached only where a hello has told its IP.
        a.peer_url, b.peer_url = f"https://a.peers.invalid:{a.port}", f"https://b.peers.invalid:{b.port}"
        a.transport.set_peers([b.member])
        with pytest.raises(PeerUnreachable):
            await a.transport.dial(b.member)
        _, writer = await open_raw(a, "/raft/stream?kind=data", b.hello_to(a, HelloKind.DATA))
        await until(lambda: a.transport.connected(b.id) and b.transport.connected(a.id), "both are open")
        assert (await a.transport.dial(b.member)).node_id == b.id
        assert a.transport.send(Heartbeat(a.id, b.id, 1, 0, 1))
        await until(lambda: b.got, "it arrives")
        writer.close()
        # The same member under a name that the certificate does not have is not believed, whatever its IP.
        with pytest.raises(PeerUnreachable):
            await a.transport.dial(Member(b.id, f"https://b.elsewhere.invalid:{b.port}", ""))
