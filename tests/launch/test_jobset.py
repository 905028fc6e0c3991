"""The JobSet manifests against the part of the v1alpha2 schema that they use."""

import re
from typing import Any

import pytest
import yaml

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


class Map(dict):
    """An object with these keys; those ending in `!` are required."""


class Each(dict):
    """An object with any keys and values of one type."""


STRINGS = Each(value=str)
CONTAINER = Map(
    {
        "name!": str,
        "image!": str,
        "command": [str],
        "args": [str],
        "workingDir": str,
        "env": [Map({"name!": str, "value": str, "valueFrom": dict})],
        "ports": [Map({"containerPort!": int})],
        "resources": Map({"limits": STRINGS, "requests": STRINGS}),
        "volumeMounts": [Map({"name!": str, "mountPath!": str})],
    }
)
POD = Map(
    {
        "restartPolicy!": ("Never", "OnFailure"),
        "terminationGracePeriodSeconds": int,
        "nodeSelector": STRINGS,
        "containers!": [CONTAINER],
        "volumes": [
            Map(
                {
                    "name!": str,
                    "persistentVolumeClaim": Map({"claimName!": str}),
                    "emptyDir": Map({"medium": str}),
                }
            )
        ],
    }
)
JOB = Map(
    {
        "parallelism": int,
        "completions": int,
        "completionMode": ("Indexed", "NonIndexed"),
        "backoffLimit": int,
        "template!": Map({"metadata": dict, "spec!": POD}),
    }
)
JOBSET = Map(
    {
        "apiVersion!": ("jobset.x-k8s.io/v1alpha2",),
        "kind!": ("JobSet",),
        "metadata!": Map({"name!": str, "labels": STRINGS, "annotations": STRINGS}),
        "spec!": Map(
            {
                "suspend": bool,
                "network": Map(
                    {
                        "enableDNSHostnames": bool,
                        "subdomain": str,
                        "publishNotReadyAddresses": bool,
                    }
                ),
                "failurePolicy": Map(
                    {
                        "maxRestarts": int,
                        "restartStrategy": ("Recreate", "BlockingRecreate"),
                        "rules": list,
                    }
                ),
                "successPolicy": Map(
                    {"operator!": ("All", "Any"), "targetReplicatedJobs": [str]}
                ),
                "startupPolicy": Map({"startupPolicyOrder!": ("AnyOrder", "InOrder")}),
                "coordinator": Map(
                    {"replicatedJob!": str, "jobIndex": int, "podIndex": int}
                ),
                "managedBy": str,
                "ttlSecondsAfterFinished": int,
                "replicatedJobs!": [
                    Map(
                        {
                            "name!": str,
                            "replicas": int,
                            "template!": Map({"metadata": dict, "spec!": JOB}),
                        }
                    )
                ],
            }
        ),
    }
)


def violations(value: Any, schema: Any, path: str = "") -> list[str]:
    if isinstance(schema, Map):
        if not isinstance(value, dict):
            return [f"{path} is no object"]
        known = {name.rstrip("!"): kind for name, kind in schema.items()}
        required = {name[:-1] for name in schema if name.endswith("!")}
        found = [f"{path}.{name} is unknown" for name in value.keys() - known.keys()]
        found += [f"{path}.{name} is missing" for name in required - value.keys()]
        for name in value.keys() & known.keys():
            found += violations(value[name], known[name], f"{path}.{name}")
        return found
    if isinstance(schema, Each):
        return [
            bad
            for name, entry in value.items()
            for bad in violations(entry, schema["value"], f"{path}.{name}")
        ]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [
            bad
            for index, entry in enumerate(value)
            for bad in violations(entry, schema[0], f"{path}[{index}]")
        ]
    if isinstance(schema, tuple):
        return [] if value in schema else [f"{path} is {value!r}, not of {schema}"]
    return [] if type(value) is schema else [f"{path} is {value!r}, no {schema}"]


@pytest.fixture(params=sorted(KINDS))
def manifest(request, launch):
    variables = VARIABLES | KINDS[request.param]
    done = launch("gke.sh", "--dry-run", request.param, *TRAIN, **variables)
    assert done.returncode == 0, done.stderr
    assert "${" not in done.stdout
    return request.param, yaml.safe_load(done.stdout)


def test_manifest_follows_the_schema(manifest):
    assert violations(manifest[1], JOBSET) == []


def test_schema_sees_errors(manifest):
    broken = manifest[1]
    broken["spec"]["replicatedJobs"][0]["replicas"] = "1"
    broken["spec"]["maxRestarts"] = 3
    del broken["metadata"]["name"]
    assert sorted(violations(broken, JOBSET)) == [
        ".metadata.name is missing",
        ".spec.maxRestarts is unknown",
        ".spec.replicatedJobs[0].replicas is '1', no <class 'int'>",
    ]


def test_manifest_fits_together(manifest):
    kind, found = manifest
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
    assert container["args"] == TRAIN
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
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
