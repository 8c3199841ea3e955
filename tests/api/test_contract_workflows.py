"""The contract of workflows and tasks, line by line, over real HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from osmo_ray.spec.reason import Reason
from tests.api.wire import Wire, serve
from tests.api.world import HELLO, World

NAIVE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?")
POST = "/api/pool/default/workflow"
ENTRY = {
    *("user", "name", "workflow_uuid", "submit_time", "start_time", "end_time", "queued_time", "duration", "status"),
    *("overview", "logs", "error_logs", "grafana_url", "dashboard_url", "pool", "app_owner", "app_name", "app_version"),
    "priority",
}
VIEW = {
    *("name", "uuid", "submitted_by", "cancelled_by", "spec", "template_spec", "logs", "events", "overview"),
    *("parent_name", "parent_job_id", "dashboard_url", "grafana_url", "tags", "submit_time", "start_time", "end_time"),
    *("exec_timeout", "queue_timeout", "duration", "queued_time", "status", "outputs", "groups", "pool", "backend"),
    *("app_owner", "app_name", "app_version", "plugins", "priority"),
}
GROUP = {
    *("name", "status", "start_time", "end_time", "processing_start_time", "scheduling_start_time"),
    *("initializing_start_time", "remaining_upstream_groups", "downstream_groups", "failure_message", "tasks"),
}
TASK = {
    *("name", "retry_id", "status", "failure_message", "exit_code", "logs", "error_logs", "processing_start_time"),
    *("scheduling_start_time", "initializing_start_time", "events", "start_time", "end_time", "pod_name", "pod_ip"),
    *("input_download_start_time", "input_download_end_time", "output_upload_start_time", "dashboard_url"),
    *("task_uuid", "node_name", "lead"),
}
LINE = {
    *("user", "workflow_id", "workflow_uuid", "task_name", "retry_id", "pool", "node", "start_time", "end_time"),
    *("duration", "status", "overview", "logs", "error_logs", "grafana_url", "dashboard_url", "storage", "cpu"),
    *("memory", "gpu", "priority"),
}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    world = World(tmp_path_factory.mktemp("world"))
    with serve(world) as made:
        yield made
    world.close()


def body(text: str = HELLO, **more: Any) -> dict[str, Any]:
    """What the client sends, every key of it."""
    empty = {"set_variables": [], "set_string_variables": [], "uploaded_templated_spec": None}
    return {"file": text, **empty, **more}


def submitted(wire: Wire, user: str, **query: str) -> str:
    return str(wire.post(POST, *query.items(), body=body(), user=user)["name"])


# -- submit, dry run, validate


def test_submit_answers_five_keys(wire: Wire) -> None:
    query = (("dry_run", "False"), ("validation_only", "False"), ("priority", "NORMAL"))
    found = wire.post(POST, *query, body=body(), user="sub")
    assert set(found) == {"name", "overview", "logs", "spec", "dashboard_url"}
    assert found["name"] == "hello-1"
    assert found["overview"].startswith(f"http://127.0.0.1:{wire.port}/")
    assert found["logs"].endswith("/api/workflow/hello-1/logs?last_n_lines=1000")


def test_the_pool_of_a_submit_without_one_is_in_the_profile(wire: Wire) -> None:
    pool = wire.get("/api/profile/settings")["profile"]["pool"]
    assert wire.post(f"/api/pool/{pool}/workflow", body=body(), user="sub2")["name"]


def test_a_templated_file_goes_in_two_posts_and_tokens_survive_the_first(wire: Wire) -> None:
    text = (
        "workflow:\n  name: two\n  tasks:\n  - name: a\n    image: '{{ image }}'\n    command: [sh, -c]\n"
        "    args: ['echo {{output}} {{input:0}} {{host:x}} {{workflow_id}} {{uuid}} {{n}}']\n"
        "default-values:\n  image: ubuntu\n  n: 1\n"
    )
    first = wire.post(POST, ("dry_run", "True"), body=body(text, set_variables=["n=7"]), user="two")
    assert first["name"] == "two"
    assert "{{output}} {{input:0}} {{host:x}} {{workflow_id}} {{uuid}} 7" in first["spec"]
    assert wire.get("/api/workflow", user="two")["workflows"] == []
    again = body(first["spec"], set_variables=["n=7"], uploaded_templated_spec=text)
    name = wire.post(POST, ("dry_run", "False"), body=again, user="two")["name"]
    template = wire.call("GET", f"/api/workflow/{name}/spec", [("use_template", "True")])
    assert (template.text, template.headers["content-type"].partition(";")[0]) == (text, "application/yaml")
    assert "{{output}}" in wire.call("GET", f"/api/workflow/{name}/spec").text


def test_validation_says_so_in_logs(wire: Wire) -> None:
    found = wire.post(POST, ("dry_run", "False"), ("validation_only", "True"), body=body(), user="val")
    assert (found["name"], found["logs"]) == ("hello", "Workflow validation succeeded.")
    assert wire.get("/api/workflow", user="val")["workflows"] == []


def test_both_or_neither_of_body_and_id_is_a_usage_error(wire: Wire) -> None:
    assert wire.refused("POST", POST)["error_code"] == "USAGE"
    assert wire.refused("POST", POST, ("workflow_id", "x-1"), body=body())["error_code"] == "USAGE"


def test_resubmitting_sends_no_body(wire: Wire) -> None:
    old = submitted(wire, "re")
    found = wire.post(POST, ("workflow_id", old), ("priority", "LOW"), user="re")
    view = wire.get(f"/api/workflow/{found['name']}")
    assert (view["parent_name"], view["priority"]) == (old, "LOW")


def test_extra_keys_of_the_body_are_refused(wire: Wire) -> None:
    assert wire.call("POST", POST, body=body(label="x")).status == 422


def test_values_are_cast_to_numbers_and_strings_are_not(wire: Wire) -> None:
    text = "workflow:\n  name: x\n  a: {{ n + 1 }}\n  b: {{ f * 2 }}\n  c: {{ s ~ 1 }}\n  d: {{ t ~ 1 }}\n"
    sent = body(text, set_variables=["n=1", "f=1.5", "s=a"], set_string_variables=["t=2"])
    rendered = wire.post(POST, ("dry_run", "True"), body=sent)["spec"]
    assert [line.split()[1] for line in rendered.splitlines()[2:]] == ["2", "3.0", "a1", "21"]


def test_env_vars_repeat_and_only_the_second_piece_is_kept(wire: Wire) -> None:
    name = wire.post(POST, ("env_vars", "A=1=2"), ("env_vars", "B=x"), body=body(), user="env")["name"]
    workflow = wire.world.store.find(name)
    assert workflow is not None and dict(workflow.spec.task("a").environment) == {"A": "1", "B": "x"}


# -- restart


def test_restart_sends_no_body_and_only_failed_ones_restart(wire: Wire) -> None:
    name = submitted(wire, "rs")
    assert wire.refused("POST", f"/api/pool/default/workflow/{name}/restart")["error_code"] == "SUBMISSION"
    key = wire.world.start(name, "a")[0]
    wire.world.finish(name, key, 3, reason=Reason("CommandFailed", "it failed"))
    found = wire.post(f"/api/pool/default/workflow/{name}/restart", user="rs")
    assert set(found) == {"name", "overview", "logs", "spec", "dashboard_url"}
    assert wire.get(f"/api/workflow/{found['name']}")["parent_name"] == name


# -- list


def test_an_entry_has_all_keys_and_naive_times(wire: Wire) -> None:
    name = submitted(wire, "ent")
    wire.world.start(name, "a")
    found = wire.get("/api/workflow", ("order", "DESC"), ("limit", "20"), ("all_pools", "True"), user="ent")
    assert set(found) == {"workflows", "more_entries"} and found["more_entries"] is False
    entry = found["workflows"][0]
    assert set(entry) == ENTRY
    assert NAIVE.fullmatch(entry["submit_time"]) and NAIVE.fullmatch(entry["start_time"])
    assert isinstance(entry["queued_time"], float) and isinstance(entry["duration"], float)
    assert (entry["user"], entry["name"], entry["status"], entry["priority"]) == ("ent", name, "RUNNING", "NORMAL")
    assert re.fullmatch(r"[0-9a-f]{32}", entry["workflow_uuid"])


def test_pages_in_both_orders_and_more_entries(wire: Wire) -> None:
    names = []
    for _ in range(3):
        wire.world.now += 1
        names.append(submitted(wire, "pag"))

    def page(*query: tuple[str, str]) -> tuple[list[str], bool]:
        found = wire.get("/api/workflow", *query, user="pag")
        return [w["name"] for w in found["workflows"]], found["more_entries"]

    assert page() == (names, False)
    assert page(("order", "DESC"), ("limit", "2")) == ([names[2], names[1]], True)
    assert page(("order", "DESC"), ("limit", "2"), ("offset", "2")) == ([names[0]], False)
    assert page(("order", "ASC"), ("limit", "1")) == ([names[0]], True)


def test_filters(wire: Wire) -> None:
    world = wire.world
    world.now += 100
    begin = world.now
    low = submitted(wire, "fil", priority="LOW")
    world.now += 10
    high = submitted(wire, "fil2", priority="HIGH")
    wire.post(f"/api/workflow/{low}/cancel", user="fil")

    def names(*query: tuple[str, str], user: str = "fil") -> list[str]:
        after = ("submitted_after", world_time(begin))
        return [w["name"] for w in wire.get("/api/workflow", after, *query, user=user)["workflows"]]

    assert names() == [low]
    assert names(("all_users", "True")) == [low, high]
    assert names(("users", "fil"), ("users", "fil2")) == [low, high]
    assert names(("statuses", "FAILED_CANCELED"), ("all_users", "True")) == [low]
    assert names(("priority", "HIGH"), ("priority", "NORMAL"), ("all_users", "True")) == [high]
    assert names(("name", low[1:]), ("all_users", "True")) == [low]
    assert names(("name", "hell%"), ("all_users", "True")) == []
    assert names(("submitted_before", world_time(begin + 10)), ("all_users", "True")) == [low]
    assert names(("pools", "default"), ("all_users", "True")) == [low, high]
    assert names(("pools", "other"), ("all_users", "True")) == []
    assert names(("tags", "none"), ("all_users", "True")) == []


def world_time(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat()


def test_a_time_that_is_none_is_a_user_error(wire: Wire) -> None:
    assert wire.refused("GET", "/api/workflow", ("submitted_after", "yesterday"))["error_code"] == "USER"


# -- query


def test_a_view_has_all_keys_by_id_and_by_uuid(wire: Wire) -> None:
    name = submitted(wire, "vie")
    wire.world.start(name, "a")
    view = wire.get(f"/api/workflow/{name}", ("skip_groups", "False"), ("verbose", "False"))
    assert set(view) == VIEW
    assert (view["name"], view["submitted_by"], view["plugins"]) == (name, "vie", {"rsync": False})
    base = f"http://127.0.0.1:{wire.port}/api/workflow/{name}"
    assert (view["spec"], view["template_spec"]) == (f"{base}/spec", f"{base}/spec?use_template=true")
    assert view["logs"] == f"{base}/logs?last_n_lines=1000"
    assert isinstance(view["outputs"], str)
    group, later = view["groups"]
    assert set(group) == GROUP
    assert (group["downstream_groups"], later["remaining_upstream_groups"]) == (["b-group"], ["a-group"])
    task = group["tasks"][0]
    assert set(task) == TASK
    assert (task["retry_id"], task["status"], task["lead"], task["node_name"]) == (0, "RUNNING", True, "n1")
    assert task["logs"].endswith("logs?last_n_lines=1000&task_name=a&retry_id=0")
    assert NAIVE.fullmatch(task["start_time"])
    assert wire.get(f"/api/workflow/{view['uuid']}")["name"] == name
    assert wire.get(f"/api/workflow/{name}", ("skip_groups", "True"))["groups"] == []


def test_verbose_shows_every_retry(wire: Wire) -> None:
    text = HELLO.replace("    command: [echo, hello]\n", "    command: [x]\n    exitActions: {RESCHEDULE: 1-255}\n")
    text = text.replace(
        "    image: ubuntu:24.04\n    command: [x]", "    image: ubuntu:24.04\n    retries: 1\n    command: [x]"
    )
    name = wire.post(POST, body=body(text), user="ver")["name"]
    key = wire.world.start(name, "a")[0]
    wire.world.finish(name, key, 3, reason=Reason("CommandFailed", "it failed"))

    def retries(*query: tuple[str, str]) -> list[tuple[int, str]]:
        tasks = wire.get(f"/api/workflow/{name}", *query)["groups"][0]["tasks"]
        return [(t["retry_id"], t["status"]) for t in tasks]

    assert retries() == [(1, "PROCESSING")]
    assert retries(("verbose", "True")) == [(0, "RESCHEDULED"), (1, "PROCESSING")]


# -- text streams


def test_logs_are_ascii_text_that_nobody_sniffs_in_two_word_times(wire: Wire) -> None:
    name = submitted(wire, "log")
    (first,) = wire.world.start(name, "a")
    wire.world.write(first, "one", "two")
    wire.world.write(first, "fetched", kind="P")
    wire.world.finish(name, first)
    (second,) = wire.world.start(name, "b")
    wire.world.write(second, "three")
    wire.world.finish(name, second)
    reply = wire.call("GET", f"/api/workflow/{name}/logs")
    assert reply.headers["content-type"] == "text/plain; charset=us-ascii"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["transfer-encoding"] == "chunked"
    lines = reply.text.splitlines()
    assert [re.sub(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", "", line) for line in lines] == [
        "[a] one", "[a] two", "[a][osmo] fetched", "[b] three",
    ]  # fmt: skip
    path = f"/api/workflow/{name}/logs"
    assert len(wire.call("GET", path, [("last_n_lines", "2")]).text.splitlines()) == 2
    assert [one[-7:] for one in wire.call("GET", path, [("task_name", "b")]).text.splitlines()] == ["] three"]
    assert wire.call("GET", path, [("task_name", "a"), ("retry_id", "0"), ("query", "tw.")]).text.count("\n") == 1
    assert wire.refused("GET", path, ("last_n_lines", "0"))["error_code"] == "USER"


def test_error_logs_without_a_task_are_a_json_text_of_links(wire: Wire) -> None:
    name = submitted(wire, "err")
    (key,) = wire.world.start(name, "a")
    wire.world.write(key, "what", "went wrong")
    wire.world.finish(name, key, 3, reason=Reason("CommandFailed", "it failed"))
    told = wire.get(f"/api/workflow/{name}/error_logs")
    assert isinstance(told, str) and f"/api/workflow/{name}/error_logs?" in told
    reply = wire.call("GET", f"/api/workflow/{name}/error_logs", [("task_name", "a"), ("last_n_lines", "1")])
    assert (reply.status, reply.text) == (200, "went wrong\n")
    task = wire.get(f"/api/workflow/{name}")["groups"][0]["tasks"][0]
    assert (task["exit_code"], task["failure_message"] is None) == (3, False)
    assert "error_logs?" in task["error_logs"]


def test_events_are_lines_and_end_with_the_workflow(wire: Wire) -> None:
    name = submitted(wire, "eve")
    wire.post(f"/api/workflow/{name}/cancel", ("message", "enough"), user="eve")
    reply = wire.call("GET", f"/api/workflow/{name}/events")
    assert reply.headers["content-type"] == "text/plain; charset=us-ascii"
    assert "eve submitted" in reply.text and "enough" in reply.text
    only = wire.call("GET", f"/api/workflow/{name}/events", [("task_name", "a"), ("retry_id", "0")]).text
    assert all("[a]" in line for line in only.splitlines())


# -- others


def test_cancel_answers_the_name_and_refuses_finished_ones(wire: Wire) -> None:
    name = submitted(wire, "can")
    assert wire.post(f"/api/workflow/{name}/cancel", ("message", "why"), ("force", "False"), user="can") == {
        "name": name
    }
    assert wire.get(f"/api/workflow/{name}")["cancelled_by"] == "can"
    again = wire.refused("POST", f"/api/workflow/{name}/cancel")
    assert (again["error_code"], again["workflow_id"]) == ("USER", name)
    assert wire.post(f"/api/workflow/{name}/cancel", ("force", "True")) == {"name": name}


def test_a_task_by_name(wire: Wire) -> None:
    name = submitted(wire, "tas")
    wire.world.start(name, "a")
    found = wire.get(f"/api/workflow/{name}/task/a")
    amounts = {"storage": 1, "cpu": 1, "memory": 1, "gpu": 0}
    assert found == {
        "workflow_id": name, "task_name": "a", "node": "n1", "start_time": found["start_time"], "end_time": None,
        "status": "RUNNING", **amounts,
    }  # fmt: skip
    assert NAIVE.fullmatch(found["start_time"])


def test_tasks_in_three_shapes(wire: Wire) -> None:
    name = submitted(wire, "shp")
    other = submitted(wire, "shp")
    wire.world.start(name, "a")
    wire.world.start(other, "a")
    plain = wire.get("/api/task", ("statuses", "RUNNING"), ("order", "DESC"), user="shp")
    assert set(plain) == {"tasks"} and set(plain["tasks"][0]) == LINE
    assert isinstance(plain["tasks"][0]["memory"], int)
    whole = wire.get("/api/task", ("summary", "True"), ("limit", "1"), user="shp")
    assert whole == {
        "summaries": [
            {"user": "shp", "pool": "default", "storage": 2, "cpu": 2, "memory": 2, "gpu": 0, "priority": "NORMAL"}
        ]
    }
    by = wire.get("/api/task", ("aggregate_by_workflow", "True"), user="shp")["summaries"]
    assert sorted(one["workflow_id"] for one in by) == sorted([name, other])
    assert {one["cpu"] for one in by} == {1}


def test_tasks_newest_first_and_order_turns_only_the_page(wire: Wire) -> None:
    names = []
    for _ in range(3):
        wire.world.now += 1
        names.append(submitted(wire, "ord"))
        wire.world.start(names[-1], "a")

    def page(*query: tuple[str, str]) -> list[str]:
        return [t["workflow_id"] for t in wire.get("/api/task", ("statuses", "RUNNING"), *query, user="ord")["tasks"]]

    assert page(("order", "DESC")) == names[::-1]
    assert page(("limit", "2"), ("order", "ASC")) == names[1:]
    assert page(("limit", "5000"), ("order", "DESC"), ("workflow_id", names[0])) == names[:1]
    assert page(("nodes", "n2")) == []
    assert page(("started_after", world_time(wire.world.now)), ("order", "DESC")) == names[2:]
    assert page(("started_before", world_time(wire.world.now)), ("order", "ASC")) == names[:2]
    assert wire.refused("GET", "/api/task", ("limit", "0"))["error_code"] == "USER"
