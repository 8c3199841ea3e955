"""The wire contract of workflows: shapes, defaults, errors, and that nothing is left behind by a refusal."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from osmo_ray.spec.attempt import AttemptKey
from osmo_ray.spec.model import WorkflowSpec
from osmo_ray.spec.reason import Reason
from tests.api.world import HELLO, World

NAIVE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?")
POST = "/api/pool/default/workflow"


def post(client: TestClient, text: str = HELLO, **params: Any) -> Any:
    return client.post(POST, params=params, json={"file": text})


def test_a_submission_answers_with_id_and_links_and_wakes_the_controller(world: World, client: TestClient) -> None:
    reply = post(client)
    assert reply.status_code == 200
    assert reply.json() == {
        "name": "hello-1",
        "overview": "http://127.0.0.1:8000/workflows/hello-1",
        "logs": "http://127.0.0.1:8000/api/workflow/hello-1/logs?last_n_lines=1000",
        "spec": "http://127.0.0.1:8000/api/workflow/hello-1/spec",
        "dashboard_url": "http://127.0.0.1:8000/workflows/hello-1",
    }
    assert world.woken == 1
    assert post(client).json()["name"] == "hello-2"


def test_a_dry_run_renders_and_stores_nothing(world: World, client: TestClient) -> None:
    text = "workflow:\n  name: x{{n}}\n  bad: {{n}} # {{output}}\ndefault-values: {n: 1}\n"
    reply = client.post(POST, params={"dry_run": "True"}, json={"file": text, "set_variables": ["n=7"]})
    assert reply.status_code == 200
    assert reply.json()["name"] == "x7"
    assert reply.json()["spec"] == "workflow:\n  name: x7\n  bad: 7 # {{output}}"
    assert client.get("/api/workflow", params={"all_users": True}).json() == {"workflows": [], "more_entries": False}


def test_a_validation_says_so_and_stores_nothing(client: TestClient) -> None:
    reply = post(client, validation_only=True)
    assert reply.json()["logs"] == "Workflow validation succeeded."
    assert reply.json()["name"] == "hello"
    assert client.get("/api/workflow").json()["workflows"] == []


@pytest.mark.parametrize(
    ("text", "params", "code", "message"),
    [
        ("workflow: [", {}, "USAGE", "not valid YAML"),
        ("workflow: {name: x}", {}, "USAGE", "needs `tasks` or `groups`"),
        (HELLO.replace("task: a", "task: c"), {}, "USAGE", "there is no task 'c'"),
        (HELLO + "    resource: big\n", {}, "RESOURCE", "asks for resource 'big'"),
        (HELLO.replace("task: a", "task: old-3:a"), {}, "USAGE", "there is no workflow old-3"),
        (HELLO.replace("hello]", "{{ x }}]"), {}, "USAGE", "UndefinedError"),
        (HELLO, {"priority": "urgent"}, "USER", "priorities: HIGH"),
        (HELLO, {"env_vars": ["A"]}, "USAGE", "NAME=VALUE"),
    ],
)
def test_a_refused_submission_says_why_and_leaves_nothing(
    client: TestClient, text: str, params: dict[str, Any], code: str, message: str
) -> None:
    reply = post(client, text, **params)
    assert reply.status_code == 400
    assert reply.json()["error_code"] == code
    assert message in reply.json()["message"]
    assert reply.json()["workflow_id"] is None
    listed = client.get("/api/workflow", params={"statuses": ["FAILED_SUBMISSION", "PENDING"]})
    assert listed.json()["workflows"] == []


def test_file_and_workflow_id_exclude_each_other(client: TestClient) -> None:
    for reply in (client.post(POST), client.post(POST, params={"workflow_id": "x-1"}, json={"file": HELLO})):
        assert (reply.status_code, reply.json()["error_code"]) == (400, "USAGE")
    assert client.post(POST, params={"workflow_id": "x-1"}).json()["error_code"] == "DATABASE"


def test_an_unknown_pool_and_an_unknown_field(client: TestClient) -> None:
    reply = client.post("/api/pool/nowhere/workflow", json={"file": HELLO})
    assert (reply.status_code, reply.json()["error_code"]) == (400, "USER")
    reply = client.post(POST, json={"file": HELLO, "fiel": 1})
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", "fiel"]


def test_resubmitting_repeats_the_stored_spec_with_its_environment(world: World, client: TestClient) -> None:
    post(client, env_vars=["A=1=2"])
    assert client.post(POST, params={"workflow_id": "hello-1"}).json()["name"] == "hello-2"
    workflow = world.store.find("hello-2")
    assert workflow is not None
    assert (workflow.parent, workflow.spec.task("a").environment) == ("hello-1", {"A": "1"})


def test_set_variables_and_template_are_kept(world: World, client: TestClient) -> None:
    text = HELLO.replace("hello]", '"{{x}}{{output}}"]')
    reply = client.post(POST, json={"file": text, "set_variables": ["x=1.50"], "set_string_variables": []})
    assert reply.status_code == 200, reply.text
    spec = client.get("/api/workflow/hello-1/spec")
    assert spec.headers["content-type"].startswith("application/yaml")
    assert "1.5{{output}}" in spec.text
    assert client.get("/api/workflow/hello-1/spec", params={"use_template": "True"}).text == text


def test_the_view_of_a_workflow(world: World, client: TestClient) -> None:
    name = world.submit()
    (key,) = world.start(name, "a")
    world.now += 5
    world.finish(name, key, 3, reason=Reason("ExitCode", "the command ended with exit code 3"))
    view = client.get(f"/api/workflow/{name}").json()
    assert view["status"] == "FAILED"
    assert (view["submitted_by"], view["pool"], view["backend"], view["priority"]) == (
        "ann",
        "default",
        "local",
        "NORMAL",
    )
    assert (view["duration"], view["queued_time"]) == (5.0, 0.0)
    assert NAIVE.fullmatch(view["submit_time"])
    a, b = view["groups"]
    assert (a["name"], a["status"], a["downstream_groups"], a["remaining_upstream_groups"]) == (
        "a-group",
        "FAILED",
        ["b-group"],
        None,
    )
    assert b["status"] == "FAILED_UPSTREAM"
    task = a["tasks"][0]
    assert (task["exit_code"], task["status"], task["node_name"], task["lead"]) == (3, "FAILED", "n1", True)
    assert "exit code 3" in task["failure_message"]
    assert task["error_logs"].endswith("error_logs?last_n_lines=1000&task_name=a&retry_id=0")
    assert b["tasks"][0]["error_logs"] is None
    assert b["tasks"][0]["exit_code"] == 3000
    assert client.get(f"/api/workflow/{view['uuid']}").json()["name"] == name
    assert client.get(f"/api/workflow/{name}", params={"skip_groups": "True"}).json()["groups"] == []
    verbose = client.get(f"/api/workflow/{name}", params={"verbose": "True"}).json()
    assert verbose["groups"] == view["groups"]


def test_an_unknown_workflow_is_a_400(client: TestClient) -> None:
    for path in ("", "/spec", "/logs", "/events", "/error_logs"):
        reply = client.get(f"/api/workflow/nope-1{path}")
        assert (reply.status_code, reply.json()["error_code"], reply.json()["workflow_id"]) == (
            400,
            "DATABASE",
            "nope-1",
        )


def test_lists_default_to_the_caller_and_page(world: World, client: TestClient) -> None:
    for number in range(5):
        world.now += 1
        world.submit(user="ann" if number % 2 == 0 else "bob")
    mine = client.get("/api/workflow", headers={"x-osmo-user": "ann"}).json()
    assert [w["name"] for w in mine["workflows"]] == ["hello-1", "hello-3", "hello-5"]
    first = client.get("/api/workflow", params={"all_users": "True", "limit": 2, "order": "DESC"}).json()
    assert ([w["name"] for w in first["workflows"]], first["more_entries"]) == (["hello-5", "hello-4"], True)
    late = client.get("/api/workflow", params={"all_users": "True", "submitted_after": "2027-01-15T08:00:04"}).json()
    assert [w["name"] for w in late["workflows"]] == ["hello-4", "hello-5"]
    assert client.get("/api/workflow", params={"limit": 1001}).json()["error_code"] == "USER"
    assert client.get("/api/workflow", params={"submitted_after": "noon"}).status_code == 400
    keys = {"user", "name", "workflow_uuid", "submit_time", "start_time", "end_time", "queued_time", "duration"}
    keys |= {"status", "overview", "logs", "error_logs", "grafana_url", "dashboard_url", "pool", "app_owner"}
    assert set(mine["workflows"][0]) == keys | {"app_name", "app_version", "priority"}


def test_cancel_commits_before_it_answers_and_once_only(world: World, client: TestClient) -> None:
    name = world.submit()
    world.start(name, "a")
    reply = client.post(f"/api/workflow/{name}/cancel", params={"message": "enough"}, headers={"x-osmo-user": "eve"})
    assert (reply.status_code, reply.json()) == (200, {"name": name})
    workflow = world.store.find(name)
    assert workflow is not None
    assert (workflow.status.value, workflow.cancelled_by) == ("FAILED_CANCELED", "eve")
    assert world.store.outgoing()
    again = client.post(f"/api/workflow/{name}/cancel")
    assert (again.status_code, again.json()["error_code"], again.json()["workflow_id"]) == (400, "USER", name)
    assert client.post(f"/api/workflow/{name}/cancel", params={"force": "True"}).status_code == 200


def test_a_cancel_that_loses_the_race_decides_again(world: World, client: TestClient, monkeypatch: Any) -> None:
    name = world.submit()
    real, raced = world.store.commit, []

    def commit(decisions: Any, lease: Any = None) -> Any:
        if not raced:
            raced.append(True)
            monkeypatch.setattr(world.store, "commit", real)
            world.start(name, "a")
        return real(decisions, lease)

    monkeypatch.setattr(world.store, "commit", commit)
    assert client.post(f"/api/workflow/{name}/cancel").status_code == 200
    workflow = world.store.find(name)
    assert workflow is not None
    assert workflow.status.value == "FAILED_CANCELED"


def test_bulk_cancel_names_what_failed(world: World, client: TestClient) -> None:
    names = [world.submit(), world.submit()]
    reply = client.post("/api/x/workflows/cancel", json={"names": [*names, "nope-1"]})
    assert reply.json() == {"canceled": names, "failed": {"nope-1": "Workflow nope-1 not found."}}
    world.submit(user="ann")
    mine = client.post("/api/x/workflows/cancel", json={"all_mine": True}, headers={"x-osmo-user": "ann"}).json()
    assert mine["canceled"] == ["hello-3"]


def test_delete_takes_finished_ones_with_their_data(world: World, client: TestClient) -> None:
    name = world.submit()
    assert client.delete(f"/api/x/workflow/{name}").status_code == 400
    (key,) = world.start(name, "a")
    world.finish(name, key, 1, {"x": b"1"})
    world.ship(name, key)
    assert len(list(world.objects.list(""))) >= 2
    assert client.delete(f"/api/x/workflow/{name}").status_code == 409
    world.store.settle([command.seq for command in world.store.outgoing()])
    assert client.delete(f"/api/x/workflow/{name}").json() == {"name": name}
    assert list(world.objects.list("")) == []
    assert client.get(f"/api/workflow/{name}").status_code == 400


def test_tags(world: World, client: TestClient) -> None:
    name = world.submit()
    reply = client.post(f"/api/workflow/{name}/tag", params={"add": ["x", "y"]})
    assert (reply.status_code, reply.text) == (200, "null")
    client.post(f"/api/workflow/{name}/tag", params={"remove": ["y"]})
    assert client.get(f"/api/workflow/{name}").json()["tags"] == ["x"]
    assert len(client.get("/api/workflow", params={"tags": ["x"], "all_users": True}).json()["workflows"]) == 1


def test_tasks_in_three_shapes(world: World, client: TestClient) -> None:
    name = world.submit()
    world.start(name, "a")
    plain = client.get("/api/task", params={"all_users": True}).json()["tasks"]
    assert next((t["task_name"], t["status"], t["node"], t["cpu"], t["memory"]) for t in plain) == (
        "a",
        "RUNNING",
        "n1",
        1,
        1,
    )
    summary = client.get("/api/task", params={"all_users": True, "summary": True, "statuses": ["RUNNING"]}).json()
    assert summary["summaries"][0] | {"user": "ann", "cpu": 1, "gpu": 0} == summary["summaries"][0]
    by = client.get("/api/task", params={"all_users": True, "aggregate_by_workflow": True}).json()
    assert by["summaries"][0]["workflow_id"] == name
    assert client.get("/api/task", params={"limit": 0}).status_code == 400
    place = client.get(f"/api/workflow/{name}/task/a").json()
    assert (place["status"], place["node"], place["memory"]) == ("RUNNING", "n1", 1)


def test_explain_tells_waiting_and_failed_tasks_with_last_lines(world: World, client: TestClient) -> None:
    name = world.submit()
    waiting = client.get(f"/api/x/workflow/{name}/explain").json()
    assert [(t["task"], t["reason"]["code"]) for t in waiting["tasks"]] == [("a", "Queued"), ("b", "WaitsForUpstream")]
    (key,) = world.start(name, "a")
    world.write(key, "one", "Traceback: boom")
    world.finish(name, key, 1, reason=Reason("ExitCode", "exit code 1"), usage={"memory_peak": 100.0})
    told = client.get(f"/api/x/workflow/{name}/explain").json()["tasks"][0]
    assert told["last_lines"] == ["one", "Traceback: boom"]
    assert (told["exit_code"], told["usage"]["memory_peak"], told["limits"]["memory"]) == (1, 100.0, float(1 << 30))


def test_outputs_are_listed_and_fetched(world: World, client: TestClient, tmp_path: Any) -> None:
    import io
    import tarfile

    name = world.submit()
    (key,) = world.start(name, "a")
    assert client.get(f"/api/x/workflow/{name}/outputs/a.tar").status_code == 404
    big = bytes(range(256)) * 10_000
    world.finish(name, key, 0, {"x": b"hello", "deep/ü.bin": big, "empty": b""})
    listed = client.get(f"/api/x/workflow/{name}/outputs").json()
    assert [(f["path"], f["size"]) for f in listed["tasks"][0]["files"]] == [
        ("deep/ü.bin", len(big)),
        ("empty", 0),
        ("x", 5),
    ]
    assert listed["tasks"][1]["files"] == []
    got = client.get(f"/api/x/workflow/{name}/outputs/a/deep/ü.bin")
    assert (got.status_code, got.content) == (200, big)
    assert client.get(f"/api/x/workflow/{name}/outputs/a/../../osmo.db").status_code == 404
    assert client.get(f"/api/x/workflow/{name}/outputs/a/nope").json()["message"].startswith("Task a wrote no file")
    archive = client.get(f"/api/x/workflow/{name}/outputs/a.tar")
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        assert tar.extractfile("deep/ü.bin").read() == big  # type: ignore[union-attr]
        assert sorted(tar.getnames()) == ["deep", "deep/ü.bin", "empty", "x"]


def test_an_input_of_a_finished_workflow_is_accepted(world: World, client: TestClient) -> None:
    name = world.submit()
    text = HELLO.replace("task: a", f"task: {name}:a")
    assert "not finished" in post(client, text).json()["message"]
    (key,) = world.start(name, "a")
    world.finish(name, key)
    assert post(client, text).status_code == 200
    assert "has no task z" in post(client, HELLO.replace("task: a", f"task: {name}:z")).json()["message"]


def test_usage_of_an_attempt(world: World, client: TestClient) -> None:
    from osmo_ray.spec.attempt import UsageSample

    name = world.submit()
    (key,) = world.start(name, "a")
    assert isinstance(key, AttemptKey)
    world.store.add_usage([UsageSample(key.task_uuid, 0, world.now, 0.5, 1e6)])
    view = client.get(f"/api/x/workflow/{name}/usage/a").json()
    assert (view["samples"][0]["cpu"], view["samples"][0]["memory"]) == (0.5, 1e6)
    assert client.get(f"/api/x/workflow/{name}/usage/nope").status_code == 400


def test_a_restart_repeats_what_failed_and_reads_what_completed(world: World, client: TestClient) -> None:
    text = HELLO + "  - {name: c, image: i, command: [c], inputs: [{task: b}, {task: a}]}\n"
    name = world.submit(text, priority="LOW")
    assert client.post(f"/api/pool/default/workflow/{name}/restart").json()["error_code"] == "SUBMISSION"
    (a,) = world.start(name, "a")
    world.finish(name, a)
    (b,) = world.start(name, "b")
    world.finish(name, b, 1)
    reply = client.post(f"/api/pool/default/workflow/{name}/restart")
    assert (reply.status_code, reply.json()["name"]) == (200, "hello-2")
    again = world.store.find("hello-2")
    assert again is not None
    assert (again.parent, again.priority.value, [g.name for g in again.groups]) == (name, "LOW", ["b-group", "c-group"])
    inputs = {t: [(i.workflow, i.task) for i in again.spec.task(t).inputs] for t in ("b", "c")}  # type: ignore[union-attr]
    assert inputs == {"b": [(name, "a")], "c": [("", "b"), (name, "a")]}
    assert client.get("/api/workflow/hello-2").json()["parent_name"] == name


THREE = HELLO + "  - {name: c, image: i, command: [c], inputs: [{task: b}, {task: a}]}\n"


def completed(world: World, *names: str) -> str:
    name = world.submit(THREE)
    for task in names:
        (key,) = world.start(name, task)
        world.finish(name, key)
    return name


def sent_again(world: World, client: TestClient, name: str, body: object = None, **params: object) -> WorkflowSpec:
    reply = client.post(f"/api/pool/default/workflow/{name}/restart", params=params, json=body)  # type: ignore[arg-type]
    assert reply.status_code == 200, reply.text
    made = world.store.find(reply.json()["name"])
    assert made is not None
    return made.spec


def test_a_workflow_runs_again_from_a_task_though_it_completed(world: World, client: TestClient) -> None:
    name = completed(world, "a", "b", "c")
    spec = sent_again(world, client, name, from_task="b")
    assert [t.name for g in spec.groups for t in g.tasks] == ["b", "c"]
    assert [(i.workflow, i.task) for i in spec.task("c").inputs] == [("", "b"), (name, "a")]  # type: ignore[union-attr]


def test_a_workflow_runs_again_by_a_newer_file(world: World, client: TestClient) -> None:
    name = completed(world, "a", "b", "c")
    newer = THREE.replace("command: [c]", "command: [better]") + "  - {name: d, image: i, command: [d]}\n"
    spec = sent_again(world, client, name, {"file": newer}, from_task="c", env_vars="X=1")
    assert [t.name for g in spec.groups for t in g.tasks] == ["c", "d"], "what never ran comes along"
    assert spec.task("c").command == ("better",)
    assert spec.task("c").environment == {"X": "1"}
    assert [(i.workflow, i.task) for i in spec.task("c").inputs] == [(name, "b"), (name, "a")]  # type: ignore[union-attr]


SWEEP = """workflow:
  name: tune
  tasks:
  - {name: fit, image: i, command: [f, "{{matrix:lr}}"], matrix: {lr: [0.1, 0.2, 0.3]}}
  - {name: other, image: i, command: [o]}
"""


def test_a_sweep_is_looked_at_and_canceled_as_one(world: World, client: TestClient) -> None:
    name = world.submit(SWEEP)
    (key,) = world.start(name, "fit-1")
    world.finish(name, key, usage={"kpi.loss": 0.5, "memory_peak": 7.0})
    (sweep,) = client.get(f"/api/x/workflow/{name}/sweeps").json()["sweeps"]
    assert (sweep["name"], sweep["counts"]) == ("fit", {"COMPLETED": 1, "PROCESSING": 2})
    assert [t["values"] for t in sweep["tasks"]] == [{"lr": "0.1"}, {"lr": "0.2"}, {"lr": "0.3"}]
    assert sweep["tasks"][1]["figures"] == {"loss": 0.5}
    assert client.post(f"/api/workflow/{name}/cancel", params={"task": "nope"}).status_code == 400
    assert client.post(f"/api/workflow/{name}/cancel", params={"task": "fit"}).status_code == 200
    (sweep,) = client.get(f"/api/x/workflow/{name}/sweeps").json()["sweeps"]
    assert sweep["counts"] == {"COMPLETED": 1, "FAILED_CANCELED": 2}
    found = world.store.find(name)
    assert found is not None
    assert found.status.value in ("RUNNING", "PENDING")
    assert client.get(f"/api/x/workflow/{completed(world)}/sweeps").json() == {"sweeps": []}


def test_one_user_may_have_so_much_unfinished_and_no_more(world: World) -> None:
    def refused(**settings: int) -> str:
        with world.client(**settings) as client:
            reply = client.post("/api/pool/default/workflow", json={"file": HELLO}, headers={"x-osmo-user": "ann"})
        return "" if reply.status_code == 200 else str(reply.json()["message"])

    first = completed(world)
    assert "has 1 unfinished workflows, at most 1" in refused(max_user_workflows=1)
    assert "would have 5 tasks in unfinished workflows, at most 4" in refused(max_user_workflows=2, max_user_tasks=4)
    assert refused(max_user_workflows=2, max_user_tasks=5) == ""
    assert world.store.find(first) is not None


def test_what_others_read_is_not_deleted_under_them(world: World, client: TestClient) -> None:
    name = completed(world, "a", "b", "c")
    sent_again(world, client, name, from_task="c")
    world.store.settle([c.seq for c in world.store.outgoing()])
    reply = client.delete(f"/api/x/workflow/{name}")
    assert reply.status_code == 409
    assert "used by hello-2" in reply.json()["message"]
    assert world.store.find(name) is not None


def test_what_cannot_be_run_again_is_said(world: World, client: TestClient) -> None:
    def refused(name: str, body: object = None, **params: str) -> str:
        reply = client.post(f"/api/pool/default/workflow/{name}/restart", params=params, json=body)
        assert reply.status_code == 400
        return str(reply.json()["message"])

    name = completed(world, "a", "b", "c")
    assert "has no task 'x'" in refused(name, from_task="x")
    assert "Everything" in refused(name, {"file": THREE})
    assert "not valid YAML" in refused(name, {"file": "workflow: [oops"})
    assert "has to end" in refused(completed(world, "a"), from_task="a")


def test_the_page_of_a_workflow_is_plain_and_safe(world: World, client: TestClient) -> None:
    name = world.submit()
    (key,) = world.start(name, "a")
    world.finish(name, key, 1, reason=Reason("ExitCode", "<script>alert(1)</script>"))
    page = client.get(f"/workflows/{name}")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "&lt;script&gt;" in page.text
    assert "<script>" not in page.text
    assert f"/api/workflow/{name}/logs" in page.text
    assert client.get("/workflows/nope-1").status_code == 400


def test_a_ray_program_is_refused_where_the_pool_does_not_trust_it(world: World) -> None:
    text = HELLO.replace("image:", "ray: {}\n    image:", 1)
    with world.client(ray_programs=False) as client:
        reply = post(client, text)
        assert reply.status_code == 400
        assert "does not trust" in reply.json()["message"]
        assert client.get("/api/workflow").json()["workflows"] == []
    with world.client() as client:
        assert post(client, text).status_code == 200
