"""The two ends of a task in a pod: what comes before the user's container, and what stands beside it.

    init    fills the shared folder: inputs, files, the launcher and what it shall run   (`before`)
    beside  keeps the log, opens the barrier, and after the launcher's end keeps the outputs and tells how it went

Both read one `Job` from a Secret that the user's container does not see. Orders come as a file that Kubernetes makes
of the pod's annotations; the result goes out as this container's termination message. So a pod needs no way to the
control plane, only to the storage. What is exported here is what whoever makes pods has to know.
"""

from osmo_ray.runtime.pod.job import files_to_json, job_from_json, job_to_json
from osmo_ray.runtime.pod.names import (
    LAUNCHER,
    MASKED,
    ORDERS,
    OWN_LAUNCHER,
    SECRET,
    SHARED,
    TASK_SEES,
    file_part,
    file_target,
    mountable,
    place,
    waits,
)

__all__ = [
    "LAUNCHER",
    "MASKED",
    "ORDERS",
    "OWN_LAUNCHER",
    "SECRET",
    "SHARED",
    "TASK_SEES",
    "file_part",
    "file_target",
    "files_to_json",
    "job_from_json",
    "job_to_json",
    "mountable",
    "place",
    "waits",
]
