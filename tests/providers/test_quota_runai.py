"""Run:AI's REST API as a source of quotas, against a strict stand-in and its faults."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from osmo_ray.providers.quota import QuotaError, QuotaQueue, YamlQuota
from osmo_ray.providers.quota_far import FarQuota
from osmo_ray.providers.quota_runai import RunaiOrigin, RunaiScope
from osmo_ray.providers.quotas import QuotaSource, open_quota
from osmo_ray.providers.runai_client import Login, RunaiClient, RunaiError
from tests.servers.runai import State, example, serve, unit

SCOPE = RunaiScope()


class Bench:
    """A stand-in, and providers that read it; sleeps are kept instead of slept."""

    def __init__(self) -> None:
        self.state = example()
        self.server = serve(self.state)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.slept: list[float] = []
        self.now = 0.0
        self.made: list[FarQuota] = []

    def quota(self, scope: RunaiScope = SCOPE, secret: str = "sesame", timeout: float = 5.0) -> FarQuota:
        login = Login(self.url, "osmo", secret, timeout)
        self.made.append(
            FarQuota(RunaiOrigin(RunaiClient(login, self.slept.append, lambda: self.now), scope), scope.interval)
        )
        return self.made[-1]

    def close(self) -> None:
        self.state.let_go.set()
        for quota in self.made:
            quota.close()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def runai() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()
    assert bench.state.refused == []


def read(quota: FarQuota):
    quota.refresh()
    return quota._now


def test_departments_become_parents_and_projects_leaves_that_are_pools(runai: Bench):
    found = read(runai.quota())
    assert found.queues == (
        QuotaQueue("department/research", gpu=(80.0, -1.0, 1.0)),
        QuotaQueue("department/other", gpu=(20.0, 40.0, 0.0)),
        QuotaQueue("train", "department/research", gpu=(30.0, 70.0, 1.0)),
        QuotaQueue("eval", "department/research", gpu=(50.0, -1.0, 3.0)),
        QuotaQueue("lab", "department/other"),
    )
    assert not found.stale and found.resolve("train") == "train" and set(found.pools) == {"train", "eval", "lab"}


def test_units_ranks_node_pools_and_clusters_are_kept_apart(runai: Bench):
    memory = {"deserved": 3, "limit": 4, "overQuotaWeight": 2, "units": "Mib"}
    cpu = {"deserved": 1500, "limit": None, "overQuotaWeight": 1}
    runai.state.departments = []
    runai.state.projects = [
        unit("1", "a", (1, 2, 1), pool="h100", rank="High", cpu=cpu, memory=memory),
        unit("2", "elsewhere", (1, 2, 1), pool="default"),
        unit("3", "a", (9, 9, 9), pool="h100", cluster="c2"),
    ]
    found = read(runai.quota(RunaiScope("h100", "c1", {"High": 120})))
    assert found.queues == (
        QuotaQueue("a", "", 120, (1.0, 2.0, 1.0), (1.5, -1.0, 1.0), (3.0 * 2**20, 4.0 * 2**20, 2.0)),
    )
    assert "set runai_cluster" in read(runai.quota(RunaiScope("h100"))).error


def test_the_older_shape_is_understood(runai: Bench):
    runai.state.departments = []
    old = {"id": 7, "name": "old", "deservedGpus": 2.5, "maxAllowedGpus": 4, "gpuOverQuotaWeight": 3}
    runai.state.projects = [old]
    assert read(runai.quota()).queues == (QuotaQueue("old", gpu=(2.5, 4.0, 3.0)),)


def test_all_pages_are_read(runai: Bench):
    runai.state.departments = []
    runai.state.projects = [unit(str(n), f"p{n}", (n, -1, 1)) for n in range(23)]
    runai.state.most = 5
    assert [q.gpu[0] for q in read(runai.quota()).queues] == list(range(23))
    assert runai.state.seen.count("GET /api/v1/org-unit/projects") == 5


@pytest.mark.parametrize("fault", ["cut", "half", "loop", "skip", "text", "array", "429", "500", "503", "expired"])
def test_a_passing_fault_is_outlived(runai: Bench, fault: str):
    runai.state.faults.extend([fault])
    found = read(runai.quota())
    assert not found.stale and len(found.queues) == 5
    assert runai.state.faults == type(runai.state.faults)()
    assert runai.slept == ([] if fault == "expired" else [7.0] if fault == "429" else [0.5])


@pytest.mark.parametrize("fault", ["cut", "half", "loop", "text", "429", "500", "slow", "403"])
def test_a_lasting_fault_keeps_the_last_good_answer_stale_until_it_ends(runai: Bench, fault: str):
    quota = runai.quota(timeout=0.2 if fault == "slow" else 5.0)
    good = read(quota)
    runai.state.faults.extend([fault] * 4)
    stale = read(quota)
    assert stale.stale and stale.queues == good.queues and stale.error == quota.error != ""
    assert "sesame" not in stale.error
    runai.state.faults.clear()
    again = read(quota)
    assert again == good and not quota.error


@pytest.mark.parametrize("fault", ["cut", "500", "text"])
def test_faults_of_the_token_call_are_outlived_too(runai: Bench, fault: str):
    runai.state.token_faults.append(fault)
    assert not read(runai.quota()).stale


def test_a_token_is_used_again_and_renewed_before_it_ends(runai: Bench):
    quota = runai.quota()
    runai.now = time.time()
    read(quota), read(quota)
    assert runai.state.seen.count("POST /api/v1/token") == 1
    runai.now += 3600 - 30
    runai.state.lifetime = 9000
    assert not read(quota).stale
    assert runai.state.seen.count("POST /api/v1/token") == 2


def test_wrong_credentials_say_which_settings_to_check_and_are_not_tried_again(runai: Bench):
    found = read(runai.quota(secret="wrong"))
    assert found.queues == () and "runai_secret_file" in found.error and runai.slept == []


def test_a_project_without_its_department_leaves_what_was_in_force(runai: Bench):
    quota = runai.quota()
    good = read(quota)
    runai.state.departments.pop()
    stale = read(quota)
    assert stale.stale and stale.queues == good.queues and "project lab" in stale.error


def test_an_answer_that_did_not_change_is_the_same_object(runai: Bench):
    quota = runai.quota()
    first = read(quota)
    assert read(quota) is first
    runai.state.projects[0]["resources"][0]["gpu"]["deserved"] = 31
    changed = read(quota)
    assert changed.version != first.version and changed.queues[2].gpu[0] == 31


def test_nothing_known_is_not_no_quotas_and_the_reader_starts_at_the_first_look(runai: Bench):
    quota = runai.quota()
    first = quota.snapshot()
    assert first is not None and (first.queues == () or len(first.queues) == 5)
    for _ in range(500):
        found = quota.snapshot()
        if found is not None and not found.stale:
            break
        runai.state.let_go.wait(0.01)
    assert found is not None and len(found.queues) == 5


def test_a_secret_never_goes_over_plain_http_to_another_host():
    with pytest.raises(RunaiError, match="https"):
        Login("http://runai.example.com", "osmo", "sesame")
    assert "sesame" not in repr(Login("https://runai.example.com", "osmo", "sesame"))


def test_settings_choose_the_source(runai: Bench, tmp_path: Path):
    assert isinstance(open_quota(QuotaSource(tmp_path)), YamlQuota)
    (tmp_path / "secret").write_text("sesame\n")
    secret = str(tmp_path / "secret")
    made = open_quota(QuotaSource(tmp_path, "runai", runai.url, "osmo", secret, ranks="High=120, Low=80"))
    assert isinstance(made, FarQuota) and len(read(made).queues) == 5
    made.close()
    for bad, said in (
        (QuotaSource(tmp_path, "moon"), "file, runai, kai or kueue"),
        (QuotaSource(tmp_path, "runai", runai.url, "osmo", str(tmp_path / "none")), "runai_secret_file"),
        (QuotaSource(tmp_path, "runai", runai.url, "osmo", secret, ranks="High"), "NAME=NUMBER"),
        (QuotaSource(tmp_path, "runai", "http://example.com", "osmo", secret), "https"),
    ):
        with pytest.raises(QuotaError, match=said):
            open_quota(bad)


def test_the_stand_in_refuses_what_the_reference_does_not_name():
    import httpx

    state = State()
    server = serve(state)
    url = f"http://127.0.0.1:{server.server_port}"
    calls = [
        ("GET", "/api/v1/projects"),
        ("PUT", "/api/v1/org-unit/projects"),
        ("GET", "/api/v1/org-unit/projects?page=2"),
    ]
    with httpx.Client(trust_env=False) as http:
        assert [http.request(m, url + p).status_code for m, p in calls] == [404, 405, 400]
        assert http.get(f"{url}/api/v1/org-unit/projects").status_code == 401
    server.shutdown()
    server.server_close()
    assert len(state.refused) == 3


def test_a_secret_that_was_changed_is_taken_with_the_next_token(runai: Bench, tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("old\n")
    quota = open_quota(QuotaSource(tmp_path, "runai", runai.url, "osmo", str(file)))
    assert isinstance(quota, FarQuota)
    runai.made.append(quota)
    quota._stop.set()
    assert "check runai_client_id" in read(quota).error
    file.write_text("sesame\n")
    assert not read(quota).error
    file.unlink()
    runai.state.tokens.clear()
    assert "runai_secret_file cannot be read" in read(quota).error


def self_signed(certificate: Path, key: Path) -> None:
    """Of loopback, for two days."""
    secret, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    made = x509.CertificateBuilder(name, name, secret.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    signed = made.sign(secret, hashes.SHA256())
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(secret.private_bytes(serialization.Encoding.PEM, form, plain))


def test_a_private_authority(runai: Bench, tmp_path: Path):
    certificate, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    self_signed(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    runai.server.socket = context.wrap_socket(runai.server.socket, server_side=True)
    (tmp_path / "secret").write_text("sesame")
    source = QuotaSource(tmp_path, "runai", runai.url.replace("http:", "https:"), "osmo", str(tmp_path / "secret"))
    for ca_file, said in ((str(certificate), ""), ("", "CERTIFICATE_VERIFY_FAILED")):
        quota = open_quota(replace(source, ca_file=ca_file))
        assert isinstance(quota, FarQuota)
        runai.made.append(quota)
        quota._stop.set()
        quota._origin._client._sleep = runai.slept.append
        error = read(quota).error
        assert said in error if said else not error
    with pytest.raises(QuotaError, match="runai_ca_file"):
        open_quota(replace(source, ca_file=str(tmp_path / "absent")))
