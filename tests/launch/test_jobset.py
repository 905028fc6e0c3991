"""The JobSet manifests against the v1alpha2 schema, as Kubeflow's generated models."""

import re

import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet as JobSet
from pydantic import ValidationError

from mplug2_jax.exits import WRONG

VARIABLES = {
    "IMAGE": "images/mplug2:1",
    "CLAIM": "bucket",
    "HOSTS": "4",
    "CHIPS": "4",
    "NAME": "run-1",
}
KINDS = {
    "tpu": {"ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"},
    "gpu": {"ACCELERATOR": "nvidia-h100-80gb", "CHIPS": "8"},
}
TRAIN = ["--config", "it's.py", "--workdir", "/shared/a run", "--config.steps=3"]


@pytest.fixture(params=sorted(KINDS))
def manifest(request, launch):
    variables = VARIABLES | KINDS[request.param]
    done = launch("gke.sh", "--dry-run", request.param, *TRAIN, **variables)
    assert done.returncode == 0, done.stderr
    assert "${" not in done.stdout
    return request.param, yaml.safe_load(done.stdout)


def understood(found: dict) -> dict:
    """What a cluster reads: without unknown keys, with what is missing.

    The models know names and types; values are `test_manifest_fits_together`'s.
    """
    return JobSet.from_dict(found).to_dict()


def test_manifest_follows_the_schema(manifest):
    assert understood(manifest[1]) == manifest[1]


def test_schema_sees_errors(manifest):
    _, found = manifest
    job = found["spec"]["replicatedJobs"][0]
    container = job["template"]["spec"]["template"]["spec"]["containers"][0]
    for at, unknown in (found["spec"], "maxRestarts"), (container, "workdir"):
        at[unknown] = 3
        assert understood(found) != found
        del at[unknown]
    del container["name"]
    assert understood(found) != found
    job["replicas"] = "1"
    with pytest.raises(ValidationError, match="(?s)replicas.*valid integer"):
        understood(found)


def test_manifest_fits_together(manifest):
    kind, found = manifest
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert found["kind"] == "JobSet"
    job = found["spec"]["replicatedJobs"][0]
    name = found["metadata"]["name"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    # A pod's host name has at most 63 letters, of lower case.
    host = f"{name}-{job['name']}-0-0"
    assert re.fullmatch(r"[a-z0-9-]{1,63}", host)
    assert spec["parallelism"] == spec["completions"] == 4
    assert spec["completionMode"] == "Indexed"
    assert container["image"] == VARIABLES["IMAGE"]
    assert container["args"] == TRAIN
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    # What another start would not mend ends the job, and that the set.
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [WRONG],
    }
    (rule,) = found["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert variables["WORKDIR"] == "/shared/a run"
    # Where data/ of the volume is what a configuration calls data/.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["workingDir"] == mounts["shared"] == "/shared"
    # The runtime's own has 64 MB, too little for workers that decode.
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts["memory"] == "/dev/shm"
    assert volumes["memory"]["emptyDir"] == {"medium": "Memory"}
    if kind == "gpu":
        assert variables["MPLUG2_COORDINATOR"] == f"{host}.{name}:8476"
        assert variables["MPLUG2_PROCESSES"] == "4"
        assert found["spec"]["network"]["enableDNSHostnames"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    else:
        assert container["resources"]["limits"] == {"google.com/tpu": "4"}


@pytest.mark.parametrize("state", ["", "Completed", "Failed"])
def test_a_set_that_has_ended_is_deleted_first(launch, stub, fake, state):
    answer = f'if [[ $1 == get ]]; then printf "{state}"; else cat; fi\n'
    stub("kubectl", f'echo "$*" >> "$FAKE/calls"\n{answer}')
    done = launch("gke.sh", "tpu", *TRAIN, **VARIABLES, **KINDS["tpu"])
    assert done.returncode == 0, done.stderr
    get, *delete, apply = (fake / "calls").read_text().splitlines()
    assert get.startswith("get jobset run-1 --ignore-not-found ")
    assert delete == ["delete jobset run-1 --cascade=foreground"] * bool(state)
    assert apply == "apply -f -"
    assert yaml.safe_load(done.stdout)["kind"] == "JobSet"


def test_nothing_is_applied_where_the_cluster_does_not_answer(launch, stub, fake):
    stub("kubectl", 'echo "$1" >> "$FAKE/calls"\nexit 1\n')
    done = launch("gke.sh", "tpu", *TRAIN, **VARIABLES, **KINDS["tpu"])
    assert done.returncode == 1
    assert (fake / "calls").read_text() == "get\n"


@pytest.mark.parametrize("workdir", ["/tmp/run", "/shared", "/shared2/run", "run"])
def test_workdir_must_be_in_the_volume(launch, workdir):
    train = ("--config", "c.py", f"--workdir={workdir}")
    done = launch("gke.sh", "--dry-run", "tpu", *train, **VARIABLES, **KINDS["tpu"])
    assert done.returncode == 2
    assert "expected a folder below /shared" in done.stderr
    assert len(done.stderr.splitlines()) == 1
