"""The init container: everything that must be there when the command starts. No task runs yet."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from osmo_ray.runtime import reasons, work
from osmo_ray.runtime.codec import Job
from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.runtime.logs import Log
from osmo_ray.runtime.masking import Masker
from osmo_ray.runtime.place import Place, placed_datasets
from osmo_ray.runtime.pod.names import OWN_LAUNCHER, SHARED, file_target, place, waits
from osmo_ray.runtime.pod.patience import BEFORE, patiently
from osmo_ray.runtime.pod.telling import shipper, tell
from osmo_ray.runtime.spool import Folder, replace_file
from osmo_ray.spec.attempt import AttemptPlan
from osmo_ray.spec.reason import Reason
from osmo_ray.spec.tokens import Tokens, expand, variables


def before(job: Job, root: Path = Path(SHARED)) -> int:
    """Fill the shared folder. 1 with a message when something could not be had."""
    here = place(job, root)
    log = _open_log(here)
    try:
        _prepare(here, log, root)
    except RuntimeFailure as failure:
        reason = failure.reason.without(log.masker.whole)
        log.say(reason.sentence)
        work.finish(here, log, shipper(here), keeping=False)
        tell({"exit_code": failure.exit_code, "reason": reason.to_json(), "at": time.time()})
        return 1
    return 0


def environment(plan: AttemptPlan, tokens: Tokens) -> dict[str, str]:
    """What is added to the image's own environment, and to that of its credentials, which Kubernetes puts in."""
    values = {name: expand(text, tokens) for name, text in plan.environment.items()}
    return values | {
        "OSMO_WORKFLOW_ID": plan.workflow_id,
        "OSMO_GROUP": plan.group,
        "OSMO_TASK": plan.task,
        "OSMO_RETRY_ID": str(plan.key.retry_id),
        "OSMO_ATTEMPT": str(plan.key),
        "OSMO_OUTPUT": tokens.output,
        **placed_datasets(plan, tokens),
    }


def _open_log(here: Place) -> Log:
    """Anybody may write here: the user's container can run as any user."""
    os.umask(0)
    for folder in (here.folder.log.parent, here.folder.data_in, here.folder.data_out):
        folder.mkdir(parents=True, exist_ok=True)
    log = Log(here.folder.log, masker=Masker(here.job.plan.secrets.masked))
    log.open()
    here.folder.log.chmod(0o666)
    return log


def _prepare(here: Place, log: Log, root: Path) -> None:
    """Of credentials only the names of variables are known here: the launcher puts their values where a name stands
    between zero bytes, so that none is ever written down."""
    plan = here.job.plan
    if not plan.argv:
        raise RuntimeFailure(reasons.INVALID_COMMAND, Reason("NoCommand", "the task has no command"))
    if plan.secrets.missing:
        raise reasons.start_failed(plan.secrets.missing)
    tokens = here.tokens({})
    patiently(BEFORE, lambda: work.fetch(here, log), lambda: _empty(here.folder.data_in))
    _write_files(here, tokens, root)
    added = environment(plan, tokens)
    given = added | {name: f"\0{name}\0" for name in plan.secrets.environment}
    start = {
        "argv": [variables(expand(text, tokens), given) for text in plan.argv],
        "env": added,
        "barrier": waits(plan),
        "hold": plan.hold,
        "keep": bool(plan.checkpoints),
    }
    replace_file(root / "run/start.json", json.dumps(start))
    (root / "run/start.json").chmod(0o644)
    (root / "run/lock").touch(0o666)
    _place_launcher(root)


def _empty(folder: Path) -> None:
    """Some inputs go only into folders that are."""
    for one in folder.iterdir():
        shutil.rmtree(one)


def _place_launcher(root: Path) -> None:
    """The image has it beside this program; the user's container finds it in the shared folder."""
    target = root / "bin/launcher"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(os.environ.get("OSMO_LAUNCHER", OWN_LAUNCHER), target)
    target.chmod(0o755)


def _write_files(here: Place, tokens: Tokens, root: Path) -> None:
    spooled = Place(Folder(root / "run"), here.job, None).write_files(tokens)
    for file, (_, source) in zip(here.job.plan.files, spooled, strict=True):
        kind, target = file_target(file.path, tokens)
        if kind == "refused":
            raise reasons.bad_file(file.path, target)
        if kind == "output":
            own = here.folder.data_out / target
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, own)
