"""The life of attempts: orders, ends, reasons; with namespaces and without."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hosting import Begin, Host, again, alive, pids_of, plan, shell, wait_for

from osmo_ray.runtime import Options, StaleEpoch
from osmo_ray.runtime.logs import stored_log
from osmo_ray.runtime.work import open_store
from osmo_ray.spec.attempt import AttemptPlan, InputPlan, Observation, OutputPlan, Phase
from osmo_ray.spec.model import RaySpec


async def test_a_command_runs_and_says_how_it_ended(any_host: Host) -> None:
    one = shell("echo out; echo err >&2; exit 3")
    end = await any_host.run(one)
    assert (end.phase, end.exit_code) == (Phase.FINISHED, 3)
    assert end.reason is not None
    assert end.reason.code == "CommandFailed"
    assert end.reason.evidence["exit_code"] == "3"
    assert end.reason.evidence["last_lines"] == "out\nerr"
    assert "of 1.0 GiB" in end.reason.evidence["memory_peak"]
    assert [o.phase for o in any_host.seen if o.key == one.key] == ["accepted", "preparing", "running", "finished"]
    assert end.usage["cpu_seconds"] > 0


async def test_output_of_one_is_input_of_the_next_whatever_its_exit_code(any_host: Host) -> None:
    script = "cd {{output}}; mkdir -p a/empty; echo text > a/f; chmod 750 a/f; ln -s f a/link; exit 9"
    first = shell(script, outputs=(OutputPlan("prefix", "wf/first"),))
    end = await any_host.run(first)
    assert (end.exit_code, end.output) == (9, "wf/first")
    second = shell(
        "cat {{input:0}}/a/link {{input:first}}/a/f; ls {{input:0}}/a; stat -c %a {{input:0}}/a/f",
        inputs=(InputPlan("prefix", "wf/first", alias="first"),),
    )
    assert (await any_host.run(second)).exit_code == 0
    assert await any_host.text(second.key) == "text\ntext\nempty\nf\nlink\n750"


async def test_an_input_that_is_not_whole_fails_with_2010(any_host: Host) -> None:
    end = await any_host.run(shell("echo never", inputs=(InputPlan("prefix", "wf/nobody"),)))
    assert end.exit_code == 2010
    assert end.reason is not None
    assert end.reason.code == "DownloadFailed"


@pytest.mark.parametrize("name", ["outside", "outside/deep/file"])
async def test_a_url_input_is_a_folder_or_one_file_and_a_url_output_a_folder(
    any_host: Host, folder: Path, name: str
) -> None:
    (folder / "outside/deep").mkdir(parents=True)
    (folder / "outside/deep/file").write_text("from a url")
    url = (folder / name).as_uri()
    out = (OutputPlan("url", (folder / "kept").as_uri()),)
    one = shell("cd {{input:0}}; cp $(find . -type f) {{output}}/copy".replace("$(", "$$("),
                inputs=(InputPlan("url", url),), outputs=out)  # fmt: skip
    end = await any_host.run(one)
    assert (end.exit_code, end.output) == (0, "")
    assert (folder / "kept/copy").read_text() == "from a url"


async def test_an_output_that_cannot_be_kept_fails_with_2012(any_host: Host, folder: Path) -> None:
    (folder / "store").mkdir(exist_ok=True)
    (folder / "store" / "wf").write_text("a file where a folder should be")
    end = await any_host.run(shell("touch {{output}}/x", outputs=(OutputPlan("prefix", "wf/a"),)))
    assert end.reason is not None
    assert (end.exit_code, end.reason.code) == (2012, "UploadFailed")


async def test_regex_picks_from_the_start_of_the_relative_path(any_host: Host) -> None:
    out = (OutputPlan("prefix", "wf/picked", regex="a/.*\\.txt"),)
    await any_host.run(shell("cd {{output}}; mkdir -p a b/a; touch a/1.txt a/2.bin b/a/3.txt", outputs=out))
    reader = shell("cd {{input:0}}; find . -type f", inputs=(InputPlan("prefix", "wf/picked"),))
    await any_host.run(reader)
    assert await any_host.text(reader.key) == "./a/1.txt"


async def test_a_missing_program_is_named_with_its_image(any_host: Host) -> None:
    end = await any_host.run(plan("nvcc-of-nowhere", image="nvcr.io/cuda"))
    assert end.exit_code == 3003
    assert end.reason is not None
    assert end.reason.code == "CommandNotFound"
    assert "nvcc-of-nowhere" in end.reason.sentence
    assert "nvcr.io/cuda" in end.reason.sentence


async def test_variables_and_tokens_in_the_command(any_host: Host) -> None:
    one = plan("echo", "$(NAME)", "$$(NAME)", "$(NONE)", "{{workflow_id}}", "{{input:7}}", environment={"NAME": "x"})
    await any_host.run(one)
    assert await any_host.text(one.key) == "x $(NAME) $(NONE) wf-1 {{input:7}}"


async def test_killed_by_a_signal_is_128_and_the_signal(any_host: Host) -> None:
    end = await any_host.run(shell("kill -SEGV $$$$"))
    assert end.exit_code == 128 + signal.SIGSEGV


async def test_the_same_plan_twice_runs_once(any_host: Host) -> None:
    one = shell("echo ran >> {{output}}/runs; cat {{output}}/runs; sleep 0.3")
    for _ in range(3):
        await any_host.apply(1, [one])
    await any_host.end(one.key)
    await any_host.apply(1, [one])
    assert await any_host.text(one.key) == "ran"
    assert len([o for o in any_host.seen if o.phase is Phase.RUNNING]) == 1


async def test_a_settled_attempt_does_not_run_again(any_host: Host) -> None:
    one = shell("true")
    await any_host.run(one)
    await any_host.settle([one.key])
    await any_host.apply(1, [one])
    assert await any_host.attempts() == []
    with pytest.raises(LookupError):
        await any_host.logs(one.key, 0, 10, 0)


async def test_an_older_epoch_is_refused_also_after_a_restart(any_host: Host, begin: Begin) -> None:
    await any_host.apply(5, [])
    with pytest.raises(StaleEpoch):
        await any_host.apply(4, [shell("true")])
    await any_host.close()
    later = await begin(any_host.options)
    with pytest.raises(StaleEpoch):
        await later.delete(4, ["g"], 0.0)


async def test_a_deleted_group_is_not_revived_also_after_a_restart(any_host: Host, begin: Begin) -> None:
    one = shell("sleep 100", group="gone")
    await any_host.delete(1, ["gone"], 0.0)
    await any_host.apply(1, [one])
    assert await any_host.attempts() == []
    await any_host.close()
    later = await begin(any_host.options)
    await later.apply(2, [one])
    assert await later.attempts() == []


async def test_delete_ends_with_term_and_keeps_the_log(any_host: Host) -> None:
    one = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    await any_host.apply(1, [one])
    await any_host.says(one.key, "up")
    await any_host.delete(1, [one.group_uuid], 20.0)
    end = await any_host.end(one.key)
    assert end.phase is Phase.LOST
    assert end.reason is not None
    assert end.reason.code == "Stopped"
    store = open_store(any_host.book.storage_url)
    assert b"bye" in stored_log(store, one.workflow_uuid, one.key, 0, 1 << 20).data


async def test_an_order_to_stop_is_not_lost_while_the_command_begins(any_host: Host) -> None:
    for _ in range(8):
        one = plan("sleep", "1000")
        await any_host.apply(1, [one])
        await any_host.phase(one.key, Phase.RUNNING)
        await any_host.delete(1, [one.group_uuid], 1000.0)
        assert (await any_host.end(one.key)).phase is Phase.LOST


async def test_delete_kills_grandchildren_that_ignore_term(any_host: Host) -> None:
    one = shell("trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 1000' &) ; (sleep 1000 &); echo up; sleep 1000")
    await any_host.apply(1, [one])
    await any_host.says(one.key, "up")
    await wait_for(lambda: len(pids_of(one.key)) >= 4, "the grandchildren never came")
    before = pids_of(one.key)
    await any_host.delete(1, [one.group_uuid], 0.1)
    assert (await any_host.end(one.key)).phase is Phase.LOST
    assert [pid for pid in before if alive(pid)] == []


async def test_attempts_that_a_group_no_longer_lists_are_ended(any_host: Host) -> None:
    old = shell("sleep 1000", group="g", task_uuid="t")
    await any_host.apply(1, [old])
    await any_host.phase(old.key, Phase.RUNNING)
    new = shell("true", group="g", task_uuid="t", retry=1)
    await any_host.apply(1, [new])
    assert (await any_host.end(old.key)).phase is Phase.LOST
    assert (await any_host.end(new.key)).exit_code == 0
    await any_host.apply(1, [old])
    assert len([o for o in any_host.seen if o.key == old.key and o.phase is Phase.ACCEPTED]) == 1


async def test_the_barrier_holds_until_go(any_host: Host) -> None:
    one = shell("echo ran", barrier=True, go=False)
    await any_host.apply(1, [one])
    await any_host.phase(one.key, Phase.READY)
    assert await any_host.text(one.key) == ""
    await any_host.apply(1, [again(one, go=True)])
    assert (await any_host.end(one.key)).exit_code == 0
    assert await any_host.text(one.key) == "ran"


async def test_restart_in_place_keeps_the_files_and_passes_the_barrier_again(any_host: Host) -> None:
    one = shell("echo x >> {{output}}/n; echo $(wc -l < {{output}}/n); [ $(wc -l < {{output}}/n) = 2 ] || sleep 1000")
    one = again(one, argv=tuple(text.replace("$(", "$$(") for text in one.argv), barrier=True)
    await any_host.apply(1, [one])
    await any_host.says(one.key, "1")
    await any_host.apply(1, [again(one, restart=1, go=False)])
    await any_host.phase(one.key, Phase.READY, restart=1)
    await any_host.apply(1, [again(one, restart=1, go=True)])
    end = await any_host.end(one.key)
    assert (end.exit_code, end.restart) == (0, 1)
    assert await any_host.text(one.key) == "1\n2"


async def test_a_failed_task_can_stay_until_released(any_host: Host) -> None:
    one = shell("exit 5", hold=1000.0)
    await any_host.apply(1, [one])
    held = await any_host.until(one.key, lambda o: o.reason is not None and o.reason.code == "HeldForInspection")
    assert held.phase is Phase.RUNNING
    await any_host.release(one.key)
    assert (await any_host.end(one.key)).exit_code == 5


COUNT = "echo x >> {{output}}/n; n=$$(wc -l < {{output}}/n); echo run $n; "


async def test_a_held_task_runs_again_in_place(any_host: Host) -> None:
    """The same attempt with its files as left; the new exit code counts."""
    one = shell(COUNT + "[ $n -lt 3 ] && exit 5; exit 6", hold=1000.0)
    await any_host.apply(1, [one])
    for run in (1, 2):
        await stays(any_host, one, run)
        await any_host.release(one.key, rerun=True)
    await stays(any_host, one, 3)
    await any_host.release(one.key)
    end = await any_host.end(one.key)
    assert (end.exit_code, end.restart) == (6, 0)
    assert await any_host.text(one.key) == "run 1\nrun 2\nrun 3"
    log = (await any_host.logs(one.key, 0, 1 << 20, 0)).data.decode()
    assert log.count("runs again in place") == 2 and "exit code 5; runs again in place (run 2)" in log
    assert count(any_host, one, lambda o: o.reason is not None and o.reason.code == "RunAgain") == 2


async def test_a_rerun_survives_the_host_program(begin: Begin) -> None:
    """The supervisor holds on; the next host adopts it with the orders that were given."""
    first = await begin(Options(engine="off"))
    one = shell(COUNT + "[ $n = 2 ] || exit 5", hold=1000.0)
    await first.apply(1, [one])
    await first.until(one.key, held)
    await first.close()
    second = await begin(Options(engine="off"))
    await second.until(one.key, held)
    await second.release(one.key, rerun=True)
    assert (await second.end(one.key)).exit_code == 0


async def test_a_rerun_before_the_failure_does_not_count(any_host: Host) -> None:
    one = shell(COUNT + "while [ ! -e {{output}}/go ]; do sleep 0.05; done; exit 5", hold=1000.0)
    await any_host.apply(1, [one])
    await any_host.says(one.key, "run 1")
    await any_host.release(one.key, rerun=True)
    (any_host.spool.folder(one.key).data_out / "go").touch()
    seen = await any_host.until(one.key, held)
    assert seen.reason is not None and "--rerun" in seen.reason.sentence
    assert seen.reason.next_command == f"osmo shell wf-1/{one.task}"
    await any_host.release(one.key)
    assert (await any_host.end(one.key)).exit_code == 5
    assert await any_host.text(one.key) == "run 1"


def held(seen: Observation) -> bool:
    return seen.reason is not None and seen.reason.code == "HeldForInspection"


async def stays(host: Host, one: AttemptPlan, times: int) -> None:
    """Wait until it is held for the n-th time."""
    while count(host, one, held) < times:
        host.seen.extend(await host.observe(1.0))


def count(host: Host, one: AttemptPlan, good: Callable[[Observation], bool]) -> int:
    return sum(o.key == one.key and good(o) for o in host.seen)


async def test_a_hold_ends_by_itself(any_host: Host) -> None:
    assert (await any_host.run(shell("exit 5", hold=0.2))).exit_code == 5


async def test_a_clean_environment(any_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    one = plan("env", environment={"MINE": "1 {{workflow_id}}"})
    await any_host.run(one)
    names = {line.split("=", 1)[0] for line in (await any_host.text(one.key)).splitlines()}
    wanted = {"PATH", "HOME", "USER", "LANG", "TERM", "HOSTNAME", "TMPDIR", "CUDA_VISIBLE_DEVICES"}
    wanted |= {"NVIDIA_VISIBLE_DEVICES", "MINE", "OSMO_WORKFLOW_ID", "OSMO_GROUP", "OSMO_TASK", "OSMO_RETRY_ID"}
    assert names == wanted | {"OSMO_ATTEMPT", "OSMO_OUTPUT"}


async def test_gpus_are_exclusive_wait_for_each_other_and_are_hidden_from_others(begin: Begin) -> None:
    host = await begin(Options(sandbox="none", engine="off", gpu=2))
    first, second = (shell("echo gpu=$CUDA_VISIBLE_DEVICES; sleep 1000", gpu=1) for _ in range(2))
    third = shell("echo gpu=$CUDA_VISIBLE_DEVICES", gpu=2)
    none = shell("echo gpu=$CUDA_VISIBLE_DEVICES.")
    await host.apply(1, [first])
    await host.apply(1, [second])
    await host.apply(1, [third])
    await host.run(none)
    assert await host.text(none.key) == "gpu=."
    assert await host.says(first.key, "gpu=0")
    assert await host.says(second.key, "gpu=1")
    assert third.key not in {o.key for o in await host.attempts()}
    await host.close()
    later = await begin(host.options)
    await later.apply(1, [third])
    assert third.key not in {o.key for o in await later.attempts()}, "an adopted attempt keeps its GPU"
    await later.delete(1, [first.group_uuid, second.group_uuid], 0.0)
    await later.end(third.key)
    assert await later.text(third.key) == "gpu=0,1"
    refused = await later.run(shell("true", gpu=3))
    assert refused.reason is not None
    assert refused.reason.sentence == "needs 3 GPUs, and this node has 2"


async def test_usage_while_it_runs(any_host: Host) -> None:
    one = shell("echo up; while :; do :; done")
    await any_host.apply(1, [one])
    await any_host.says(one.key, "up")

    async def busy() -> bool:
        return any(s.key == one.key and s.cpu > 0.05 and s.memory > 0 for s in await any_host.usage())

    await wait_for(busy, "no sample ever showed a busy task")


async def test_a_ray_program_that_the_pool_does_not_trust_is_refused_with_a_reason(
    any_host: Host, folder: Path
) -> None:
    one = shell(f"touch {folder}/ran", ray=RaySpec(), trusted=False)
    end = await any_host.run(one)
    assert end.exit_code == 3003
    assert end.reason is not None
    assert end.reason.code == "UntrustedPool"
    assert not (folder / "ran").exists()
