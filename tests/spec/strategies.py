"""Hypothesis strategies for whole, valid workflows."""

from __future__ import annotations

from hypothesis import strategies as st

from osmo_ray.spec.model import (
    Checkpoint,
    CodeInput,
    DatasetInput,
    DatasetOutput,
    FileSpec,
    GroupSpec,
    Kpi,
    RaySpec,
    RayWorkers,
    ResourceSpec,
    Sandbox,
    TaskInput,
    TaskSpec,
    Timeouts,
    Topology,
    UpdateDatasetOutput,
    UrlInput,
    UrlOutput,
    WorkflowSpec,
)

text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=12) | st.sampled_from(
    ["{{output}}", "a\nb\n", " x ", "yes", "1", "null", "'", '"', "- a", "#", "\t", "a: b", "{{host:a}}"]
)
word = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
seconds = st.floats(0.001, 1e6, allow_nan=False)
amount = st.sampled_from(["1Gi", "512Mi", "1.5G", "1048576"])
url = st.sampled_from(["s3://b", "gs://b/c/d", "azure://a/c/{{workflow_id}}"])
regex = st.sampled_from(["", ".*", r".*\.txt$", "[a-z]+"])
dataset = st.sampled_from(["d", "b/d", "b/d:v1", "d{{workflow_id}}"])
texts = st.lists(text, max_size=2).map(tuple)

inputs = st.one_of(
    st.builds(DatasetInput, dataset, regex, mount=st.booleans()),
    st.builds(UrlInput, url, regex),
    st.builds(CodeInput, st.just("0a" * 32)),
    st.builds(TaskInput, word, st.just("old-3"), regex),
)
outputs = st.one_of(
    st.builds(UrlOutput, url, regex),
    st.builds(DatasetOutput, dataset, text, regex, texts, texts),
    st.builds(UpdateDatasetOutput, dataset, texts, texts, texts),
)
resources = st.builds(
    ResourceSpec,
    cpu=st.none() | st.integers(0, 64),
    gpu=st.none() | st.integers(0, 8),
    memory=st.none() | amount,
    storage=st.none() | amount,
    platform=st.none() | word,
    nodes_excluded=st.lists(word, max_size=2).map(tuple),
    topology=st.just(()) | st.builds(lambda g, r: (Topology("rack", g, r),), word, st.booleans()),
)
rays = st.builds(
    RaySpec,
    st.dictionaries(word, st.lists(word, max_size=2), max_size=2),
    st.builds(RayWorkers, st.integers(0, 4), st.floats(0, 8), st.floats(0, 8), st.none() | amount),
)


def _files(paths: set[str]) -> st.SearchStrategy[tuple[FileSpec, ...]]:
    return st.tuples(*(st.builds(FileSpec, st.just(f"/tmp/{p}"), text) for p in sorted(paths)))


def tasks(name: str, lead: bool, earlier: list[str]) -> st.SearchStrategy[TaskSpec]:
    """A task that may read what `earlier` tasks wrote."""
    reads = st.builds(TaskInput, st.sampled_from(earlier), st.just(""), regex) if earlier else inputs
    return st.builds(
        TaskSpec,
        name=st.just(name),
        image=word,
        command=st.lists(text.filter(bool), min_size=1, max_size=2).map(tuple),
        args=texts,
        lead=st.just(lead),
        inputs=st.lists(inputs | reads, max_size=2).map(tuple),
        outputs=st.lists(outputs, max_size=2).map(tuple),
        kpis=st.lists(st.builds(Kpi, word, word), max_size=1).map(tuple),
        environment=st.dictionaries(word, text, max_size=2),
        files=st.sets(word, max_size=2).flatmap(_files),
        credentials=st.dictionaries(word, st.just("/dir") | st.dictionaries(word, word, max_size=2), max_size=1),
        resource=st.sampled_from(["default", "big"]),
        privileged=st.booleans(),
        host_network=st.booleans(),
        volume_mounts=st.lists(st.just("/a:/b"), max_size=1).map(tuple),
        checkpoint=st.lists(st.builds(Checkpoint, word, url, seconds, regex), max_size=1).map(tuple),
        exit_actions=st.dictionaries(st.sampled_from(["COMPLETE", "FAIL"]), st.just("1,3-5"), max_size=2),
        download_type=st.none() | st.just("download"),
        cache_size=st.none() | st.just("50%"),
        ray=st.none() | rays,
        sandbox=st.sampled_from(Sandbox),
        hold=st.floats(0, 100),
        retries=st.none() | st.integers(0, 100),
        requirements=st.lists(st.sampled_from(["numpy", "torch>=2,<3", "a[b]==1.0"]), max_size=2).map(tuple),
    )


@st.composite
def workflows(draw: st.DrawFn) -> WorkflowSpec:
    """A valid workflow of one to three groups."""
    groups: list[GroupSpec] = []
    earlier: list[str] = []
    for number in range(draw(st.integers(1, 3))):
        names = [f"t{number}-{i}" for i in range(draw(st.integers(1, 3)))]
        made = tuple(draw(tasks(name, i == 0, earlier)) for i, name in enumerate(names))
        groups.append(GroupSpec(f"g{number}", made, draw(st.booleans()), draw(st.booleans())))
        earlier += names
    return WorkflowSpec(
        name=draw(word),
        groups=tuple(groups),
        resources={"default": draw(resources), "big": draw(resources)},
        timeout=Timeouts(draw(st.none() | seconds), draw(st.none() | seconds)),
        labels=draw(st.dictionaries(word, word, max_size=2)),
    )
